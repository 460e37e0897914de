import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.io.BufferedReader;
import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.io.InputStreamReader;
import java.security.ProtectionDomain;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.SynchronousQueue;
import java.util.jar.JarFile;
import org.postgresql.util.DriverInfo;

/** A HikariCP client that does what it is told, line by line: see ../README.md. */
public final class Main {
    /** Requests of one user come at a pace; without it no connection would ever sit. */
    private static final long PACE_MILLIS = 100;

    /** ... and come back after a while. */
    private static final long LATER_MILLIS = 1200;

    /** Shorter than the tests' threshold. */
    private static final long SHORT_CALL_MILLIS = 400;

    private interface Step {
        void run() throws Exception;
    }

    private final Properties options = new Properties();
    private final List<Object> kept = new ArrayList<>();
    private final ExecutorService tasks =
            Executors.newCachedThreadPool(
                    task -> {
                        Thread thread = new Thread(task);
                        thread.setDaemon(true);
                        return thread;
                    });
    private HikariDataSource pool;

    /** Pool options on the command line, for example minimumIdle=0. */
    private Main(String[] arguments) {
        for (String argument : arguments) {
            String[] option = argument.split("=", 2);
            options.setProperty(option[0], option[1]);
        }
    }

    private static String url() {
        return String.format(
                "jdbc:postgresql://%s:%s/%s?user=%s&sslmode=%s",
                System.getenv("PGHOST"),
                System.getenv("PGPORT"),
                System.getenv("PGDATABASE"),
                System.getenv("PGUSER"),
                System.getenv("PGSSLMODE"));
    }

    private HikariDataSource newPool() {
        HikariConfig config = new HikariConfig(options);
        config.setJdbcUrl(url());
        return new HikariDataSource(config);
    }

    private HikariDataSource pool() {
        if (pool == null) {
            pool = newPool();
        }
        return pool;
    }

    private static void repeat(int count, Step step) throws Exception {
        for (int i = 0; i < count; i++) {
            step.run();
            Thread.sleep(PACE_MILLIS);
        }
    }

    private void leak(String shape) throws Exception {
        switch (shape) {
            case "forgotten" -> Leaks.forgottenClose(pool());
            case "early_return" -> {
                // A good call for each bad one: the path leaks sometimes.
                Leaks.earlyReturn(pool(), 1);
                Thread.sleep(PACE_MILLIS);
                Leaks.earlyReturn(pool(), 1000);
            }
            case "throw" -> {
                Leaks.throwBeforeClose(pool(), "42");
                Thread.sleep(PACE_MILLIS);
                try {
                    Leaks.throwBeforeClose(pool(), "forty-two");
                    throw new IllegalStateException("the broken number was parsed");
                } catch (NumberFormatException expected) {
                    // Nobody closes the connection.
                }
            }
            case "cancelled" -> {
                SynchronousQueue<String> turns = new SynchronousQueue<>();
                CountDownLatch taken = new CountDownLatch(2);
                Future<?> good = tasks.submit(() -> Leaks.cancelledTask(pool(), taken, turns));
                turns.put("yours");
                good.get();
                Thread.sleep(PACE_MILLIS);
                Future<?> task = tasks.submit(() -> Leaks.cancelledTask(pool(), taken, turns));
                taken.await();
                task.cancel(true);
            }
            case "rows" -> Leaks.rowsNotClosed(pool());
            case "transaction" -> Leaks.transactionNotEnded(pool());
            case "returned_in_transaction" -> Leaks.returnedInTransaction(pool());
            case "never_used" -> Leaks.neverUsed(pool());
            case "pool" -> Leaks.poolForOneRequest(this::newPool);
            default -> throw new IllegalArgumentException("no shape " + shape);
        }
    }

    /** So many at the same time, all given back. */
    private void burst(int count) throws SQLException {
        List<Connection> connections = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            connections.add(pool().getConnection());
        }
        for (Connection connection : connections) {
            connection.createStatement().execute("select 1");
        }
        for (Connection connection : connections) {
            connection.close();
        }
    }

    /** In the background, for good. */
    private void task(Step step) {
        tasks.submit(
                () -> {
                    try {
                        step.run();
                    } catch (Exception error) {
                        System.out.println("error " + error);
                    }
                    return null;
                });
    }

    /** One connection held by somebody who uses it all the time; answered when it was used. */
    private void busy() throws Exception {
        CountDownLatch used = new CountDownLatch(1);
        task(
                () -> {
                    try (Connection connection = pool().getConnection()) {
                        for (; ; ) {
                            connection.createStatement().execute("select 1");
                            used.countDown();
                            Thread.sleep(PACE_MILLIS);
                        }
                    }
                });
        used.await();
    }

    /** The call to somebody else never comes back; answered when it is made. */
    private void outside(int count) throws Exception {
        CountDownLatch never = new CountDownLatch(1);
        outside(count, never::await);
    }

    /** The same over the network: somebody takes every call and answers none. */
    private void unanswered(int count) throws Exception {
        ServerSocket silent = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
        outside(
                count,
                () -> {
                    try (Socket call = new Socket(silent.getInetAddress(), silent.getLocalPort())) {
                        call.getInputStream().read();
                    }
                });
    }

    private void outside(int count, Step call) throws Exception {
        CountDownLatch called = new CountDownLatch(count);
        for (int i = 0; i < count; i++) {
            task(
                    () ->
                            Leaks.outsideCall(
                                    pool(),
                                    () -> {
                                        called.countDown();
                                        try {
                                            call.run();
                                        } catch (Exception failed) {
                                            throw new IllegalStateException(failed);
                                        }
                                    }));
            Thread.sleep(PACE_MILLIS);
            Healthy.tryWithResources(pool());
        }
        called.await();
    }

    private static void shortCall() {
        try {
            Thread.sleep(SHORT_CALL_MILLIS);
        } catch (InterruptedException interrupted) {
            throw new IllegalStateException(interrupted);
        }
    }

    /** A connection for each of so many threads, without a pool; each used once. */
    private void threads(int count) throws Exception {
        CountDownLatch used = new CountDownLatch(count);
        for (int i = 0; i < count; i++) {
            task(
                    () -> {
                        try (Connection connection = DriverManager.getConnection(url())) {
                            connection.createStatement().execute("select 1");
                            used.countDown();
                            Thread.sleep(Long.MAX_VALUE);
                        }
                    });
        }
        used.await();
    }

    /** The pool opens what it keeps idle. */
    private void prefill() throws InterruptedException {
        while (pool().getHikariPoolMXBean().getTotalConnections() < pool().getMinimumIdle()) {
            Thread.sleep(10);
        }
    }

    private void carryOut(String[] words) throws Exception {
        int count = words.length > 1 ? Integer.parseInt(words[words.length - 1]) : 0;
        switch (words[0]) {
            // A healthy request follows, finds the pool empty and opens a connection.
            case "leak" ->
                    repeat(
                            count,
                            () -> {
                                leak(words[1]);
                                Thread.sleep(PACE_MILLIS);
                                Healthy.tryWithResources(pool());
                            });
            case "leak_alone" -> repeat(count, () -> leak(words[1]));
            case "healthy" -> repeat(count, () -> Healthy.tryWithResources(pool()));
            case "transaction" -> repeat(count, () -> Healthy.transaction(pool()));
            case "no_commit" -> repeat(count, () -> Healthy.closedWithoutCommit(pool()));
            case "first_row" -> repeat(count, () -> Healthy.firstRow(pool()));
            case "is_valid" -> repeat(count, () -> Healthy.isValid(pool()));
            case "pool_closed" ->
                    repeat(
                            count,
                            () -> {
                                try (HikariDataSource own = newPool()) {
                                    Healthy.tryWithResources(own);
                                }
                            });
            case "burst" -> burst(count);
            case "overlap" -> {
                Thread.sleep(LATER_MILLIS);
                burst(count);
            }
            case "prefill" -> prefill();
            case "later" -> Thread.sleep(LATER_MILLIS);
            case "busy" -> busy();
            case "outside" -> outside(count);
            case "unanswered" -> unanswered(count);
            case "outside_short" ->
                    repeat(count, () -> Leaks.outsideCall(pool(), Main::shortCall));
            // The limit of 30 s is checked when a pool is made, and not later.
            case "lifetime" -> {
                pool().setMaxLifetime(count);
                pool().getHikariPoolMXBean().softEvictConnections();
            }
            case "listen" -> Healthy.listen(pool());
            case "advisory_lock" -> Healthy.advisoryLock(pool(), count);
            case "copy" -> kept.add(Healthy.copyIn(pool()));
            case "hold_query" -> task(() -> Healthy.longQuery(pool(), count));
            case "threads" -> threads(count);
            default -> throw new IllegalArgumentException("no command " + words[0]);
        }
    }

    /** As the manifest of its jar says. */
    private static String versionOfHikari() throws IOException {
        ProtectionDomain domain = HikariDataSource.class.getProtectionDomain();
        try (JarFile file = new JarFile(domain.getCodeSource().getLocation().getPath())) {
            return file.getManifest().getMainAttributes().getValue("Bundle-Version");
        }
    }

    public static void main(String[] arguments) throws Exception {
        Main main = new Main(arguments);
        System.out.printf(
                "ready %d HikariCP %s, pgjdbc %s, Java %s%n",
                ProcessHandle.current().pid(),
                versionOfHikari(),
                DriverInfo.DRIVER_VERSION,
                System.getProperty("java.version"));
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            if (line.equals("quit")) {
                break;
            }
            try {
                main.carryOut(line.trim().split("\\s+"));
                System.out.println("done " + line);
            } catch (Exception error) {
                System.out.println("error " + error);
            }
        }
        System.exit(0);
    }
}

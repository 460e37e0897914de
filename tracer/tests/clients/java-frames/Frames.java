import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.sql.SQLException;
import java.util.concurrent.Callable;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import shop.LeakyService;

/** A HikariCP client whose stacks are hard to read, for every Java from 11: see ../README.md. */
public final class Frames {
    private static final long PACE_MILLIS = 100;
    private static final long LATER_MILLIS = 1200;
    private static final int DEPTH = 50;

    private final HikariDataSource pool;
    private final LeakyService service;
    private final ExecutorService tasks =
            Executors.newCachedThreadPool(
                    task -> {
                        Thread thread = new Thread(task);
                        thread.setDaemon(true);
                        return thread;
                    });

    private Frames() {
        HikariConfig config = new HikariConfig();
        config.setJdbcUrl(
                String.format(
                        "jdbc:postgresql://%s:%s/%s?user=%s&sslmode=%s",
                        System.getenv("PGHOST"),
                        System.getenv("PGPORT"),
                        System.getenv("PGDATABASE"),
                        System.getenv("PGUSER"),
                        System.getenv("PGSSLMODE")));
        config.setMinimumIdle(0);
        config.setMaximumPoolSize(60);
        pool = new HikariDataSource(config);
        service = new LeakyService(pool);
    }

    private void use(String shape, boolean forget) throws Exception {
        switch (shape) {
            case "fetch":
                service.fetchInvoice(forget);
                break;
            case "hot":
                service.handle(forget);
                break;
            case "recursive":
                service.descend(DEPTH, forget);
                break;
            case "lambda":
                tasks.submit(service.task(forget)).get();
                break;
            case "letters":
                service.получить𝒳(forget);
                break;
            case "two":
                CyclicBarrier together = new CyclicBarrier(2);
                Future<?> other = tasks.submit(call(() -> service.second(together, forget)));
                service.first(together, forget);
                other.get();
                break;
            case "virtual":
                virtual(call(() -> service.fetchInvoice(forget)));
                break;
            default:
                throw new IllegalArgumentException("no shape " + shape);
        }
    }

    private interface Step {
        void run() throws Exception;
    }

    private static Callable<Void> call(Step step) {
        return () -> {
            step.run();
            return null;
        };
    }

    /** In a thread of its own, which Java has from 21. */
    private static void virtual(Callable<Void> task) throws Exception {
        Object made = Executors.class.getMethod("newVirtualThreadPerTaskExecutor").invoke(null);
        ExecutorService executor = (ExecutorService) made;
        executor.submit(task).get();
        executor.shutdown();
    }

    private void overlap(int count) throws SQLException, InterruptedException {
        Thread.sleep(LATER_MILLIS);
        java.sql.Connection[] connections = new java.sql.Connection[count];
        for (int i = 0; i < count; i++) {
            connections[i] = pool.getConnection();
        }
        for (java.sql.Connection connection : connections) {
            connection.createStatement().execute("select 1");
            connection.close();
        }
    }

    private void carryOut(String[] words) throws Exception {
        int count = Integer.parseInt(words[words.length - 1]);
        switch (words[0]) {
            case "leak":
                for (int i = 0; i < count; i++) {
                    use(words[1], true);
                    Thread.sleep(PACE_MILLIS);
                    use("fetch", false);
                    Thread.sleep(PACE_MILLIS);
                }
                break;
            case "healthy":
                for (int i = 0; i < count; i++) {
                    use(words[1], false);
                    Thread.sleep(PACE_MILLIS);
                }
                break;
            case "warm":
                for (int i = 0; i < count; i++) {
                    use(words[1], false);
                }
                break;
            case "overlap":
                overlap(count);
                break;
            default:
                throw new IllegalArgumentException("no command " + words[0]);
        }
    }

    public static void main(String[] arguments) throws Exception {
        Frames frames = new Frames();
        System.out.printf(
                "ready %d HikariCP, pgjdbc, Java %s%n",
                ProcessHandle.current().pid(), System.getProperty("java.version"));
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            if (line.equals("quit")) {
                break;
            }
            try {
                frames.carryOut(line.trim().split("\\s+"));
                System.out.println("done " + line);
            } catch (Exception error) {
                System.out.println("error " + error);
            }
        }
        System.exit(0);
    }
}

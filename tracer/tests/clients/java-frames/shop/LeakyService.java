package shop;

import java.sql.Connection;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.concurrent.BrokenBarrierException;
import java.util.concurrent.Callable;
import java.util.concurrent.CyclicBarrier;
import javax.sql.DataSource;

/** Connections that are not given back; the line that used them last is marked. */
public final class LeakyService {
    private final DataSource pool;

    public LeakyService(DataSource pool) {
        this.pool = pool;
    }

    public int fetchInvoice(boolean forget) throws SQLException {
        Connection connection = pool.getConnection();
        ResultSet rows = connection.createStatement().executeQuery("select 1"); // LEAK-LINE fetch
        rows.next();
        int invoice = rows.getInt(1);
        if (!forget) {
            connection.close();
        }
        return invoice;
    }

    /** What calls it is compiled, and it within that. */
    private static int send(Connection connection) throws SQLException {
        Statement statement = connection.createStatement();
        return number(statement.executeQuery("select 2")); // LEAK-LINE hot
    }

    private static int number(ResultSet rows) throws SQLException {
        rows.next();
        return rows.getInt(1);
    }

    public int handle(boolean forget) throws SQLException {
        Connection connection = pool.getConnection();
        int number = send(connection); // LEAK-LINE handle
        if (!forget) {
            connection.close();
        }
        return number;
    }

    /** Calls itself, and uses the connection at the end. */
    public int descend(int depth, boolean forget) throws SQLException {
        if (depth > 0) {
            return descend(depth - 1, forget) + 1;
        }
        Connection connection = pool.getConnection();
        Statement statement = connection.createStatement();
        statement.execute("select 3"); // LEAK-LINE recursive
        if (!forget) {
            connection.close();
        }
        return 0;
    }

    public Callable<Boolean> task(boolean forget) {
        return () -> {
            Connection connection = pool.getConnection();
            Statement statement = connection.createStatement();
            boolean done = statement.execute("select 4"); // LEAK-LINE lambda
            if (!forget) {
                connection.close();
            }
            return done;
        };
    }

    /** Letters beyond ASCII, and one beyond 16 bits. */
    public void получить𝒳(boolean forget) throws SQLException {
        Connection connection = pool.getConnection();
        connection.createStatement().execute("select 5"); // LEAK-LINE letters
        if (!forget) {
            connection.close();
        }
    }

    public void first(CyclicBarrier together, boolean forget) throws Exception {
        Connection connection = pool.getConnection();
        await(together);
        connection.createStatement().execute("select 6"); // LEAK-LINE first
        if (!forget) {
            connection.close();
        }
    }

    public void second(CyclicBarrier together, boolean forget) throws Exception {
        Connection connection = pool.getConnection();
        await(together);
        connection.createStatement().execute("select 6"); // LEAK-LINE second
        if (!forget) {
            connection.close();
        }
    }

    private static void await(CyclicBarrier together) throws InterruptedException {
        try {
            together.await();
        } catch (BrokenBarrierException error) {
            throw new IllegalStateException(error);
        }
    }
}

import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CountDownLatch;
import java.util.function.Supplier;
import javax.sql.DataSource;

/** The ways a connection does not come back. Each method is one shape of the bug. */
final class Leaks {
    private Leaks() {}

    /** The plain one: nobody wrote the close. */
    static int forgottenClose(DataSource pool) throws SQLException {
        Connection connection = pool.getConnection();
        ResultSet rows = connection.createStatement().executeQuery("select 41 + 1");
        rows.next();
        return rows.getInt(1);
    }

    /** Comes back for the ids that exist; the early return skips the close. */
    static Integer earlyReturn(DataSource pool, int id) throws SQLException {
        Connection connection = pool.getConnection();
        PreparedStatement statement =
                connection.prepareStatement("select g from generate_series(1, 3) g where g = ?");
        statement.setInt(1, id);
        ResultSet rows = statement.executeQuery();
        if (!rows.next()) {
            return null;
        }
        int found = rows.getInt(1);
        connection.close();
        return found;
    }

    /** Comes back unless the stored text is no number. */
    static int throwBeforeClose(DataSource pool, String text) throws SQLException {
        Connection connection = pool.getConnection();
        PreparedStatement statement = connection.prepareStatement("select ?::text");
        statement.setString(1, text);
        ResultSet rows = statement.executeQuery();
        rows.next();
        int number = Integer.parseInt(rows.getString(1));
        connection.close();
        return number;
    }

    /** Comes back unless somebody cancels the task while it waits for its turn. */
    static void cancelledTask(
            DataSource pool, CountDownLatch taken, BlockingQueue<String> turns) {
        try {
            Connection connection = pool.getConnection();
            connection.createStatement().execute("select 1");
            taken.countDown();
            turns.take();
            connection.close();
        } catch (InterruptedException cancelled) {
            Thread.currentThread().interrupt();
        } catch (SQLException error) {
            throw new IllegalStateException(error);
        }
    }

    /** A cursor of which one row is read; neither the rows nor anything else is closed. */
    static int rowsNotClosed(DataSource pool) throws SQLException {
        Connection connection = pool.getConnection();
        connection.setAutoCommit(false);
        Statement statement = connection.createStatement();
        statement.setFetchSize(10);
        ResultSet rows = statement.executeQuery("select g from generate_series(1, 1000) g");
        rows.next();
        return rows.getInt(1);
    }

    /** A transaction that is neither committed nor rolled back. */
    static void transactionNotEnded(DataSource pool) throws SQLException {
        Connection connection = pool.getConnection();
        connection.setAutoCommit(false);
        connection.createStatement().execute("select 1");
    }

    /** Taken out of the pool and not even used. */
    static void neverUsed(DataSource pool) throws SQLException {
        pool.getConnection();
    }

    /** Comes back in a transaction that the pool does not know of. */
    static void returnedInTransaction(DataSource pool) throws SQLException {
        try (Connection connection = pool.getConnection();
                Statement statement = connection.createStatement()) {
            statement.execute("begin");
            statement.execute("select 1");
        }
    }

    /** A pool for one request, and nobody closes it. */
    static void poolForOneRequest(Supplier<DataSource> newPool) throws SQLException {
        Healthy.tryWithResources(newPool.get());
    }

    /** Held while somebody else is asked, who takes his time. */
    static void outsideCall(DataSource pool, Runnable call) throws SQLException {
        try (Connection connection = pool.getConnection()) {
            connection.createStatement().execute("select 1");
            call.run(); // LEAK-LINE stuck
            connection.createStatement().execute("select 2");
        }
    }
}

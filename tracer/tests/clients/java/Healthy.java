import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import javax.sql.DataSource;
import org.postgresql.PGConnection;
import org.postgresql.copy.CopyIn;
import org.postgresql.copy.CopyManager;

/** The same work done right. Nothing in this file may ever be reported. */
final class Healthy {
    private Healthy() {}

    static void tryWithResources(DataSource pool) throws SQLException {
        try (Connection connection = pool.getConnection();
                Statement statement = connection.createStatement();
                ResultSet rows = statement.executeQuery("select 1")) {
            rows.next();
        }
    }

    static void transaction(DataSource pool) throws SQLException {
        try (Connection connection = pool.getConnection()) {
            connection.setAutoCommit(false);
            try (Statement statement = connection.createStatement()) {
                statement.execute("select 1");
                connection.commit();
            } catch (SQLException error) {
                connection.rollback();
                throw error;
            }
        }
    }

    /** Read with autocommit off and closed: the pool rolls back. */
    static void closedWithoutCommit(DataSource pool) throws SQLException {
        try (Connection connection = pool.getConnection()) {
            connection.setAutoCommit(false);
            connection.createStatement().execute("select 1");
        }
    }

    /** A cursor of which one row is wanted. */
    static void firstRow(DataSource pool) throws SQLException {
        try (Connection connection = pool.getConnection()) {
            connection.setAutoCommit(false);
            try (Statement statement = connection.createStatement()) {
                statement.setFetchSize(10);
                try (ResultSet rows =
                        statement.executeQuery("select g from generate_series(1, 1000) g")) {
                    rows.next();
                }
            }
            connection.commit();
        }
    }

    /** Held while the server works: active, however long. */
    static void longQuery(DataSource pool, double seconds) throws SQLException {
        try (Connection connection = pool.getConnection();
                PreparedStatement statement = connection.prepareStatement("select pg_sleep(?)")) {
            statement.setDouble(1, seconds);
            statement.execute();
        }
    }

    /** Held for ever on purpose: notifications come when they come. */
    static void listen(DataSource pool) throws SQLException {
        pool.getConnection().createStatement().execute("listen orders");
    }

    /** Held for ever on purpose: the session is the lock. */
    static void advisoryLock(DataSource pool, long key) throws SQLException {
        Connection connection = pool.getConnection();
        PreparedStatement statement = connection.prepareStatement("select pg_advisory_lock(?)");
        statement.setLong(1, key);
        statement.execute();
    }

    /** A COPY FROM STDIN that has got one row and waits for more. */
    static CopyIn copyIn(DataSource pool) throws SQLException {
        Connection connection = pool.getConnection();
        connection.createStatement().execute("create temporary table copied (n int)");
        CopyManager copies = connection.unwrap(PGConnection.class).getCopyAPI();
        CopyIn copy = copies.copyIn("copy copied from stdin");
        byte[] row = "1\n".getBytes(StandardCharsets.US_ASCII);
        copy.writeToCopy(row, 0, row.length);
        copy.flushCopy();
        return copy;
    }

    /** What a pool's keepalive and an application's health check do. */
    static void isValid(DataSource pool) throws SQLException {
        try (Connection connection = pool.getConnection()) {
            if (!connection.isValid(5)) {
                throw new SQLException("not valid");
            }
        }
    }
}

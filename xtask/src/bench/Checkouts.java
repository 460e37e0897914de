import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;

/** Sequential queries on a connection: reads `count NUMBER`, answers when so many are done. */
public class Checkouts {
    private static void query(PreparedStatement statement) throws Exception {
        statement.execute();
    }

    private static void request(PreparedStatement statement, int count) throws Exception {
        for (int i = 0; i < count; i++) {
            query(statement);
        }
    }

    public static void main(String[] args) throws Exception {
        String url = "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT")
            + "/" + System.getenv("PGDATABASE") + "?user=" + System.getenv("PGUSER");
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        try (Connection connection = DriverManager.getConnection(url);
                PreparedStatement statement = connection.prepareStatement("select 1")) {
            request(statement, 1);
            System.out.println("ready");
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                request(statement, Integer.parseInt(line.split(" ")[1]));
                System.out.println("done");
            }
        }
    }
}

/* A libpq client that does what it is told, line by line: see ../README.md. */

#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Frames that reports must name stay frames. */
#define FRAME __attribute__((noinline, noclone))

/* Users come back after a while. */
#define LATER_MICROSECONDS 1200000

static void check(PGconn *conn, int ok)
{
    if (!ok) {
        printf("error %s", PQerrorMessage(conn));
        exit(1);
    }
}

FRAME static void use(PGconn *conn, const char *sql)
{
    PGresult *result = PQexec(conn, sql);
    ExecStatusType status = PQresultStatus(result);
    check(conn, status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK);
    PQclear(result);
}

/* --- leaky: nobody has the connection when these return --- */

FRAME static void forget_connection(void)
{
    PGconn *conn = PQconnectdb("");
    check(conn, PQstatus(conn) == CONNECTION_OK);
    PGresult *result = PQexec(conn, "select 41 + 1"); /* LEAK-LINE forgotten */
    check(conn, PQresultStatus(result) == PGRES_TUPLES_OK);
    PQclear(result);
}

FRAME static void forget_transaction(void)
{
    PGconn *conn = PQconnectdb("");
    check(conn, PQstatus(conn) == CONNECTION_OK);
    use(conn, "begin");
    PGresult *result = PQexec(conn, "select 41 + 1"); /* LEAK-LINE transaction */
    check(conn, PQresultStatus(result) == PGRES_TUPLES_OK);
    PQclear(result);
}

FRAME static void handle_order(const char *shape)
{
    if (strcmp(shape, "forgotten") == 0)
        forget_connection();
    else
        forget_transaction();
    /* Not a tail call: this frame is in the stacks too. */
    fflush(stdout);
}

/* --- healthy --- */

FRAME static void connect_finish(void)
{
    PGconn *conn = PQconnectdb("");
    check(conn, PQstatus(conn) == CONNECTION_OK);
    use(conn, "begin");
    use(conn, "select 41 + 1");
    use(conn, "commit");
    PQfinish(conn);
}

/* One for the life of the program. */
static PGconn *kept;

static void keep(void)
{
    if (kept == NULL) {
        kept = PQconnectdb("");
        check(kept, PQstatus(kept) == CONNECTION_OK);
    }
    use(kept, "select 1");
}

static int carry_out(const char *line)
{
    char verb[32] = "", first[32] = "", second[32] = "";
    sscanf(line, "%31s %31s %31s", verb, first, second);
    if (strcmp(verb, "leak") == 0)
        for (int i = 0; i < atoi(second); i++)
            handle_order(first);
    else if (strcmp(verb, "healthy") == 0)
        for (int i = 0; i < atoi(first); i++)
            connect_finish();
    else if (strcmp(verb, "keep") == 0)
        keep();
    else if (strcmp(verb, "later") == 0)
        usleep(LATER_MICROSECONDS);
    else
        return 0;
    return 1;
}

/* Commands in the arguments are carried out first. */
int main(int count, char **arguments)
{
    char line[128];
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 1; i < count; i++)
        carry_out(arguments[i]);
    printf("ready %d\n", (int)getpid());
    while (fgets(line, sizeof line, stdin) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        if (strcmp(line, "quit") == 0)
            break;
        if (carry_out(line))
            printf("done %s\n", line);
        else
            printf("error no command %s\n", line);
    }
    return 0;
}

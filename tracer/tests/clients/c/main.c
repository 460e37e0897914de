/* A libpq client that does what it is told, line by line: see ../README.md. */

#include <libpq-fe.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Frames that reports must name stay frames. */
#define FRAME __attribute__((noinline, noclone))

/* Requests of one user come at a pace; without it no connection would ever sit. */
#define PACE_MICROSECONDS 100000

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
    PGresult *result = PQexec(conn, "begin"); /* LEAK-LINE transaction */
    check(conn, PQresultStatus(result) == PGRES_COMMAND_OK);
    PQclear(result);
    result = PQexec(conn, "select 41 + 1");
    check(conn, PQresultStatus(result) == PGRES_TUPLES_OK);
    PQclear(result);
}

FRAME static void forget_result(void)
{
    PGconn *conn = PQconnectdb("");
    check(conn, PQstatus(conn) == CONNECTION_OK);
    const char *sql = "select g from generate_series(1, 100000) g";
    check(conn, PQsendQuery(conn, sql)); /* LEAK-LINE result */
    check(conn, PQsetSingleRowMode(conn));
    PGresult *result = PQgetResult(conn);
    check(conn, PQresultStatus(result) == PGRES_SINGLE_TUPLE);
    PQclear(result);
}

FRAME static void forget_unused(void)
{
    check(NULL, PQstatus(PQconnectdb("")) == CONNECTION_OK); /* LEAK-LINE never_used */
}

/* --- held by a thread that somebody outside keeps waiting --- */

static int outside[2];
static sem_t held;

FRAME static void ask_outside(void)
{
    char answer = 0;
    check(NULL, read(outside[0], &answer, 1) == 1); /* LEAK-LINE ask */
}

FRAME static void charge_order(void)
{
    PGconn *conn = PQconnectdb("");
    check(conn, PQstatus(conn) == CONNECTION_OK);
    PGresult *result = PQexec(conn, "begin"); /* LEAK-LINE charge */
    check(conn, PQresultStatus(result) == PGRES_COMMAND_OK);
    PQclear(result);
    sem_post(&held);
    ask_outside(); /* LEAK-LINE stuck */
    PQfinish(conn);
}

static void *serve(void *nothing)
{
    charge_order();
    return nothing;
}

/* Done when the connection is held. */
static void charge(void)
{
    pthread_t thread;
    check(NULL, pipe(outside) == 0 && sem_init(&held, 0, 0) == 0);
    check(NULL, pthread_create(&thread, NULL, serve, NULL) == 0);
    sem_wait(&held);
}

FRAME static void handle_order(const char *shape)
{
    if (strcmp(shape, "forgotten") == 0)
        forget_connection();
    else if (strcmp(shape, "result") == 0)
        forget_result();
    else if (strcmp(shape, "never_used") == 0)
        forget_unused();
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

/* As many as a pool of the program's own may have. */
#define MOST 16
static PGconn *spare[MOST];

/* Reconnects each of them in turn, over the same PGconn, and uses it. */
static void reconnect(int count)
{
    for (int i = 0; i < count && i < MOST; i++) {
        if (spare[i] == NULL)
            spare[i] = PQconnectdb("");
        else
            PQreset(spare[i]);
        check(spare[i], PQstatus(spare[i]) == CONNECTION_OK);
        use(spare[i], "select 1");
        usleep(PACE_MICROSECONDS);
    }
}

/* Held for ever on purpose. */
static void hold(const char *sql)
{
    PGconn *conn = PQconnectdb("");
    check(conn, PQstatus(conn) == CONNECTION_OK);
    use(conn, sql);
}

/* A COPY FROM STDIN that has got one row and waits for more. */
static void copy_in(void)
{
    PGconn *conn = PQconnectdb("");
    check(conn, PQstatus(conn) == CONNECTION_OK);
    use(conn, "create temporary table copied (n int)");
    PGresult *result = PQexec(conn, "copy copied from stdin");
    check(conn, PQresultStatus(result) == PGRES_COPY_IN);
    PQclear(result);
    check(conn, PQputCopyData(conn, "1\n", 2) == 1 && PQflush(conn) == 0);
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
    else if (strcmp(verb, "charge") == 0)
        charge();
    else if (strcmp(verb, "keep") == 0)
        keep();
    else if (strcmp(verb, "reconnect") == 0)
        reconnect(atoi(first));
    else if (strcmp(verb, "listen") == 0)
        hold("listen orders");
    else if (strcmp(verb, "advisory_lock") == 0)
        hold("select pg_advisory_lock(7)");
    else if (strcmp(verb, "copy") == 0)
        copy_in();
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
    printf("ready %d libpq %d.%d\n", (int)getpid(), PQlibVersion() / 10000, PQlibVersion() % 10000);
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

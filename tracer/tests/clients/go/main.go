// A Go client that does what it is told, line by line: see ../README.md.
package main

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	_ "github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v4/pgxpool"
	_ "github.com/jackc/pgx/v4/stdlib"
)

const pace = 100 * time.Millisecond

// What differs between servers: the driver, where the server is, and statements.
type server struct {
	driver            string
	source            func() string
	rows, sleep, same string
}

var postgres = server{
	driver: "postgres",
	// Everything comes from the PG* variables.
	source: func() string { return "" },
	rows:   "select g from generate_series(1, 100) g",
	sleep:  "select pg_sleep($1)",
	same:   "select $1::int",
}

var mysql = server{
	driver: "mysql",
	source: func() string {
		return fmt.Sprintf("root@tcp(%s:%s)/information_schema", os.Getenv("MYSQL_HOST"), os.Getenv("MYSQL_TCP_PORT"))
	},
	rows:  "with recursive s as (select 1 n union all select n + 1 from s where n < 100) select n from s",
	sleep: "select sleep(?)",
	same:  "select cast(? as signed)",
}

var dialect = postgres

func open() (*sql.DB, error) {
	return sql.Open(dialect.driver, dialect.source())
}

type client struct {
	ctx     context.Context
	db      *sql.DB
	pool    *pgxpool.Pool
	maxOpen int
}

// pgx returns the pgxpool, made when first asked for: it connects at once.
func (c *client) pgx() (*pgxpool.Pool, error) {
	if c.pool == nil {
		config, err := pgxpool.ParseConfig("")
		if err != nil {
			return nil, err
		}
		config.MaxConns = int32(c.maxOpen)
		if c.pool, err = pgxpool.ConnectConfig(c.ctx, config); err != nil {
			return nil, err
		}
	}
	return c.pool, nil
}

func (c *client) leak(shape string) error {
	switch shape {
	case "rows":
		_, err := leakRows(c.db, 1000)
		return expect(err, errNotFound)
	case "rows_unread":
		return leakRowsUnread(c.db)
	case "driver_rows":
		return leakDriverRows(c.ctx)
	case "tx":
		return expect(leakTx(c.db, 1000), errNotFound)
	case "conn":
		return leakConn(c.ctx, c.db)
	case "unused":
		return leakUnused(c.ctx, c.db)
	case "outside":
		return leakOutside(c.ctx, c.db)
	}
	pool, err := c.pgx()
	if err != nil {
		return err
	}
	switch shape {
	case "pgxpool":
		return leakPgxpool(c.ctx, pool)
	case "pgxpool_rows":
		return leakPgxpoolRows(c.ctx, pool)
	}
	return fmt.Errorf("no shape %s", shape)
}

func (c *client) healthy(shape string) error {
	switch shape {
	case "rows":
		return healthyRows(c.db)
	case "rows_unread":
		return healthyRowsUnread(c.db)
	case "driver_rows":
		return healthyDriverRows(c.ctx)
	case "tx":
		return healthyTx(c.db)
	case "conn":
		return healthyConn(c.ctx, c.db)
	}
	pool, err := c.pgx()
	if err != nil {
		return err
	}
	switch shape {
	case "pgxpool":
		return healthyPgxpool(c.ctx, pool)
	case "pgxpool_rows":
		return healthyPgxpoolRows(c.ctx, pool)
	}
	return fmt.Errorf("no shape %s", shape)
}

// ownPool makes a pool that is not the client's.
func (c *client) ownPool(how string) error {
	var err error
	switch how {
	case "new_pgxpool":
		return newPgxpool(c.ctx)
	case "closed_pool":
		_, err = closedPool(7)
	default:
		_, err = newPool(7)
	}
	return err
}

func expect(got, wanted error) error {
	if errors.Is(got, wanted) {
		return nil
	}
	return fmt.Errorf("wanted the error path (%v), got %v", wanted, got)
}

func repeat(count int, step func() error) error {
	for i := 0; i < count; i++ {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (c *client) run(words []string) error {
	word := func(i int) string {
		if i < len(words) {
			return words[i]
		}
		return ""
	}
	number := func(i int) int {
		n, err := strconv.Atoi(word(i))
		if err != nil {
			panic(fmt.Sprintf("word %d of %q is not a number", i, words))
		}
		return n
	}
	switch word(0) {
	case "leak":
		return repeat(number(2), func() error { return c.leak(word(1)) })
	case "healthy":
		return repeat(number(2), func() error { return c.healthy(word(1)) })
	case "charge", "charge_first", "detached":
		return c.apart(word(0), word(1))
	case "returned_in_transaction":
		return burst(number(1), func() error { return returnInTransaction(c.ctx, c.db) })
	case "ended_in_time":
		return burst(number(1), func() error { return endTransaction(c.ctx, c.db) })
	case "new_pool", "new_pgxpool", "closed_pool", "several_pools":
		return repeat(number(1), func() error {
			// Requests of one user come at a pace; a program makes its pools without one.
			if word(0) != "several_pools" {
				time.Sleep(pace)
			}
			return c.ownPool(word(0))
		})
	case "later":
		time.Sleep(time.Duration(number(1)) * time.Second)
		return nil
	case "cancelled":
		return repeat(number(1), func() error { return cancelled(c.ctx, c.db) })
	case "burst":
		// Held at the same time, so that the pool really opens that many.
		return burst(number(1), func() error { return longQuery(c.db, "0.1") })
	case "hammer":
		shape := word(3)
		if strings.HasPrefix(shape, "pgxpool") {
			// Made once, before many ask for it at once.
			if _, err := c.pgx(); err != nil {
				return err
			}
		}
		return hammer(number(1), number(2), func() error { return c.healthy(shape) })
	case "load":
		request := func() error { return briefQuery(c.ctx, c.db) }
		if word(2) == "pgxpool" {
			pool, err := c.pgx()
			if err != nil {
				return err
			}
			request = func() error { return briefPgxpool(c.ctx, pool) }
		}
		// Answered when each worker has begun; they go on for as long as this runs.
		load(number(1), request)
		return nil
	case "hold_query":
		// Answered at once.
		seconds := word(1)
		go func() {
			if err := longQuery(c.db, seconds); err != nil {
				fmt.Println("error", err)
			}
		}()
		return nil
	case "slow_rows":
		// Answered when the first rows are there; read for as long as this runs.
		pause := time.Duration(number(1)) * time.Millisecond
		rows, err := c.db.Query("select repeat('x', 1000) from generate_series(1, 1000000)")
		if err != nil {
			return err
		}
		go func() {
			if err := slowRows(rows, pause); err != nil {
				fmt.Println("error", err)
			}
		}()
		return nil
	}
	return fmt.Errorf("no command %s", word(0))
}

func main() {
	maxIdle := flag.Int("max-idle", 2, "database/sql: idle connections kept")
	maxOpen := flag.Int("max-open", 60, "connections of a pool at most")
	driver := flag.String("driver", "postgres", "database/sql: postgres, pgx or mysql")
	flag.Parse()

	switch *driver {
	case "mysql":
		dialect = mysql
	default:
		dialect.driver = *driver
	}
	db, err := open()
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	db.SetMaxIdleConns(*maxIdle)
	db.SetMaxOpenConns(*maxOpen)

	c := &client{ctx: context.Background(), db: db, maxOpen: *maxOpen}
	fmt.Println("ready", os.Getpid(), runtime.Version())
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "quit" {
			return
		}
		if err := c.run(strings.Fields(line)); err != nil {
			fmt.Println("error", err)
			continue
		}
		fmt.Println("done", line)
	}
}

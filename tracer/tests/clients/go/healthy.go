package main

// The same work done right. Nothing in this file may ever be reported.

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v4/pgxpool"
	"github.com/lib/pq"
)

func healthyRows(db *sql.DB) error {
	rows, err := db.Query(dialect.rows)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var got int
		if err := rows.Scan(&got); err != nil {
			return err
		}
	}
	return rows.Err()
}

// healthyRowsUnread returns as early as its leaky twin; closing the rows reads what is left.
func healthyRowsUnread(db *sql.DB) error {
	rows, err := db.Query("select repeat('x', 1000) from generate_series(1, 10000)")
	if err != nil {
		return err
	}
	defer rows.Close()
	rows.Next()
	return rows.Scan(new(string))
}

// healthyDriverRows is the same without a pool: the connection is kept, and idle afterwards.
func healthyDriverRows(ctx context.Context) error {
	conn, err := driverConn(ctx)
	if err != nil {
		return err
	}
	rows, err := conn.QueryContext(ctx, "select repeat('x', 1000) from generate_series(1, 10000)", nil)
	if err != nil {
		return err
	}
	defer rows.Close()
	return rows.Next(make([]driver.Value, 1))
}

// kept is what this program opened without a pool: what nobody refers to is closed by the runtime.
var kept []driver.Conn

func driverConn(ctx context.Context) (driver.QueryerContext, error) {
	connector, err := pq.NewConnector("")
	if err != nil {
		return nil, err
	}
	conn, err := connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	kept = append(kept, conn)
	return conn.(driver.QueryerContext), nil
}

// slowRows works on each row for a while, so the server always has more than is asked for.
func slowRows(rows *sql.Rows, pause time.Duration) error {
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(new(string)); err != nil {
			return err
		}
		time.Sleep(pause)
	}
	return rows.Err()
}

// cancelled gives up while the server works; the pool closes the connection.
func cancelled(ctx context.Context, db *sql.DB) error {
	ctx, cancel := context.WithTimeout(ctx, pace)
	defer cancel()
	_, err := db.ExecContext(ctx, dialect.sleep, "60")
	if err == nil || ctx.Err() == nil {
		return fmt.Errorf("it was not cancelled: %v", err)
	}
	return nil
}

func healthyTx(db *sql.DB) error {
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.Exec("select 1"); err != nil {
		return err
	}
	return tx.Commit()
}

func healthyConn(ctx context.Context, db *sql.DB) error {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.ExecContext(ctx, "select 1")
	return err
}

// endTransaction ends what it has begun by hand before it gives the connection back.
func endTransaction(ctx context.Context, db *sql.DB) error {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, statement := range []string{"begin", "select pg_sleep(0.1)", "rollback"} {
		if _, err := conn.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// closedPool makes a pool of its own for one query, and closes it.
func closedPool(wanted int) (int, error) {
	db, err := open()
	if err != nil {
		return 0, err
	}
	defer db.Close()
	var got int
	err = db.QueryRow(dialect.same, wanted).Scan(&got)
	return got, err
}

func healthyPgxpool(ctx context.Context, pool *pgxpool.Pool) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	_, err = conn.Exec(ctx, "select 1")
	return err
}

func healthyPgxpoolRows(ctx context.Context, pool *pgxpool.Pool) error {
	rows, err := pool.Query(ctx, "select g from generate_series(1, 100) g")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(new(int)); err != nil {
			return err
		}
	}
	return rows.Err()
}

// longQuery is held while the server works: active, however long.
func longQuery(db *sql.DB, seconds string) error {
	_, err := db.Exec(dialect.sleep, seconds)
	return err
}

// briefQuery keeps the server busy for a moment, and its connection with it.
func briefQuery(ctx context.Context, db *sql.DB) error {
	_, err := db.ExecContext(ctx, "select pg_sleep(0.02)")
	return err
}

func briefPgxpool(ctx context.Context, pool *pgxpool.Pool) error {
	_, err := pool.Exec(ctx, "select pg_sleep(0.02)")
	return err
}

// load starts `workers` goroutines that make one request after the other, and returns when each
// has begun.
func load(workers int, request func() error) {
	var begun sync.WaitGroup
	for i := 0; i < workers; i++ {
		begun.Add(1)
		go func() {
			begun.Done()
			for {
				if err := request(); err != nil {
					fmt.Println("error", err)
					return
				}
			}
		}()
	}
	begun.Wait()
}

// burst sends `count` requests at once.
func burst(count int, request func() error) error {
	failures := make(chan error, count)
	var all sync.WaitGroup
	for i := 0; i < count; i++ {
		all.Add(1)
		go func() {
			defer all.Done()
			if err := request(); err != nil {
				failures <- err
			}
		}()
	}
	all.Wait()
	select {
	case err := <-failures:
		return err
	default:
		return nil
	}
}

// onDeepStack makes the goroutine's stack grow, frame by frame, before it works: a stack that
// grows runs function entries twice and moves everything on it.
func onDeepStack(depth int, request func() error) error {
	var ballast [512]byte
	if depth == 0 {
		return request()
	}
	ballast[depth%len(ballast)] = byte(depth)
	err := onDeepStack(depth-1, request)
	if ballast[depth%len(ballast)] != byte(depth) {
		panic("the stack changed under us")
	}
	return err
}

// hammer lets `goroutines` goroutines make `rounds` requests each, on stacks of many sizes.
func hammer(goroutines, rounds int, request func() error) error {
	var mu sync.Mutex
	next := 0
	return burst(goroutines, func() error {
		mu.Lock()
		next++
		mine := next
		mu.Unlock()
		for i := 0; i < rounds; i++ {
			if err := onDeepStack((mine+i)%97, request); err != nil {
				return err
			}
		}
		return nil
	})
}

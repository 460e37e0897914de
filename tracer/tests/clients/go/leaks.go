package main

// The ways a connection does not come back. The line that takes the connection ends in a
// LEAK-LINE comment with the shape's name: it is the line that a report must give.

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"

	"github.com/jackc/pgx/v4/pgxpool"
)

var errNotFound = errors.New("no such order")

// leakRows returns on the error path without closing the rows.
func leakRows(db *sql.DB, wanted int) (int, error) {
	rows, err := db.Query(dialect.rows) // LEAK-LINE rows
	if err != nil {
		return 0, err
	}
	rows.Next()
	var got int
	if err := rows.Scan(&got); err != nil {
		return 0, err
	}
	if got != wanted {
		return 0, errNotFound
	}
	return got, rows.Close()
}

// leakRowsUnread is the same with a result so large that the server is still sending it: to the
// server the session is active, and will be for ever.
func leakRowsUnread(db *sql.DB) error {
	rows, err := db.Query("select repeat('x', 1000) from generate_series(1, 100000)") // LEAK-LINE rows_unread
	if err != nil {
		return err
	}
	rows.Next()
	return rows.Scan(new(string))
}

// leakDriverRows leaves the result of a connection that belongs to no pool.
func leakDriverRows(ctx context.Context) error {
	conn, err := driverConn(ctx)
	if err != nil {
		return err
	}
	rows, err := conn.QueryContext(ctx, "select repeat('x', 1000) from generate_series(1, 100000)", nil) // LEAK-LINE driver_rows
	if err != nil {
		return err
	}
	return rows.Next(make([]driver.Value, 1))
}

// leakTx neither commits nor rolls back when there is nothing to change.
func leakTx(db *sql.DB, wanted int) error {
	tx, err := db.Begin() // LEAK-LINE tx
	if err != nil {
		return err
	}
	var got int
	if err := tx.QueryRow("select 1").Scan(&got); err != nil {
		return tx.Rollback()
	}
	if got != wanted {
		return errNotFound
	}
	return tx.Commit()
}

// leakConn pins a connection and forgets it.
func leakConn(ctx context.Context, db *sql.DB) error {
	conn, err := db.Conn(ctx) // LEAK-LINE conn
	if err != nil {
		return err
	}
	_, err = conn.ExecContext(ctx, "select 1")
	return err
}

// leakUnused takes a connection and never asks it for anything.
func leakUnused(ctx context.Context, db *sql.DB) error {
	_, err := db.Conn(ctx) // LEAK-LINE unused
	return err
}

// leakOutside leaves a task behind that waits for an answer from outside, which does not come.
func leakOutside(ctx context.Context, db *sql.DB) error {
	used := make(chan error)
	go func() {
		conn, err := db.Conn(ctx) // LEAK-LINE outside
		if err != nil {
			used <- err
			return
		}
		defer conn.Close()
		_, err = conn.ExecContext(ctx, "select 1")
		used <- err
		<-make(chan struct{})
	}()
	return <-used
}

// returnInTransaction begins a transaction by hand and gives the connection back inside it.
func returnInTransaction(ctx context.Context, db *sql.DB) error {
	conn, err := db.Conn(ctx) // LEAK-LINE returned_in_transaction
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, "begin"); err != nil {
		return err
	}
	_, err = conn.ExecContext(ctx, "select pg_sleep(0.1)")
	return err
}

// newPool makes a pool of its own for one query, and nobody closes it.
func newPool(wanted int) (int, error) {
	db, err := open()
	if err != nil {
		return 0, err
	}
	var got int
	err = db.QueryRow(dialect.same, wanted).Scan(&got) // LEAK-LINE new_pool
	return got, err
}

// newPgxpool does the same with pgxpool, which connects at once.
func newPgxpool(ctx context.Context) error {
	pool, err := pgxpool.Connect(ctx, "") // LEAK-LINE new_pgxpool
	if err != nil {
		return err
	}
	_, err = pool.Exec(ctx, "select 1")
	return err
}

// leakPgxpool acquires and forgets.
func leakPgxpool(ctx context.Context, pool *pgxpool.Pool) error {
	conn, err := pool.Acquire(ctx) // LEAK-LINE pgxpool
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "select 1")
	return err
}

// leakPgxpoolRows does not close the rows of the pool's own Query.
func leakPgxpoolRows(ctx context.Context, pool *pgxpool.Pool) error {
	rows, err := pool.Query(ctx, "select g from generate_series(1, 100) g") // LEAK-LINE pgxpool_rows
	if err != nil {
		return err
	}
	rows.Next()
	return rows.Scan(new(int))
}

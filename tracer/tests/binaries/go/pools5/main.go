// A program with pgx v5: its pool and its database/sql driver.
//
//	pools5 chains    prints the offsets from pool handles to descriptors
//	pools5           uses the pools on the server that DSN names
package main

import (
	"context"
	"database/sql"
	"os"
	"reflect"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"../chains"
)

// printChains prints the chains of the pools.
func printChains() {
	chains.PgxpoolSize("pgxpool v5", reflect.TypeOf(pgxpool.Pool{}))
	conn, _ := reflect.TypeOf(sql.Conn{}).FieldByName("dc")
	chains.SQL(conn.Type.Elem(), "ci", reflect.TypeOf(stdlib.Conn{}), "conn", "pgConn", "conn")
	chains.Pgxpool("pgxpool v5", reflect.TypeOf(pgxpool.Conn{}),
		"res", "value", "conn", "pgConn", "conn")
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "chains" {
		printChains()
		return
	}
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DSN"))
	if err != nil {
		panic(err)
	}
	conn, err := pool.Acquire(ctx)
	if err != nil {
		panic(err)
	}
	defer conn.Release()
	db := stdlib.OpenDBFromPool(pool)
	if err := db.PingContext(ctx); err != nil {
		panic(err)
	}
}

// A program with pgx v5: its pool and its database/sql driver.
//
//	pools5 chains    prints the offsets from pool handles to descriptors
//	pools5           uses the pools on the server that DSN names
package main

import (
	"context"
	"crypto/tls"
	"database/sql"
	"fmt"
	"net"
	"os"
	"reflect"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
)

// offsets is the chain of loads from a struct along its fields: a name enters a field, through
// the pointer if it is one, and a type is what an interface holds. The last offset is the field's.
func offsets(at reflect.Type, steps ...any) []uintptr {
	var chain []uintptr
	var offset uintptr
	for _, step := range steps {
		switch step := step.(type) {
		case string:
			field, ok := at.FieldByName(step)
			if !ok {
				panic(at.String() + " has no " + step)
			}
			offset += field.Offset
			at = field.Type
			if at.Kind() == reflect.Pointer {
				chain, offset, at = append(chain, offset), 0, at.Elem()
			}
		case reflect.Type:
			chain, offset, at = append(chain, offset+8), 0, step
		}
	}
	return append(chain, offset)
}

// chains prints the chains of the pools as "pool [offset ...]".
func chains() {
	descriptor := []any{reflect.TypeOf(net.TCPConn{}), "fd", "pfd", "Sysfd"}
	wrapped := append([]any{reflect.TypeOf(tls.Conn{}), "conn"}, descriptor...)
	for _, end := range [][]any{descriptor, wrapped} {
		with := func(steps ...any) []any { return append(steps, end...) }
		conn, _ := reflect.TypeOf(sql.Conn{}).FieldByName("dc")
		fmt.Println("database/sql", offsets(conn.Type.Elem(),
			with("ci", reflect.TypeOf(stdlib.Conn{}), "conn", "pgConn", "conn")...))
		fmt.Println("pgxpool v5", offsets(reflect.TypeOf(pgxpool.Conn{}),
			with("res", "value", "conn", "pgConn", "conn")...)[1:])
	}
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "chains" {
		chains()
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

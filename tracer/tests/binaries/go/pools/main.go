// A program with both Go pools that also answers questions about its own function table.
//
//	pools resolve    reads offsets from main.main in hex, prints the frame at each
//	pools stack      prints its own stack at a call that is inlined twice
//	pools code       prints the first bytes of main.main in hex
//	pools chains     prints the offsets from pool handles to descriptors
//	pools            uses the pools on the server that DSN names
package main

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"strconv"
	"unsafe"

	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
	"github.com/jackc/pgx/v4/stdlib"
	"github.com/lib/pq"

	"../chains"
)

// entry is the address of main.main. Only main takes it: functions that refer to main would be
// recursive, and those are not inlined.
var entry uintptr

// resolve prints for each offset the innermost frame as "function<TAB>file<TAB>line".
func resolve() {
	in := bufio.NewScanner(os.Stdin)
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for in.Scan() {
		offset, err := strconv.ParseInt(in.Text(), 16, 64)
		if err != nil {
			panic(err)
		}
		// CallersFrames takes return addresses.
		pc := uintptr(int64(entry)+offset) + 1
		frame, _ := runtime.CallersFrames([]uintptr{pc}).Next()
		fmt.Fprintf(out, "%s\t%s\t%d\n", frame.Function, frame.File, frame.Line)
	}
}

// stack prints its callers, each with the offset of its return address from main.main.
//
//go:noinline
func stack() int {
	pcs := make([]uintptr, 64)
	pcs = pcs[:runtime.Callers(2, pcs)]
	frames := runtime.CallersFrames(pcs)
	for _, pc := range pcs {
		frame, _ := frames.Next()
		offset := int64(pc) - int64(entry)
		fmt.Printf("%x\t%s\t%s\t%d\n", offset, frame.Function, frame.File, frame.Line)
	}
	return len(pcs)
}

func inner(n int) int {
	if n < 0 {
		return n
	}
	return stack() + n
}

func outer(n int) int {
	n++
	return inner(n) + 1
}

//go:noinline
func physical(n int) int { return outer(n) * 2 }

// printChains prints the chains of the pools.
func printChains() {
	chains.SQLSize(reflect.TypeOf(sql.DB{}))
	chains.PgxpoolSize("pgxpool v4", reflect.TypeOf(pgxpool.Pool{}))
	conn, _ := reflect.TypeOf(sql.Conn{}).FieldByName("dc")
	listener, _ := reflect.TypeOf(pq.ListenerConn{}).FieldByName("cn")
	chains.SQL(conn.Type.Elem(), "ci", listener.Type.Elem(), "c")
	chains.SQL(conn.Type.Elem(), "ci", reflect.TypeOf(stdlib.Conn{}), "conn", "pgConn", "conn")
	// What Resource.value holds has no name outside: its first field is the *pgx.Conn.
	chains.Pgxpool("pgxpool v4", reflect.TypeOf(pgxpool.Conn{}),
		"res", "value", reflect.TypeOf(struct{ conn *pgx.Conn }{}), "conn", "pgConn", "conn")
}

//go:noinline
func query(ctx context.Context, db *sql.DB) error {
	rows, err := db.QueryContext(ctx, "select 1")
	if err != nil {
		return err
	}
	defer rows.Close()
	return rows.Err()
}

func main() {
	entry = reflect.ValueOf(main).Pointer()
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "resolve":
			resolve()
		case "stack":
			physical(len(os.Args))
		case "code":
			fmt.Printf("%x", unsafe.Slice((*byte)(unsafe.Pointer(entry)), 64))
		case "chains":
			printChains()
		}
		return
	}
	ctx := context.Background()
	db, err := sql.Open("postgres", os.Getenv("DSN"))
	if err != nil {
		panic(err)
	}
	defer db.Close()
	if err := query(ctx, db); err != nil {
		panic(err)
	}
	pool, err := pgxpool.Connect(ctx, os.Getenv("DSN"))
	if err != nil {
		panic(err)
	}
	conn, err := pool.Acquire(ctx)
	if err != nil {
		panic(err)
	}
	defer conn.Release()
	if err := conn.Ping(ctx); err != nil {
		panic(err)
	}
}

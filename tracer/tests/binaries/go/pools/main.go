// A program with both Go pools that also answers questions about its own function table.
//
//	pools resolve    reads offsets from main.main in hex, prints the frame at each
//	pools stack      prints its own stack at a call that is inlined twice
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

	"github.com/jackc/pgx/v4/pgxpool"
	_ "github.com/lib/pq"
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

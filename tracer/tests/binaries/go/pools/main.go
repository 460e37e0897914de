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
	"crypto/tls"
	"database/sql"
	"fmt"
	"net"
	"os"
	"reflect"
	"runtime"
	"strconv"
	"unsafe"

	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
	"github.com/jackc/pgx/v4/stdlib"
	"github.com/lib/pq"
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
		listener, _ := reflect.TypeOf(pq.ListenerConn{}).FieldByName("cn")
		fmt.Println("database/sql", offsets(conn.Type.Elem(), with("ci", listener.Type.Elem(), "c")...))
		fmt.Println("database/sql", offsets(conn.Type.Elem(),
			with("ci", reflect.TypeOf(stdlib.Conn{}), "conn", "pgConn", "conn")...))
		// What Resource.value holds has no name outside: its first field is the *pgx.Conn.
		fmt.Println("pgxpool v4", offsets(reflect.TypeOf(pgxpool.Conn{}),
			with("res", "value", reflect.TypeOf(struct{ conn *pgx.Conn }{}), "conn", "pgConn", "conn")...)[1:])
	}
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
			chains()
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

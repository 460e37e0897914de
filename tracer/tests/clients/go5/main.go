// A Go client on the pool of pgx v5, which needs a newer toolchain than the system's: see ../README.md.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// leak acquires and forgets.
func leak(ctx context.Context, pool *pgxpool.Pool) error {
	conn, err := pool.Acquire(ctx) // LEAK-LINE leak
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "select 1")
	return err
}

// healthy gives back.
func healthy(ctx context.Context, pool *pgxpool.Pool) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	_, err = conn.Exec(ctx, "select 1")
	return err
}

// second passes without a request.
func second(context.Context, *pgxpool.Pool) error {
	time.Sleep(time.Second)
	return nil
}

func run(ctx context.Context, pool *pgxpool.Pool, line string) error {
	verb, number, _ := strings.Cut(line, " ")
	steps := map[string]func(context.Context, *pgxpool.Pool) error{
		"leak": leak, "healthy": healthy, "later": second,
	}
	step, ok := steps[verb]
	if !ok {
		return fmt.Errorf("no command %s", verb)
	}
	count, err := strconv.Atoi(number)
	for i := 0; i < count && err == nil; i++ {
		err = step(ctx, pool)
	}
	return err
}

func main() {
	maxOpen := flag.Int("max-open", 60, "connections of the pool at most")
	flag.Parse()
	ctx := context.Background()
	config, err := pgxpool.ParseConfig("")
	if err != nil {
		panic(err)
	}
	config.MaxConns = int32(*maxOpen)
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		panic(err)
	}
	fmt.Println("ready", os.Getpid(), runtime.Version())
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "quit" {
			return
		}
		if err := run(ctx, pool, line); err != nil {
			fmt.Println("error", err)
			continue
		}
		fmt.Println("done", line)
	}
}

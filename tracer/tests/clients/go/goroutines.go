package main

// Goroutines that wait for somebody else, some of them with a connection in their hands.

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
)

// ways in which no answer comes from outside.
var ways = map[string]func() error{
	"channel": askChannel,
	"socket":  askSocket,
	"http":    askHTTP,
	"pipe":    askPipe,
}

// referred keeps what the runtime would close if nobody referred to it.
var referred []io.Closer

// unanswered is an address that can be connected to, and where nobody is.
func unanswered() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	referred = append(referred, listener)
	return listener.Addr().String(), nil
}

func askChannel() error {
	<-make(chan struct{}) // LEAK-LINE ask_channel
	return nil
}

func askSocket() error {
	address, err := unanswered()
	if err != nil {
		return err
	}
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1)) // LEAK-LINE ask_socket
	return err
}

func askHTTP() error {
	address, err := unanswered()
	if err != nil {
		return err
	}
	answer, err := http.Get("http://" + address + "/rate") // LEAK-LINE ask_http
	if err != nil {
		return err
	}
	return answer.Body.Close()
}

// askPipe waits in the system call itself, not in the runtime.
func askPipe() error {
	reader, writer, err := os.Pipe()
	if err != nil {
		return err
	}
	referred = append(referred, reader, writer)
	_, err = syscall.Read(int(reader.Fd()), make([]byte, 1)) // LEAK-LINE ask_pipe
	return err
}

// apart works on a goroutine of its own, and returns when that says it is about to wait.
func apart(work func(waits func()) error) error {
	said := make(chan error, 1)
	go func() {
		if err := work(func() { said <- nil }); err != nil {
			said <- err
		}
	}()
	return <-said
}

// charge keeps its connection while it asks outside.
func charge(ctx context.Context, db *sql.DB, ask func() error, waits func()) error {
	conn, err := db.Conn(ctx) // LEAK-LINE charge
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, "select 1"); err != nil {
		return err
	}
	waits()
	return ask() // LEAK-LINE charge_stuck
}

// chargeFirst does the same, and gives its connection back before it asks.
func chargeFirst(ctx context.Context, db *sql.DB, ask func() error, waits func()) error {
	if err := healthyConn(ctx, db); err != nil {
		return err
	}
	waits()
	return ask()
}

func (c *client) apart(what, way string) error {
	ask, known := ways[way]
	switch {
	case what == "detached":
		return apart(func(waits func()) error {
			if err := leakConn(c.ctx, c.db); err != nil {
				return err
			}
			waits()
			return nil
		})
	case !known:
		return fmt.Errorf("no way %s", way)
	case what == "charge":
		return apart(func(waits func()) error { return charge(c.ctx, c.db, ask, waits) })
	default:
		return apart(func(waits func()) error { return chargeFirst(c.ctx, c.db, ask, waits) })
	}
}

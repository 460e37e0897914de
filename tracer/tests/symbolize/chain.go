// A known chain of calls that ends in a stop: main > (*Server).handle > load > hold > Tgkill.
// Prints the id of the thread it stops in.
package main

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
)

type Server struct{ users int }

//go:noinline
func hold() {
	runtime.LockOSThread()
	fmt.Println(syscall.Gettid())
	_ = syscall.Tgkill(os.Getpid(), syscall.Gettid(), syscall.SIGSTOP) // line: hold
}

func take() {
	hold() // line: take
}

//go:noinline
func load(id int) int {
	take() // line: load
	return id + 1
}

//go:noinline
func (s *Server) handle() {
	s.users = load(7) // line: handle
}

func main() {
	server := &Server{}
	done := make(chan bool)
	go func() {
		server.handle() // line: goroutine
		done <- true
	}()
	<-done
}

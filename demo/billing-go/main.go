// The billing service. In place of an HTTP server it makes its own requests, about thirty a
// second, so that the demo needs nothing but a database. Takes its server from the PG* variables;
// prints `ready PID` when it serves; ends at SIGTERM.
package main

import (
	"database/sql"
	"fmt"
	"log"
	"os"
	"time"

	_ "github.com/lib/pq"
)

const (
	customers    = 50
	requestEvery = 35 * time.Millisecond
	// Customers from here on have an invoice without a currency.
	broken = 1000
	// One request in this many is for such a customer.
	brokenEvery = 40
	// Then they stop, before the pool has none left: for some half a minute, because the watching may begin
	// late on a busy machine.
	brokenAtMost = 22
)

type billing struct {
	db *sql.DB
}

func (b *billing) prepare() error {
	_, err := b.db.Exec(fmt.Sprintf(`
		create table if not exists invoices (customer int, amount bigint, currency text);
		insert into invoices select c, c * i, 'EUR' from generate_series(1, %d) c, generate_series(1, 5) i;
		insert into invoices select %d + c, c, null from generate_series(0, %d) c;`,
		customers, broken, brokenAtMost))
	return err
}

func main() {
	log.SetPrefix("billing: ")
	log.SetFlags(0)
	db, err := sql.Open("postgres", "application_name=billing")
	if err != nil {
		log.Fatal(err)
	}
	db.SetMaxOpenConns(30)
	b := &billing{db: db}
	if err := b.prepare(); err != nil {
		log.Fatal(err)
	}
	fmt.Println("ready", os.Getpid())

	failed := 0
	for request := 1; ; request++ {
		customer := 1 + request%customers
		if request%brokenEvery == 0 && failed < brokenAtMost {
			customer = broken + failed
			failed++
		}
		go func(request int) {
			var err error
			if request%2 == 0 {
				_, err = b.invoiceTotal(customer)
			} else {
				_, err = b.invoiceCount(customer)
			}
			// The broken customers are what this demo is about, no news.
			if err != nil && customer < broken {
				log.Print(err)
			}
		}(request)
		time.Sleep(requestEvery)
	}
}

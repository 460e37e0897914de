package main

import "fmt"

// invoiceTotal adds up a customer's invoices. An invoice without a currency makes Scan fail, and
// that path does not close the rows: each such request takes one connection for good.
func (b *billing) invoiceTotal(customer int) (int64, error) {
	rows, err := b.db.Query("select amount, currency from invoices where customer = $1", customer)
	if err != nil {
		return 0, err
	}
	var total int64
	for rows.Next() {
		var amount int64
		var currency string
		if err := rows.Scan(&amount, &currency); err != nil {
			return 0, fmt.Errorf("invoice of customer %d: %w", customer, err)
		}
		total += amount
	}
	return total, rows.Err()
}

// invoiceCount does the same work right.
func (b *billing) invoiceCount(customer int) (int, error) {
	rows, err := b.db.Query("select amount from invoices where customer = $1", customer)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	count := 0
	for rows.Next() {
		var amount int64
		if err := rows.Scan(&amount); err != nil {
			return 0, err
		}
		count++
	}
	return count, rows.Err()
}

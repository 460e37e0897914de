// Package chains prints the ways from pool handles to descriptors, as the types have them.
package chains

import (
	"crypto/tls"
	"fmt"
	"net"
	"reflect"
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

// print prints a pool's chain to a plain connection and to one with TLS as "pool [offset ...]",
// without the first skip loads.
func print(pool string, skip int, at reflect.Type, steps []any) {
	descriptor := []any{reflect.TypeOf(net.TCPConn{}), "fd", "pfd", "Sysfd"}
	wrapped := append([]any{reflect.TypeOf(tls.Conn{}), "conn"}, descriptor...)
	for _, end := range [][]any{descriptor, wrapped} {
		all := append(append([]any{}, steps...), end...)
		fmt.Println(pool, offsets(at, all...)[skip:])
	}
}

// SQL prints those of database/sql, whose handle is what at points to.
func SQL(at reflect.Type, steps ...any) {
	print("database/sql", 0, at, steps)
}

// Pgxpool prints those of a pgxpool, whose handle is the first field of at.
func Pgxpool(pool string, at reflect.Type, steps ...any) {
	print(pool, 1, at, steps)
}

// places are the offsets of a struct's fields.
func places(at reflect.Type, names ...string) []uintptr {
	var found []uintptr
	for _, name := range names {
		field, ok := at.FieldByName(name)
		if !ok {
			panic(at.String() + " has no " + name)
		}
		found = append(found, field.Offset)
	}
	return found
}

// SQLSize prints where a database/sql.DB has what tells how many connections it may have, as
// "size pool [through ...] [max open pointer zero]".
func SQLSize(db reflect.Type) {
	fmt.Println("size database/sql []", places(db, "maxOpen", "numOpen", "openerCh", "closed"))
}

// PgxpoolSize prints the same of a pgxpool, which is behind its field p.
func PgxpoolSize(pool string, at reflect.Type) {
	field, _ := at.FieldByName("p")
	found := places(field.Type.Elem(), "maxSize", "allResources", "allResources", "closed")
	// The length of a slice is behind its array.
	found[1] += 8
	fmt.Println("size", pool, places(at, "p"), found)
}

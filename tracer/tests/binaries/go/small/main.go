// The smallest program: all its functions are the runtime's.
package main

func main() {}

// Command convert turns the JSON array of flights-20k.json into JSON lines, one flight
// a line, without touching what is inside the objects.
//
//	go run ./tools/convert flights-20k.json > data/flights.jsonl
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: convert flights-20k.json > flights.jsonl")
		os.Exit(2)
	}
	if err := convert(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "convert:", err)
		os.Exit(1)
	}
}

func convert(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var rows []json.RawMessage
	if err := json.Unmarshal(b, &rows); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	w := bufio.NewWriter(os.Stdout)
	for _, r := range rows {
		w.Write(r)
		w.WriteByte('\n')
	}
	return w.Flush() // bufio keeps the first error
}

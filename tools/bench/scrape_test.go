package main

import "testing"

func TestProcessBytes(t *testing.T) {
	const text = "# HELP runink_process_memory_bytes Of processes.\n# TYPE runink_process_memory_bytes gauge\n" +
		"runink_process_memory_bytes{node=\"n1\",process=\"keeper\"} 1.5e+07\n" +
		"runink_process_memory_bytes{node=\"n1\",process=\"pid1\"} 0\n" +
		"runink_slices{node=\"n1\",state=\"running\"} 1\n"
	for name, c := range map[string]struct {
		text, process string
		want          float64
		bad           bool
	}{
		"there":     {text, "keeper", 15e6, false},
		"not there": {text, "agent", 0, true},
		"nothing":   {text, "pid1", 0, true},
		"no number": {`runink_process_memory_bytes{process="agent"} x`, "agent", 0, true},
		"empty":     {"", "agent", 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := processBytes(c.text, c.process)
			if got != c.want || (err != nil) != c.bad {
				t.Errorf("%g, %v", got, err)
			}
		})
	}
}

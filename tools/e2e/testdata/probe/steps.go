// Package probe tries from inside slices what a slice must not be able to do.
//
// The whole-cluster tests copy it, with tools/e2e/attempts beside it, and read what it
// prints from the slices' logs: one JSON object a line.
package probe

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"example.com/probe/attempts"
	"example.com/probe/contracts"
)

func init() { attempts.Child() }

// edgePort is where the consumer of an edge between nodes listens.
const edgePort = 7464

// Here, There and Elsewhere are the same step in slices of their own.
func Here(a contracts.Attempt) (contracts.Attempt, error) { return a, do("here", a) }

// There is like Here.
func There(a contracts.Attempt) (contracts.Attempt, error) { return a, do("there", a) }

// Elsewhere is like Here.
func Elsewhere(a contracts.Attempt) (contracts.Attempt, error) { return a, do("elsewhere", a) }

func do(step string, a contracts.Attempt) error {
	if a.Step != step && a.Step != "all" {
		return nil
	}
	what, arg, _ := strings.Cut(a.Do, "=")
	switch what {
	case "serve":
		return attempts.Serve(arg)
	case "self": // the victim's own dial of what others must not reach
		addr, err := attempts.Address()
		if err != nil {
			return err
		}
		try(fmt.Sprintf("reach=[%s]:%d", addr, attempts.VictimPort))
		return nil
	case "peer": // a dial along the edge
		addr, err := attempts.Peer(edgePort)
		if err != nil {
			return err
		}
		try("reach=" + addr)
		return nil
	case "hold":
		attempts.Hold(200*time.Millisecond, func(n int, err error) { say(fmt.Sprintf("tick=%d", n), "", err) })
	case "forkbomb":
		return attempts.ForkBomb()
	case "memhog":
		return attempts.MemoryHog()
	case "filltmp":
		return attempts.FillTmp()
	default:
		var wg sync.WaitGroup
		for s := range strings.FieldsSeq(a.Do) {
			wg.Go(func() { try(s) })
		}
		wg.Wait()
	}
	return nil
}

func try(s string) {
	got, err := attempts.Try(s)
	say(s, got, err)
}

// result is a line of the slice's log.
type result struct {
	Try   string `json:"try"`
	OK    bool   `json:"ok"`
	Got   string `json:"got,omitempty"`
	Error string `json:"error,omitempty"`
}

func say(s, got string, err error) {
	r := result{Try: s, OK: err == nil, Got: got}
	if err != nil {
		r.Error = err.Error()
	}
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings always encode
	}
	_, _ = os.Stdout.Write(append(b, '\n')) // one write, so that lines stay whole
}

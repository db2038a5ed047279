// Package hold has one step that waits for whoever tests it.
package hold

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/runink/runink/sdk"

	"example.com/hold/contracts"
)

// Hold waits, with the first row, for SIGUSR1 from outside of its sandbox; or, where the
// parameter "how" is "oom", takes more memory than it may.
func Hold(ctx *sdk.Context, o contracts.Order) (contracts.Order, error) {
	if o.N != 1 {
		return o, nil
	}
	if how, _ := ctx.Param("how"); how == "oom" {
		hog()
	}
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGUSR1)
	fmt.Println("holding")
	<-told
	return o, nil
}

// hog writes to memory until there is none.
func hog() {
	var all [][]byte
	for {
		b := make([]byte, 8<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		all = append(all, b)
		runtime.KeepAlive(all)
	}
}

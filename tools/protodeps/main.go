// Command protodeps writes the .proto files that ours import from other projects, so that
// buf can read them without a registry: it prints the descriptors that the Go modules in
// go.mod already carry.
//
// Usage: go run ./tools/protodeps build/protodeps
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"github.com/jhump/protoreflect/v2/protoprint"
	"google.golang.org/protobuf/reflect/protoreflect"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "protodeps:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: protodeps DIR")
	}
	p := protoprint.Printer{Compact: true}
	for _, fd := range []protoreflect.FileDescriptor{validate.File_buf_validate_validate_proto} {
		text, err := p.PrintProtoToString(fd)
		if err != nil {
			return fmt.Errorf("print %s: %w", fd.Path(), err)
		}
		out := filepath.Join(args[0], fd.Path())
		if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(out, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

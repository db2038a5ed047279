package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/runink/runink/internal/errs"
)

// addOutputFlag adds -o to a command that prints objects; more are forms that only this one
// has.
func addOutputFlag(c *cobra.Command, more ...string) {
	form := &outputForm{is: "table", of: append([]string{"table", "json", "yaml"}, more...)}
	n := len(form.of) - 1
	c.Flags().VarP(form, "output", "o", strings.Join(form.of[:n], ", ")+" or "+form.of[n])
}

// outputForm is the value of -o. It is checked when it is read, since a command that had
// changed something before it found that it cannot print would be hard to trust.
type outputForm struct {
	is string
	of []string
}

func (f *outputForm) String() string { return f.is }
func (f *outputForm) Type() string   { return "string" }

func (f *outputForm) Set(s string) error {
	if !slices.Contains(f.of, s) {
		return errors.New("it is one of " + strings.Join(f.of, ", "))
	}
	f.is = s
	return nil
}

// emit prints a message in the form that -o names; table prints it for people.
func emit(c *cobra.Command, m proto.Message, table func(w io.Writer)) error {
	form, err := c.Flags().GetString("output")
	if err != nil {
		return err
	}
	if form == "table" {
		w := tabwriter.NewWriter(c.OutOrStdout(), 0, 8, 2, ' ', 0)
		table(w)
		return w.Flush()
	}
	data, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return errs.E(errs.Internal, c.CommandPath(), "%w", err)
	}
	return writeObject(c, form, data)
}

// emitJSON is emit for what is no message of the API.
func emitJSON(c *cobra.Command, v any, table func(w io.Writer)) error {
	form, err := c.Flags().GetString("output")
	if err != nil {
		return err
	}
	if form == "table" {
		w := tabwriter.NewWriter(c.OutOrStdout(), 0, 8, 2, ' ', 0)
		table(w)
		return w.Flush()
	}
	return writeJSON(c, form, v)
}

// writeJSON writes any value in the form json or yaml. Conditions of pipelines are full of
// < and >, so these stay as they are.
func writeJSON(c *cobra.Command, form string, v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return errs.E(errs.Internal, c.CommandPath(), "%w", err)
	}
	return writeObject(c, form, bytes.TrimSpace(b.Bytes()))
}

// writeObject writes JSON as json or yaml.
func writeObject(c *cobra.Command, form string, data []byte) error {
	if form == "yaml" {
		var v any
		// JSON is YAML, and read as such its integers stay integers.
		if err := yaml.Unmarshal(data, &v); err != nil {
			return errs.E(errs.Internal, c.CommandPath(), "%w", err)
		}
		out, err := yaml.Marshal(v)
		if err != nil {
			return errs.E(errs.Internal, c.CommandPath(), "%w", err)
		}
		_, err = c.OutOrStdout().Write(out)
		return err
	}
	// protojson's spacing differs from build to build on purpose; ours is stable.
	var b bytes.Buffer
	if err := json.Indent(&b, data, "", "  "); err != nil {
		return errs.E(errs.Internal, c.CommandPath(), "%w", err)
	}
	b.WriteByte('\n')
	_, err := b.WriteTo(c.OutOrStdout())
	return err
}

// row prints one line of a table.
func row(w io.Writer, cells ...any) {
	s := make([]string, len(cells))
	for i, c := range cells {
		if s[i] = fmt.Sprint(c); s[i] == "" {
			s[i] = "-"
		}
	}
	fmt.Fprintln(w, strings.Join(s, "\t"))
}

// when prints a time as people read it, in their zone.
func when(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().Local().Format(time.DateTime)
}

// size prints bytes with a binary unit.
func size(n int64) string {
	units := []string{"", "Ki", "Mi", "Gi", "Ti"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	if f == float64(int64(f)) {
		return fmt.Sprintf("%d%s", int64(f), units[i])
	}
	return fmt.Sprintf("%.1f%s", f, units[i])
}

// compactLine writes JSON as one line, with the same spacing whoever encoded it.
func compactLine(w io.Writer, data []byte) error {
	var b bytes.Buffer
	if err := json.Compact(&b, data); err != nil {
		return errs.E(errs.Internal, "print", "%w", err)
	}
	b.WriteByte('\n')
	_, err := b.WriteTo(w)
	return err
}

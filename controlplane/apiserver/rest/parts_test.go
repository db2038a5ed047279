package rest

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/reflect/protoreflect"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/errs"
)

func TestNegotiate(t *testing.T) {
	for name, tc := range map[string]struct {
		accept string
		want   form
		none   bool
	}{
		"nothing said":        {"", natural, false},
		"anything":            {"*/*", natural, false},
		"a browser":           {"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", natural, false},
		"lines":               {"application/x-ndjson", lines, false},
		"JSON":                {"application/json", lines, false},
		"an event source":     {"text/event-stream", events, false},
		"with parameters":     {"text/event-stream; charset=utf-8", events, false},
		"bytes":               {"application/octet-stream", plain, false},
		"the first of equals": {"application/octet-stream, text/event-stream", plain, false},
		"the better one":      {"application/octet-stream;q=0.1, text/event-stream;q=0.2", events, false},
		"refused by weight":   {"text/event-stream;q=0, application/json", lines, false},
		"none of ours":        {"text/csv", natural, true},
		"all refused":         {"*/*;q=0", natural, true},
		"a weight that isn't": {"text/event-stream;q=high", natural, true},
	} {
		media, f, ok := negotiate([]string{tc.accept})
		if ok == tc.none || ok && (f != tc.want || media == "") {
			t.Errorf("%s: %q %v %v", name, media, f, ok)
		}
	}
}

// FuzzNegotiate: whatever a client accepts, the form is one that the gateway knows.
func FuzzNegotiate(f *testing.F) {
	f.Add("*/*", "text/event-stream;q=0.5")
	f.Add("", ";;q=,")
	f.Fuzz(func(t *testing.T, a, b string) {
		media, got, ok := negotiate([]string{a, b})
		if !ok {
			return
		}
		for _, m := range mediaTypes {
			if m.name == media && m.form == got {
				return
			}
		}
		t.Fatalf("%q and %q: %q, %v", a, b, media, got)
	})
}

// FuzzCheckJSON: what it lets through is one JSON value, and what it refuses it places
// inside of the body.
func FuzzCheckJSON(f *testing.F) {
	for _, s := range []string{"", "{}", "{} {}", "{\n \"a\": nul}", "[1,", "\"\n\"", "\xff"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		err := checkJSON("test", data)
		if (err == nil) != (len(data) == 0 || json.Valid(data)) {
			t.Fatalf("%q: %v", data, err)
		}
		e, ok := errors.AsType[*errs.Error](err)
		if !ok {
			return
		}
		line, column, ok := place(e.Place)
		all := strings.Split(string(data), "\n")
		if e.Kind != errs.Invalid || !ok || line < 1 || line > len(all) || column < 1 || column > len(all[line-1])+1 {
			t.Fatalf("%q: %q", data, e.Place)
		}
	})
}

func place(s string) (line, column int, ok bool) {
	rest, ok := strings.CutPrefix(s, "body:")
	if !ok {
		return 0, 0, false
	}
	var at [2]int
	if err := json.Unmarshal([]byte("["+strings.ReplaceAll(rest, ":", ",")+"]"), &at); err != nil {
		return 0, 0, false
	}
	return at[0], at[1], true
}

func TestKnownParameters(t *testing.T) {
	runs := (&v1.ListRunsRequest{}).ProtoReflect().Descriptor()
	herd := (&v1.PutHerdRequest{}).ProtoReflect().Descriptor()
	label := (&v1.LabelNodeRequest{}).ProtoReflect().Descriptor()
	for name, tc := range map[string]struct {
		d     protoreflect.MessageDescriptor
		query string
		bad   string
	}{
		"none":               {runs, "", ""},
		"by name":            {runs, "herd=a&limit=3", ""},
		"by JSON name":       {herd, "requestId=12345678", ""},
		"unknown":            {runs, "herd=a&limits=3", "limits"},
		"a field's field":    {herd, "herd.quota.milli_cpu=3", ""},
		"no field's field":   {herd, "herd.quota.cpu=3", "herd.quota.cpu"},
		"a scalar's field":   {runs, "herd.x=3", "herd.x"},
		"a message":          {herd, "herd=3", "herd"},
		"a map":              {label, "set=3", "set"},
		"a key of a map":     {label, "set[a.b]=3", ""},
		"without an end":     {label, "set[a=3", "set[a"},
		"two keys":           {label, "set[a][b]=3", "set[a][b]"},
		"a bracket in a key": {label, "set[[a]=3", "set[[a]"},
		"a key of two lines": {label, "set[a%0Ab]=3", "set[a\nb]"},
		"what is no text":    {label, "set[%ff]=3", "set[\xff]"},
		"a scalar's key":     {runs, "herd[a]=3", "herd[a]"},
		"a message's key":    {herd, "herd[a]=3", "herd[a]"},
		"no map's key":       {label, "sets[a]=3", "sets[a]"},
		"a map's field":      {label, "set.a=3", "set.a"},
		"a list":             {label, "remove=a&remove=b", ""},
		"a name with spaces": {runs, "+=1", " "},
	} {
		q, err := url.ParseQuery(tc.query)
		if err != nil {
			t.Fatal(err)
		}
		err = knownParameters(tc.d, q)
		e, ok := errors.AsType[*errs.Error](err)
		if ok != (tc.bad != "") || ok && (e.Field != tc.bad || e.Hint == "") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzKnownParameters: no name of a parameter ends in anything but an answer.
func FuzzKnownParameters(f *testing.F) {
	herd, label := (&v1.PutHerdRequest{}).ProtoReflect().Descriptor(), (&v1.LabelNodeRequest{}).ProtoReflect().Descriptor()
	f.Add("herd.quota.milli_cpu")
	f.Add("..")
	f.Add("set[a]")
	f.Fuzz(func(t *testing.T, name string) {
		for _, d := range []protoreflect.MessageDescriptor{herd, label} {
			if err := knownParameters(d, url.Values{name: {"1"}}); err == nil && !utf8.ValidString(name) {
				t.Fatalf("%q is a field", name)
			}
		}
	})
}

// TestEveryKindHasAStatus: two kinds may share one, but none is left to the default.
func TestEveryKindHasAStatus(t *testing.T) {
	for k := errs.Internal + 1; ; k++ {
		if _, ok := errs.ParseKind(k.String()); !ok {
			break
		}
		if c := Status(k); c == http.StatusInternalServerError || http.StatusText(c) == "" {
			t.Errorf("%s: %d", k, c)
		}
	}
	if Status(errs.Internal) != http.StatusInternalServerError {
		t.Error("internal is the server's")
	}
}

package rest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime"
	"slices"
	"strconv"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	v1 "github.com/runink/runink/api/runink/v1"
)

// form is how an answer is written. Answers that are no streams are JSON in each of them.
type form uint8

const (
	natural form = iota // bytes as bytes, everything else as lines
	lines               // a JSON object a line: {"result": …}, or at the end {"error": …}
	events              // server-sent events
	plain               // the bytes that a stream carries, and nothing else
)

// mediaTypes are the forms by what a client accepts, as the gateway knows them.
var mediaTypes = []struct {
	name string
	form form
}{
	{runtime.MIMEWildcard, natural},
	{jsonType, lines},
	{"application/x-ndjson", lines},
	{"text/event-stream", events},
	{bytesType, plain},
}

// negotiate chooses by RFC 9110, section 12.5.1, the media type the client prefers of those
// there are; false if it accepts none.
func negotiate(accept []string) (string, form, bool) {
	type choice struct {
		name string
		q    float64
	}
	var all []choice
	for part := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		name, params, err := mime.ParseMediaType(strings.TrimSpace(part))
		if err != nil {
			continue
		}
		q := 1.0
		if s, ok := params["q"]; ok {
			if q, err = strconv.ParseFloat(s, 64); err != nil {
				continue
			}
		}
		if q > 0 {
			all = append(all, choice{name, q})
		}
	}
	if len(all) == 0 && strings.TrimSpace(strings.Join(accept, "")) == "" {
		return runtime.MIMEWildcard, natural, true
	}
	slices.SortStableFunc(all, func(a, b choice) int {
		switch {
		case a.q > b.q:
			return -1
		case a.q < b.q:
			return 1
		}
		return 0
	})
	for _, c := range all {
		if c.name == "*/*" || c.name == "application/*" {
			return runtime.MIMEWildcard, natural, true
		}
		for _, m := range mediaTypes {
			if m.name == c.name {
				return m.name, m.form, true
			}
		}
	}
	return "", natural, false
}

// codec writes messages in one form. It implements the gateway's Marshaler, Delimited and
// StreamContentType.
type codec struct {
	runtime.JSONPb
	form form
}

func newCodec(f form) *codec {
	return &codec{form: f, JSONPb: runtime.JSONPb{
		// Names as the command's -o json has them. Every number, text and list is there, even
		// if it is empty; an object (a time, too) only if there is one, as the OpenAPI document
		// knows no null.
		MarshalOptions: protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true},
	}}
}

// bytesOf are the bytes that a message of a stream carries.
func bytesOf(v any) (data []byte, ok bool) {
	m, ok := v.(interface{ GetData() []byte })
	if !ok {
		return nil, false
	}
	return m.GetData(), true
}

// of is the form for one message: natural is one of the others by what the stream carries.
func (c *codec) of(v any) form {
	if c.form != natural {
		return c.form
	}
	switch v.(type) {
	case *v1.DownloadBlobResponse, *v1.OpenRejectedResponse, *v1.SnapshotChunk, *v1.DecisionsResponse:
		return plain
	}
	return lines
}

// StreamContentType implements runtime.StreamContentType.
func (c *codec) StreamContentType(v any) string {
	switch c.of(v) {
	case events:
		return "text/event-stream"
	case plain:
		return bytesType
	}
	return "application/x-ndjson"
}

// Delimiter implements runtime.Delimited. Marshal writes it, since it knows the form.
func (c *codec) Delimiter() []byte { return []byte{} }

// Marshal implements runtime.Marshaler. The gateway gives it a message, or, of a stream, a
// map with a result or an error in it.
func (c *codec) Marshal(v any) ([]byte, error) {
	switch v := v.(type) {
	case map[string]any:
		return c.result(v["result"])
	case map[string]proto.Message:
		return []byte{}, nil // the end of a stream that failed: exchange.fail has written it
	case proto.Message:
		b, err := c.json(v)
		return append(b, '\n'), err
	}
	return nil, fmt.Errorf("cannot write a %T", v)
}

// json is a message without the spaces that protojson varies from build to build.
func (c *codec) json(m proto.Message) ([]byte, error) {
	b, err := c.MarshalOptions.Marshal(m)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := json.Compact(&out, b); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func (c *codec) result(v any) ([]byte, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("a stream of %T", v)
	}
	f := c.of(m)
	if f == plain {
		data, ok := bytesOf(m)
		if !ok {
			return nil, fmt.Errorf("%s carries no bytes", m.ProtoReflect().Descriptor().Name())
		}
		return data, nil
	}
	b, err := c.json(m)
	if err != nil {
		return nil, err
	}
	if f == events {
		return slices.Concat([]byte("data: "), b, []byte("\n\n")), nil
	}
	return slices.Concat([]byte(`{"result":`), b, []byte("}\n")), nil
}

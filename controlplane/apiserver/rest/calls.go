package rest

import (
	"context"
	"errors"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
)

// idempotencyKey is the header that carries a request id, for clients that send a mutation
// again when they did not hear the answer.
const idempotencyKey = "Idempotency-Key"

// DialOptions are what the connection of a Gateway is made with. They complete what the
// generated code makes of a request, and bound how long a call may take.
func DialOptions(l Limits) []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			if err := complete(ctx, req); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(ctx, l.Call)
			defer cancel()
			err := invoke(ctx, method, req, reply, cc, opts...)
			if status.Code(err) == codes.DeadlineExceeded && ctx.Err() != nil {
				return errs.E(errs.Timeout, method, "it did not end within %s", l.Call.Round(time.Millisecond)).
					WithHint("it may have happened: send it again with the same %s", idempotencyKey)
			}
			return err
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			if x := exchangeOf(ctx); x != nil {
				x.stream = true
				if x.form == plain && !x.raw && !carriesBytes(method) {
					return nil, errs.E(errs.Invalid, method, "it answers with objects, not with bytes").
						WithField("Accept").WithHint("accept application/x-ndjson or text/event-stream")
				}
			}
			s, err := streamer(ctx, desc, cc, method, opts...)
			if err != nil {
				return nil, err
			}
			if err := accepted(s); err != nil {
				return nil, err
			}
			return &checkedStream{ClientStream: s, ctx: ctx}, nil
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16 << 20)),
	}
}

// accepted waits for the header, which the router sends as soon as the caller may use the
// stream: whoever may not has it refused before anything of a body is read.
func accepted(s grpc.ClientStream) error {
	md, err := s.Header()
	if err != nil {
		return err
	}
	if md != nil {
		return nil
	}
	// A refusal is a status without a header: it is all there is to receive.
	if err := s.RecvMsg(nil); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return errs.E(errs.Internal, "call", "the server ended the stream before it began")
}

// carriesBytes reports whether the messages that a stream answers with have data in them.
func carriesBytes(method string) bool {
	name := protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(method, "/"), "/", "."))
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if err != nil {
		return false
	}
	m, ok := d.(protoreflect.MethodDescriptor)
	return ok && m.Output().Fields().ByName("data") != nil
}

// checkedStream completes the first message of a stream, which alone says what is asked for.
type checkedStream struct {
	grpc.ClientStream
	ctx   context.Context
	begun bool
}

func (s *checkedStream) SendMsg(m any) error {
	if !s.begun {
		if err := complete(s.ctx, m); err != nil {
			return err
		}
		s.begun = true
	}
	return s.ClientStream.SendMsg(m)
}

// complete refuses query parameters that the request has no field for, which the generated
// code overlooks, and fills an empty request_id: from the header, else with a random one.
func complete(ctx context.Context, req any) error {
	x := exchangeOf(ctx)
	m, ok := req.(proto.Message)
	if x == nil || !ok {
		return errs.E(errs.Internal, "call", "a %T outside of an exchange", req)
	}
	if !x.raw {
		if err := knownParameters(m.ProtoReflect().Descriptor(), x.r.URL.Query()); err != nil {
			return err
		}
	}
	r := m.ProtoReflect()
	f := r.Descriptor().Fields().ByName("request_id")
	if f == nil || f.Kind() != protoreflect.StringKind || r.Get(f).String() != "" {
		return nil
	}
	id := x.r.Header.Get(idempotencyKey)
	if id == "" {
		id = apiclient.NewRequestID()
	}
	r.Set(f, protoreflect.ValueOfString(id))
	return nil
}

// knownParameters refuses a parameter that names no field of d.
func knownParameters(d protoreflect.MessageDescriptor, query url.Values) error {
	for name := range query {
		field, key, keyed := strings.Cut(name, "[")
		// The gateway takes what stands before the last bracket for the field, and no key of two lines.
		if keyed && (!strings.HasSuffix(key, "]") || strings.ContainsAny(key, "[\n") || !utf8.ValidString(key)) || !hasField(d, strings.Split(field, "."), keyed) {
			return errs.E(errs.Invalid, "check request", "there is no such parameter").WithField(name).
				WithHint("there are: %s", strings.Join(scalarFields(d), ", "))
		}
	}
	return nil
}

// hasField follows a path of names, each the field's own or its JSON name. keyed: its end is a
// map, of which a key is given.
func hasField(d protoreflect.MessageDescriptor, path []string, keyed bool) bool {
	for i, name := range path {
		if d == nil {
			return false
		}
		f := d.Fields().ByTextName(name)
		if f == nil {
			f = d.Fields().ByJSONName(name)
		}
		if f == nil {
			return false
		}
		last := i == len(path)-1
		if f.IsMap() {
			return keyed && last && f.MapValue().Message() == nil
		}
		d = f.Message()
		if last && (keyed || d != nil) {
			return false // a message is given by its fields
		}
	}
	return true
}

func scalarFields(d protoreflect.MessageDescriptor) []string {
	var out []string
	for i := range d.Fields().Len() {
		switch f := d.Fields().Get(i); {
		case f.IsMap() && f.MapValue().Message() == nil:
			out = append(out, string(f.Name())+"[KEY]")
		case f.Message() == nil:
			out = append(out, string(f.Name()))
		}
	}
	slices.Sort(out)
	return out
}

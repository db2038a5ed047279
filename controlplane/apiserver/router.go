package apiserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"

	"buf.build/go/protovalidate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/seal"
)

// router is what every RPC passes before its handler; see the package's promises for the
// order.
type router struct {
	auth     *authenticator
	policy   map[string]rule
	methods  map[string]protoreflect.MethodDescriptor // by full name, "/pkg.Service/Method"
	validate protovalidate.Validator
	leader   func() bool // this replica leads and is ready
	peers    *peers
	kek      seal.KEK
	log      *slog.Logger
}

// unary is the server's unary interceptor.
func (r *router) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		err = r.finish(info.FullMethod, recover(), err)
	}()
	ctx, md, p, known, err := r.who(ctx)
	if err != nil && known {
		return nil, err
	}
	rule, ok := r.policy[info.FullMethod]
	if !ok {
		return nil, errs.E(errs.Denied, info.FullMethod, "no policy allows it")
	}
	msg, ok := req.(proto.Message)
	if !ok {
		return nil, errs.E(errs.Internal, info.FullMethod, "a request that is no message")
	}
	if !r.leader() {
		switch {
		case rule.route == leader, rule.route == leaderOrStale && !wantsStale(msg):
			return r.forward(ctx, md, p, info.FullMethod, msg)
		case !known:
			if p, err = r.askLeader(ctx, md, p); err != nil {
				return nil, err
			}
			ctx = WithPrincipal(ctx, p)
		}
	} else if !known {
		return nil, err
	}
	if err := authorize(rule, info.FullMethod, p); err != nil {
		return nil, err
	}
	if err := inHerd(rule, p, msg); err != nil {
		return nil, err
	}
	if err := r.check(msg); err != nil {
		return nil, err
	}
	if ctx, err = r.remember(ctx, info.FullMethod, msg); err != nil {
		return nil, err
	}
	return handle(ctx, req)
}

// remember lets Barn tell a repeated request from another one with the same request id. The
// digest is keyed, because requests carry secrets and the log keeps it.
func (r *router) remember(ctx context.Context, method string, msg proto.Message) (context.Context, error) {
	if m, ok := msg.(interface{ GetRequestId() string }); !ok || m.GetRequestId() == "" {
		return ctx, nil
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(msg)
	if err != nil {
		return nil, errs.E(errs.Internal, method, "encode the request: %w", err)
	}
	return barn.WithRequest(ctx, r.kek.Derive("request", method, string(b))), nil
}

// stream is the server's stream interceptor. Streams are not forwarded: the caller is told
// who leads and goes there. The header is sent as soon as the caller may use the stream,
// which is how clients know that this is the right replica.
func (r *router) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
	defer func() {
		err = r.finish(info.FullMethod, recover(), err)
	}()
	ctx, md, p, known, err := r.who(ss.Context())
	if err != nil && known {
		return err
	}
	rule, ok := r.policy[info.FullMethod]
	if !ok {
		return errs.E(errs.Denied, info.FullMethod, "no policy allows it")
	}
	if !r.leader() {
		switch {
		case rule.route != local:
			return errs.E(errs.Unavailable, info.FullMethod, "this control node does not lead")
		case !known:
			if p, err = r.askLeader(ctx, md, p); err != nil {
				return err
			}
			ctx = WithPrincipal(ctx, p)
		}
	} else if !known {
		return err
	}
	if err := authorize(rule, info.FullMethod, p); err != nil {
		return err
	}
	if err := ss.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	return handle(srv, &serverStream{ServerStream: ss, ctx: ctx, r: r, rule: rule, p: p})
}

// serverStream checks what arrives, and carries the principal. With every message it looks
// whether the caller is still who it was: a stream may outlive its node or key.
type serverStream struct {
	grpc.ServerStream
	ctx  context.Context
	r    *router
	rule rule
	p    Principal
}

func (s *serverStream) Context() context.Context { return s.ctx }

func (s *serverStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	if err := s.r.auth.still(s.p); err != nil {
		return err
	}
	msg, ok := m.(proto.Message)
	if !ok {
		return errs.E(errs.Internal, "receive", "a request that is no message")
	}
	if err := inHerd(s.rule, s.p, msg); err != nil {
		return err
	}
	return s.r.check(msg)
}

func (s *serverStream) SendMsg(m any) error {
	if err := s.r.auth.still(s.p); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(m)
}

// who authenticates the caller and strips the metadata that only this package reads.
func (r *router) who(ctx context.Context) (context.Context, metadata.MD, Principal, bool, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	p, known, err := r.auth.caller(ctx, md)
	clean := md.Copy()
	for _, k := range private() {
		clean.Delete(k)
	}
	ctx = WithPrincipal(metadata.NewIncomingContext(ctx, clean), p)
	return ctx, md, p, known, err
}

// finish turns a panic into an error, and an error into a status.
func (r *router) finish(method string, panicked any, err error) error {
	if panicked != nil {
		r.log.Error("an RPC panicked", "method", method, "panic", fmt.Sprint(panicked), "stack", string(debug.Stack()))
		err = errs.E(errs.Internal, method, "the control node failed on this request; its log has more")
	}
	if err == nil {
		return nil
	}
	var hint *v1.LeaderHint
	if errors.Is(err, errs.Unavailable) && !r.leader() {
		hint = r.peers.leader()
	}
	if _, forwarded := status.FromError(err); !forwarded && errs.KindOf(err) == errs.Internal {
		r.log.Error("an RPC failed", "method", method, "err", err)
	}
	return apiclient.Status(err, hint)
}

// authorize compares the caller's role with the policy.
func authorize(r rule, method string, p Principal) error {
	const op = "authorize"
	if p.Expired && method != v1.JoinService_Renew_FullMethodName {
		return errs.E(errs.Unauthenticated, op, "the certificate of %s has expired, and may only be renewed", p).WithHint("`runink join` renews it")
	}
	if r.allows(p.Role) {
		return nil
	}
	if p.Role == Anonymous {
		return errs.E(errs.Unauthenticated, op, "%s needs a certificate or an API key", method).
			WithHint("choose a context that has one: runink --context NAME; over HTTP show the certificate, or send Authorization: Bearer and the key")
	}
	return errs.E(errs.Denied, op, "%s, with role %s, may not call %s", p, p.Role, method)
}

// inHerd keeps a herd's key in its herd where the request names one. An empty herd stands
// for all the caller may see; the handler filters.
func inHerd(r rule, p Principal, msg proto.Message) error {
	if r.herd != inRequest || p.Herd == "" {
		return nil
	}
	m := msg.ProtoReflect()
	f := m.Descriptor().Fields().ByName("herd")
	if f == nil || f.Kind() != protoreflect.StringKind {
		return errs.E(errs.Internal, "authorize", "%s has no field herd", m.Descriptor().FullName())
	}
	if herd := m.Get(f).String(); herd != "" && herd != p.Herd {
		return errs.E(errs.Denied, "authorize", "%s is of herd %q", p, p.Herd).WithField("herd")
	}
	return nil
}

func wantsStale(msg proto.Message) bool {
	c, ok := msg.(interface{ GetConsistency() v1.Consistency })
	return ok && c.GetConsistency() == v1.Consistency_CONSISTENCY_STALE
}

// check validates a message by the constraints in its .proto.
func (r *router) check(msg proto.Message) error {
	err := r.validate.Validate(msg)
	if err == nil {
		return nil
	}
	var bad *protovalidate.ValidationError
	if !errors.As(err, &bad) || len(bad.Violations) == 0 {
		return errs.E(errs.Internal, "validate", "%w", err)
	}
	v := bad.Violations[0]
	return errs.E(errs.Invalid, "check request", "%s", inWords(v)).WithField(protovalidate.FieldPathString(v.Proto.GetField())).
		WithHint("%s", nextStep(v.Proto.GetRuleId(), v.Proto.GetMessage()))
}

// inWords is what a rule of the .proto found, for people.
func inWords(v *protovalidate.Violation) string {
	rule := v.Proto.GetRuleId()
	what, _ := form(rule, v.Proto.GetMessage())
	switch {
	case rule == "string.min_len" && v.FieldValue.IsValid() && v.FieldValue.String() == "":
		return "it is missing"
	case what != "" && v.FieldValue.IsValid():
		return fmt.Sprintf("%.80q is no %s", v.FieldValue.String(), what)
	case rule == "string.pattern" && v.FieldValue.IsValid():
		return fmt.Sprintf("%.80q %s", v.FieldValue.String(), v.Proto.GetMessage())
	}
	return v.Proto.GetMessage()
}

// form says what a rule about the form of a string asks for, and what that looks like; "" for
// a rule that speaks for itself.
func form(rule, message string) (what, looks string) {
	switch {
	case strings.Contains(message, "[a-z0-9]([a-z0-9-]"):
		return "name", "lower-case letters, digits and hyphens, up to 63, and it begins and ends without a hyphen"
	case strings.Contains(message, "|oldest|"):
		return "cursor of an event", "one stands before each that `runink events` prints, such as 4711.0; now and oldest do as well"
	case strings.Contains(message, "[a-z0-9._/-]"):
		return "path of a secret", "1 to 128 of a-z 0-9 . _ / -, and it begins with a letter or a digit"
	case strings.Contains(message, "sha256:"):
		return "digest", "sha256: and 64 hexadecimal digits"
	case rule == "string.min_len" && strings.Contains(message, "12 "), rule == "string.max_len" && strings.Contains(message, "36 "):
		return "MAC address or UUID", "such as 52:54:00:12:34:56; `runink node machines` shows both of those that have asked"
	}
	return "", ""
}

// nextStep says in plain words how to satisfy a rule of the .proto.
func nextStep(rule, message string) string {
	_, looks := form(rule, message)
	switch {
	case looks != "":
		return looks
	case strings.HasSuffix(rule, ".in"):
		return "use one of those listed"
	case strings.HasSuffix(rule, ".min_len"), strings.HasSuffix(rule, "required"):
		return "it is missing or too short: give one"
	}
	return "correct that field and send the request again; nothing was changed"
}

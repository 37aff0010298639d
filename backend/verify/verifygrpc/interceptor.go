// Package verifygrpc checks the tokens of gRPC calls with package verify. It is a package of its own, so that other API
// servers do not depend on gRPC.
package verifygrpc

import (
	"context"
	"net/netip"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
)

// Checker decides on tokens. *verify.Verifier is one.
type Checker interface {
	Check(ctx context.Context, token string, use *verify.Use) (verify.Decision, error)
}

// Scopes returns the scopes that a method such as "/shop.Orders/List" requires. A method for which ok is false is refused.
type Scopes func(method string) (scopes []string, ok bool)

// Option changes an interceptor.
type Option func(*interceptor)

// Observe has a function called with each decision on a call, allowed or refused, and the context of the call: for traces and
// metrics, as verify.Observe. The function must not block. A call of a method that Scopes refuses has no decision, nor has a call
// on which no decision can be made.
func Observe(observe func(context.Context, verify.Decision)) Option {
	return func(i *interceptor) { i.observers = append(i.observers, observe) }
}

// interceptor checks the tokens of calls.
type interceptor struct {
	checker   Checker
	scopes    Scopes
	observers []func(context.Context, verify.Decision)
}

func newInterceptor(c Checker, scopes Scopes, options []Option) *interceptor {
	i := &interceptor{checker: c, scopes: scopes}
	for _, o := range options {
		o(i)
	}
	return i
}

// Unary returns an interceptor that checks the token of each call, in the metadata "authorization". The peer is the
// client. A refused call has the code Unauthenticated, PermissionDenied or ResourceExhausted, and Unavailable if no
// decision can be made. verify.From returns the Decision about an allowed call.
func Unary(c Checker, scopes Scopes, options ...Option) grpc.UnaryServerInterceptor {
	i := newInterceptor(c, scopes, options)
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		ctx, err := i.check(ctx, info.FullMethod)
		if err != nil {
			return nil, err
		}
		return handler(ctx, req)
	}
}

// Stream is Unary for streams. The token is checked when the stream begins.
func Stream(c Checker, scopes Scopes, options ...Option) grpc.StreamServerInterceptor {
	i := newInterceptor(c, scopes, options)
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		ctx, err := i.check(stream.Context(), info.FullMethod)
		if err != nil {
			return err
		}
		return handler(srv, &checked{stream, ctx})
	}
}

type checked struct {
	grpc.ServerStream
	ctx context.Context
}

// Context returns the context with the Decision.
func (s *checked) Context() context.Context { return s.ctx }

// check decides on a call. The context that it returns has the decision.
func (i *interceptor) check(ctx context.Context, method string) (context.Context, error) {
	required, ok := i.scopes(method)
	if !ok {
		return nil, status.Error(codes.PermissionDenied, "the method is not open to tokens")
	}
	d, err := i.decide(ctx, method, required)
	if err != nil {
		return nil, status.Error(codes.Unavailable, "the token cannot be checked now")
	}
	for _, observe := range i.observers {
		observe(ctx, d)
	}
	switch {
	case d.Reason == verify.BadRequest:
		return nil, status.Error(codes.Unauthenticated, d.Detail)
	case !d.Allowed:
		return nil, status.Error(codeOf(d.Reason), "the token is not good for this call")
	}
	return verify.NewContext(ctx, d), nil
}

func (i *interceptor) decide(ctx context.Context, method string, required []string) (verify.Decision, error) {
	headers, _ := metadata.FromIncomingContext(ctx)
	values := headers.Get("authorization")
	if len(values) > 1 {
		return verify.Decision{Reason: verify.BadRequest, Detail: "the call has more than one token"}, nil
	}
	use := useOf(ctx, headers, method)
	use.Scopes = required
	token := ""
	if len(values) == 1 {
		use.Scheme, token, _ = strings.Cut(values[0], " ")
	}
	return i.checker.Check(ctx, strings.TrimLeft(token, " "), use)
}

// useOf returns what the call says of the use of its token: the peer is the client.
func useOf(ctx context.Context, headers metadata.MD, method string) *verify.Use {
	use := &verify.Use{Method: "POST", Proofs: headers.Get("dpop")}
	if hosts := headers.Get(":authority"); len(hosts) == 1 {
		use.Host = hosts[0]
	}
	scheme := "http"
	if p, ok := peer.FromContext(ctx); ok {
		if addr, err := netip.ParseAddrPort(p.Addr.String()); err == nil {
			use.Client = addr.Addr()
		}
		if t, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			scheme = "https"
			if len(t.State.PeerCertificates) > 0 {
				use.Certificate = t.State.PeerCertificates[0]
			}
		}
	}
	use.URL = scheme + "://" + use.Host + method
	return use
}

func codeOf(reason access.Reason) codes.Code {
	switch reason {
	case verify.RateLimited:
		return codes.ResourceExhausted
	case access.InsufficientScope, access.AddressNotAllowed, access.RegionNotAllowed, access.HostNotAllowed:
		return codes.PermissionDenied
	}
	return codes.Unauthenticated
}

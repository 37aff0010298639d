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

// Unary returns an interceptor that checks the token of each call, in the metadata "authorization". The peer is the
// client. A refused call has the code Unauthenticated, PermissionDenied or ResourceExhausted, and Unavailable if no
// decision can be made. verify.From returns the Decision about an allowed call.
func Unary(c Checker, scopes Scopes) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		ctx, err := check(ctx, c, scopes, info.FullMethod)
		if err != nil {
			return nil, err
		}
		return handler(ctx, req)
	}
}

// Stream is Unary for streams. The token is checked when the stream begins.
func Stream(c Checker, scopes Scopes) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		ctx, err := check(stream.Context(), c, scopes, info.FullMethod)
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

func check(ctx context.Context, c Checker, scopes Scopes, method string) (context.Context, error) {
	required, ok := scopes(method)
	if !ok {
		return nil, status.Error(codes.PermissionDenied, "the method is not open to tokens")
	}
	headers, _ := metadata.FromIncomingContext(ctx)
	values := headers.Get("authorization")
	if len(values) > 1 {
		return nil, status.Error(codes.Unauthenticated, "the call has more than one token")
	}
	use := &verify.Use{Scopes: required, Method: "POST", Proofs: headers.Get("dpop")}
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
	token := ""
	if len(values) == 1 {
		use.Scheme, token, _ = strings.Cut(values[0], " ")
	}
	d, err := c.Check(ctx, strings.TrimLeft(token, " "), use)
	switch {
	case err != nil:
		return nil, status.Error(codes.Unavailable, "the token cannot be checked now")
	case !d.Allowed:
		return nil, status.Error(codeOf(d.Reason), "the token is not good for this call")
	}
	return verify.NewContext(ctx, d), nil
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

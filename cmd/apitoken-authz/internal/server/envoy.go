package server

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/textproto"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
)

// Envoy serves ext_authz v3. A refusal is an answer, never an error of gRPC: Envoy could be configured to let errors pass.
type Envoy struct {
	authv3.UnimplementedAuthorizationServer
	*Server
}

// Check implements authv3.AuthorizationServer.
func (e Envoy) Check(ctx context.Context, q *authv3.CheckRequest) (response *authv3.CheckResponse, _ error) {
	defer func() {
		if p := recover(); p != nil {
			e.panicked("envoy", p)
			response = denied(&Answer{Status: http.StatusServiceUnavailable, Reason: reasonInternal})
		}
	}()
	a := e.handle(ctx, e.kinds.of("envoy"), func() (*Request, *problem) {
		if !e.fromEnvoy(ctx) {
			return nil, &problem{http.StatusForbidden, reasonGateway, "the peer is not in gateway_addresses"}
		}
		return e.readEnvoy(q.GetAttributes())
	})
	if a.Allowed {
		response = allowed(a)
	} else {
		response = denied(a)
	}
	a.free()
	return response, nil
}

// fromEnvoy reports whether the peer of a call may ask.
func (s *Server) fromEnvoy(ctx context.Context) bool {
	from, ok := peer.FromContext(ctx)
	if !ok {
		return false
	}
	if tcp, ok := from.Addr.(*net.TCPAddr); ok && len(s.gateways) > 0 {
		return s.isGateway(tcp.AddrPort().Addr()) // without a text of the address
	}
	return s.fromGateway(from.Addr.String())
}

// readEnvoy reads the attributes of a request. Envoy does not decode the path, and leaves the query in it.
func (s *Server) readEnvoy(attributes *authv3.AttributeContext) (*Request, *problem) {
	h := attributes.GetRequest().GetHttp()
	if h == nil {
		return nil, bad(reasonBadRequest, "the attributes have no HTTP request")
	}
	header := make(http.Header, len(h.GetHeaders()))
	values := make([]string, 0, len(h.GetHeaders()))
	for name, value := range h.GetHeaders() {
		if strings.HasPrefix(name, ":") {
			continue
		}
		// The names of a map differ, but two may have one canonical form.
		if name = textproto.CanonicalMIMEHeaderKey(name); header[name] != nil {
			header.Add(name, value)
			continue
		}
		values = append(values, value)
		header[name] = values[len(values)-1 : len(values) : len(values)]
	}
	for _, raw := range h.GetHeaderMap().GetHeaders() {
		if strings.HasPrefix(raw.GetKey(), ":") {
			continue
		}
		value := string(raw.GetRawValue())
		if value == "" {
			value = raw.GetValue()
		}
		header.Add(textproto.CanonicalMIMEHeaderKey(raw.GetKey()), value)
	}
	source := attributes.GetSource()
	nearest, err := netip.ParseAddr(source.GetAddress().GetSocketAddress().GetAddress())
	if err != nil {
		return nil, bad(reasonBadRequest, "source.address is missing, or is not an address")
	}
	client, p := s.client(nearest.Unmap(), header["X-Forwarded-For"])
	if p != nil {
		return nil, p
	}
	r := newRequest()
	r.Method, r.Target, r.Host, r.Scheme = h.GetMethod(), h.GetPath(), h.GetHost(), strings.ToLower(h.GetScheme())
	r.Client, r.Header = client, header
	if s.settings.ClientCertificates {
		if r.Certificate, p = parseCertificate(source.GetCertificate()); p != nil {
			return nil, p
		}
	}
	return r, nil
}

func option(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: name, Value: value},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

// options returns headers in a fixed order.
func options(h http.Header) []*corev3.HeaderValueOption {
	var list []*corev3.HeaderValueOption
	for _, name := range [...]string{"Www-Authenticate", "Retry-After", "Dpop-Nonce", "Ratelimit-Policy", "Ratelimit"} {
		for i, value := range h[name] {
			o := option(name, value)
			if i > 0 { // several challenges
				o.AppendAction = corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD
			}
			list = append(list, o)
		}
	}
	return list
}

func allowed(a *Answer) *authv3.CheckResponse {
	ok := &authv3.OkHttpResponse{HeadersToRemove: a.Remove, ResponseHeadersToAdd: options(a.Header)}
	values := identity(&a.Decision)
	var all [len(identityHeaders)]struct { // one allocation
		option corev3.HeaderValueOption
		header corev3.HeaderValue
	}
	ok.Headers = make([]*corev3.HeaderValueOption, len(all))
	for i, name := range identityHeaders {
		one := &all[i]
		one.header.Key, one.header.Value = name, values[i]
		one.option.Header, one.option.AppendAction = &one.header, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD
		ok.Headers[i] = &one.option
	}
	return &authv3.CheckResponse{
		Status:       &statuspb.Status{Code: int32(codes.OK)},
		HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: ok},
	}
}

func denied(a *Answer) *authv3.CheckResponse {
	code := codes.PermissionDenied
	if a.Status == http.StatusUnauthorized {
		code = codes.Unauthenticated
	}
	return &authv3.CheckResponse{
		Status: &statuspb.Status{Code: int32(code)},
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status:  &typev3.HttpStatus{Code: typev3.StatusCode(a.Status)}, //nolint:gosec // HTTP statuses are below 600
			Headers: append(options(a.Header), option("Content-Type", "application/json"), option("Cache-Control", "no-store")),
			Body:    a.body(),
		}},
	}
}

package connector

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"

	"golang.org/x/time/rate"
)

// limitedTransport applies the limits of the connection to every request, retries included.
type limitedTransport struct {
	next    http.RoundTripper
	limiter *rate.Limiter // nil: no limit
	slots   chan struct{}
}

// errNotSent wraps an error that occurred before the request was sent.
type errNotSent struct{ error }

func (e errNotSent) Unwrap() error { return e.error }

func (t *limitedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	if t.limiter != nil {
		if err := t.limiter.Wait(ctx); err != nil {
			return nil, errNotSent{errors.New("the connection's rate_limit leaves no time for the request")}
		}
	}
	select {
	case t.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, errNotSent{fmt.Errorf("waiting for one of max_concurrent requests: %w", ctx.Err())}
	}
	defer func() { <-t.slots }()
	return t.next.RoundTrip(req)
}

// CloseIdleConnections implements the interface that http.Client.CloseIdleConnections checks for.
func (t *limitedTransport) CloseIdleConnections() { t.next.(*http.Transport).CloseIdleConnections() }

// notSent reports whether an error proves that the service did not receive the request.
func notSent(err error) bool {
	if errors.As(err, new(errNotSent)) {
		return true
	}
	var op *net.OpError
	if errors.As(err, &op) && (op.Op == "dial" || op.Op == "proxyconnect") {
		return true
	}
	return errors.As(err, new(*net.DNSError)) || errors.As(err, new(*tls.CertificateVerificationError))
}

package connector

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/go-retryablehttp"
)

// retryPolicy says how a request may be repeated.
type retryPolicy struct {
	repeatable bool  // repeating the request has no further effect
	statuses   []int // retried besides retryStatuses
}

type retryPolicyKey struct{}

var retryStatuses = []int{http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout}

func checkRetry(ctx context.Context, resp *http.Response, err error) (bool, error) {
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	policy, _ := ctx.Value(retryPolicyKey{}).(retryPolicy)
	if err != nil {
		if errors.As(err, new(errNotSent)) || errors.As(err, new(*tls.CertificateVerificationError)) {
			return false, err
		}
		return policy.repeatable || notSent(err), nil
	}
	wait, told := retryAfter(resp)
	// A service that answers with Retry-After has not processed the request.
	refused := resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable && told
	switch {
	case !slices.Contains(retryStatuses, resp.StatusCode) && !slices.Contains(policy.statuses, resp.StatusCode):
		return false, nil
	case !policy.repeatable && !refused:
		return false, nil
	}
	// The deadline of a context uses the real clock, not the injected one.
	if deadline, ok := ctx.Deadline(); ok && time.Now().Add(wait).After(deadline) {
		return false, nil
	}
	return true, nil
}

func backoff(least, most time.Duration, attempt int, resp *http.Response) time.Duration {
	if wait, told := retryAfter(resp); told {
		return wait
	}
	return retryablehttp.LinearJitterBackoff(least<<attempt, min(most, least<<(attempt+1)), 0, nil)
}

// retryAfter returns how long the service asks to wait (RFC 9110 section 10.2.3).
func retryAfter(resp *http.Response) (time.Duration, bool) {
	if resp == nil {
		return 0, false
	}
	text := resp.Header.Get("Retry-After")
	if seconds, err := strconv.Atoi(text); err == nil && seconds >= 0 && seconds < 1<<31 {
		return time.Duration(seconds) * time.Second, true
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, time.Until(at)), true
	}
	return 0, false
}

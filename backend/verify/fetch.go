package verify

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// fetch reads a public document of the mount. It follows no redirect, and reads at most limit bytes. maxAge is how long
// the document may be cached; zero: not stated.
func (v *impl) fetch(ctx context.Context, path, mediaType string, limit int64) (body []byte, maxAge time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, v.config.RequestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, v.base+path, nil)
	if err != nil {
		return nil, 0, err
	}
	req.Header.Set("Accept", mediaType)
	resp, err := v.public.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, 0, &statusError{v.base + path, resp.StatusCode}
	}
	body, err = io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err == nil && int64(len(body)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", v.base+path, limit)
	}
	return body, maxAgeOf(resp.Header), err
}

// statusError says that a document could not be read.
type statusError struct {
	url    string
	status int
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%s answers with status %d, want 200", e.url, e.status)
}

// maxAgeOf returns the max-age of an answer (RFC 9111 section 5.2.2.1).
func maxAgeOf(h http.Header) time.Duration {
	for directive := range strings.SplitSeq(h.Get("Cache-Control"), ",") {
		if value, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(directive)), "max-age="); ok {
			if seconds, err := strconv.ParseInt(strings.Trim(value, `"`), 10, 32); err == nil && seconds > 0 {
				return time.Duration(seconds) * time.Second
			}
		}
	}
	return 0
}

// publicClient returns the client for public documents: that of the configuration, but without redirects.
func publicClient(c *http.Client) *http.Client {
	client := &http.Client{}
	if c != nil {
		*client = *c
	}
	client.Jar = nil
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return client
}

package connector

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/hashicorp/go-retryablehttp"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"
)

// ClientConfig is how an upstream is reached. The zero value of everything but URL is usable.
type ClientConfig struct {
	URL           string        // under which the paths of a provider are
	CACert        string        // PEM; default: the system's
	ClientCert    string        // PEM; for mutual TLS
	ClientKey     string        // PEM
	ProxyURL      string        // default: that of the environment
	Timeout       time.Duration // of a call, retries included; default DefaultTimeout
	RateLimit     float64       // requests a second; default: no limit
	MaxConcurrent int           // requests at once; default DefaultConcurrent
	UserAgent     string
	Dial          DialFunc // default: the network
}

// DialFunc makes a connection to a service, as net.Dialer.DialContext does.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Defaults and limits of a client.
const (
	DefaultTimeout    = 30 * time.Second
	DefaultConcurrent = 16

	maxAnswer  = 4 << 20 // bytes
	maxDepth   = 64      // of nested JSON
	maxValues  = 300_000 // of JSON: a value takes some ten times the memory that it has in text
	maxRetries = 4
	maxMessage = 300 // bytes of what an upstream says of an error
)

// Client calls one upstream, with one pool of connections.
type Client struct {
	base *url.URL
	http *retryablehttp.Client
	cfg  ClientConfig

	// listing keeps tokens from being ended while they are listed page by page: what comes after one that
	// goes moves up, and could be on a page that has been read.
	listing *semaphore.Weighted
}

const wholeListing = 1 << 30 // what listing takes of it; ending a token takes 1

// NewClient checks the settings; errors name the setting.
func NewClient(cfg ClientConfig) (*Client, error) {
	base, err := parseBase(cfg.URL)
	if err != nil {
		return nil, err
	}
	if cfg.RateLimit < 0 || math.IsNaN(cfg.RateLimit) {
		return nil, errors.New("rate_limit: must be requests a second, or 0 for no limit")
	}
	if cfg.MaxConcurrent < 0 {
		return nil, errors.New("max_concurrent: must not be negative")
	}
	cfg.Timeout = cmp.Or(cfg.Timeout, DefaultTimeout)
	cfg.MaxConcurrent = cmp.Or(cfg.MaxConcurrent, DefaultConcurrent)
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	}
	transport, err := cfg.transport()
	if err != nil {
		return nil, err
	}
	return &Client{base: base, cfg: cfg, listing: semaphore.NewWeighted(wholeListing), http: &retryablehttp.Client{
		HTTPClient: &http.Client{
			Transport: transport,
			// A redirect would carry the credential to where nobody has sent it.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		RetryMax:     maxRetries,
		RetryWaitMin: 100 * time.Millisecond,
		RetryWaitMax: 5 * time.Second,
		CheckRetry:   checkRetry,
		Backoff:      backoff,
		ErrorHandler: retryablehttp.PassthroughErrorHandler,
	}}, nil
}

func parseBase(text string) (*url.URL, error) {
	base, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, errors.New("url: is not a URL")
	case base.Scheme != "https" && base.Scheme != "http" || base.Host == "":
		return nil, fmt.Errorf("url: %q must be such as https://gitea.example.com", clip(text))
	case base.User != nil:
		return nil, errors.New("url: must not hold a user or a password, they belong into the credential")
	case base.RawQuery != "" || base.Fragment != "":
		return nil, errors.New("url: must not have a query or a fragment")
	}
	return base, nil
}

// transport returns the pool of connections, within the limits of the config.
func (cfg *ClientConfig) transport() (*limitedTransport, error) {
	tlsConfig, err := cfg.tls()
	if err != nil {
		return nil, err
	}
	proxy := http.ProxyFromEnvironment
	if cfg.ProxyURL != "" {
		u, err := url.Parse(cfg.ProxyURL)
		if err != nil || u.Host == "" {
			return nil, errors.New("proxy_url: must be such as http://proxy.example.com:3128")
		}
		proxy = http.ProxyURL(u)
	}
	limited := &limitedTransport{
		next: &http.Transport{
			Proxy:               proxy,
			DialContext:         cfg.Dial,
			TLSClientConfig:     tlsConfig,
			TLSHandshakeTimeout: 10 * time.Second,
			ForceAttemptHTTP2:   true,
			MaxIdleConns:        cfg.MaxConcurrent,
			MaxIdleConnsPerHost: cfg.MaxConcurrent,
			IdleConnTimeout:     90 * time.Second,
			// The answer is bounded when it is read; this bounds what comes before.
			MaxResponseHeaderBytes: 256 << 10,
		},
		slots: make(chan struct{}, cfg.MaxConcurrent),
	}
	if cfg.RateLimit > 0 {
		limited.limiter = rate.NewLimiter(rate.Limit(cfg.RateLimit), max(1, int(cfg.RateLimit)))
	}
	return limited, nil
}

func (cfg *ClientConfig) tls() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.CACert != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM([]byte(cfg.CACert)) {
			return nil, errors.New("ca_cert: has no certificate in PEM")
		}
	}
	if (cfg.ClientCert == "") != (cfg.ClientKey == "") {
		return nil, errors.New("client_cert: and client_key belong together")
	}
	if cfg.ClientCert != "" {
		pair, err := tls.X509KeyPair([]byte(cfg.ClientCert), []byte(cfg.ClientKey))
		if err != nil {
			return nil, errors.New("client_cert: is no certificate in PEM that fits client_key")
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// Close drops the idle connections.
func (c *Client) Close() { c.http.HTTPClient.CloseIdleConnections() }

// Timeout is how long a call may take, retries included.
func (c *Client) Timeout() time.Duration { return c.cfg.Timeout }

// hold takes a part of listing.
func (c *Client) hold(ctx context.Context, part int64) (release func(), err error) {
	if err := c.listing.Acquire(ctx, part); err != nil {
		return nil, &Error{Message: "the tokens of the upstream were being listed, which took too long"}
	}
	return func() { c.listing.Release(part) }, nil
}

// limitedTransport holds every request, retries too, to the limits of the connection.
type limitedTransport struct {
	next    http.RoundTripper
	limiter *rate.Limiter // nil: no limit
	slots   chan struct{}
}

// errNotSent wraps what kept a request from being sent.
type errNotSent struct{ error }

func (e errNotSent) Unwrap() error { return e.error }

func (t *limitedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	if t.limiter != nil {
		if err := t.limiter.Wait(ctx); err != nil {
			return nil, errNotSent{errors.New("the connection's rate_limit leaves no time for it")}
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

// CloseIdleConnections is what http.Client looks for.
func (t *limitedTransport) CloseIdleConnections() { t.next.(*http.Transport).CloseIdleConnections() }

// notSent tells whether surely nothing has reached the upstream.
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

// retryPolicy says how a request may be repeated.
type retryPolicy struct {
	repeatable bool  // doing it twice is as good as once
	statuses   []int // besides the usual
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
	// An upstream that says when to come back has not done it.
	refused := resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable && told
	switch {
	case !slices.Contains(retryStatuses, resp.StatusCode) && !slices.Contains(policy.statuses, resp.StatusCode):
		return false, nil
	case !policy.repeatable && !refused:
		return false, nil
	}
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

// retryAfter reads when the upstream wants to be asked again (RFC 9110 section 10.2.3).
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

// Error says why an upstream has not done what it was asked to.
type Error struct {
	Status     int           // of its answer; 0 where there was none
	Message    string        // what it said, or what went wrong on the way; without secrets
	Denied     bool          // the credential is not good for it
	Unsure     bool          // it may have been done nevertheless
	RetryAfter time.Duration // when it wants to be asked again; 0: it did not say
}

func (e *Error) Error() string {
	text := e.Message
	if e.Status != 0 {
		text = strings.TrimSpace(fmt.Sprintf("status %d %s", e.Status, http.StatusText(e.Status)))
		if e.Message != "" {
			text += ": " + e.Message
		}
	}
	if e.Denied {
		text += " (the connection's credential is not accepted, or not allowed to do this)"
	}
	if e.RetryAfter > 0 {
		text += fmt.Sprintf(" (it asks to come back in %s)", e.RetryAfter)
	}
	return text
}

// outgoing is a request that is ready to be sent.
type outgoing struct {
	method, path string
	query        url.Values
	headers      map[string]string
	mediaType    string
	body         []byte
	secrets      []string // headers that a secret is in, in whatever form
	policy       retryPolicy
}

// answer is what came back, decoded.
type answer struct {
	status  int
	headers map[string]string // names in lower case -> the first value
	body    any               // JSON, or the text
	after   time.Duration     // Retry-After
}

// send makes the request. An *Error says that no complete answer came.
func (c *Client) send(ctx context.Context, out *outgoing) (*answer, error) {
	target := *c.base
	target.RawPath = strings.TrimSuffix(c.base.EscapedPath(), "/") + out.path
	var err error
	if target.Path, err = url.PathUnescape(target.RawPath); err != nil {
		return nil, &Error{Message: err.Error()}
	}
	target.RawQuery = out.query.Encode()
	ctx = context.WithValue(ctx, retryPolicyKey{}, out.policy)
	var body any
	if out.mediaType != "" {
		body = out.body
	}
	req, err := retryablehttp.NewRequestWithContext(ctx, out.method, target.String(), body)
	if err != nil {
		return nil, &Error{Message: err.Error()}
	}
	req.Header.Set("User-Agent", c.cfg.UserAgent)
	req.Header.Set("Accept", "application/json")
	if out.mediaType != "" {
		req.Header.Set("Content-Type", out.mediaType)
	}
	for name, value := range out.headers {
		req.Header.Set(name, value)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, &Error{Message: reason(err), Unsure: !notSent(err)}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, &Error{Status: resp.StatusCode, Message: "the answer broke off: " + reason(err), Unsure: true}
	}
	if len(text) > maxAnswer {
		return nil, &Error{Status: resp.StatusCode, Message: fmt.Sprintf("the answer is longer than %d bytes", maxAnswer), Unsure: true}
	}
	a := &answer{status: resp.StatusCode, headers: make(map[string]string, len(resp.Header))}
	a.after, _ = retryAfter(resp)
	for name := range resp.Header {
		a.headers[strings.ToLower(name)] = resp.Header.Get(name)
	}
	if a.body, err = decodeBody(text, resp.Header.Get("Content-Type")); err != nil {
		return nil, &Error{Status: resp.StatusCode, Message: err.Error(), Unsure: resp.StatusCode < 300}
	}
	return a, nil
}

// reason tells what went wrong on the way, without the URL and its query.
func reason(err error) string {
	if u := (*url.Error)(nil); errors.As(err, &u) {
		err = u.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer within the connection's timeout"
	}
	return printable(err.Error())
}

// decodeBody reads JSON where the answer says so or looks like it; anything else is text.
func decodeBody(text []byte, mediaType string) (any, error) {
	trimmed := bytes.TrimSpace(text)
	if len(trimmed) == 0 {
		return nil, nil
	}
	if !strings.Contains(mediaType, "json") && trimmed[0] != '{' && trimmed[0] != '[' {
		return string(text), nil
	}
	depth, values := 0, 1
	for _, c := range trimmed { // what is in strings counts too: bounds need not be exact
		switch c {
		case ',':
			if values++; values > maxValues {
				return nil, fmt.Errorf("the answer has more than %d values", maxValues)
			}
		case '{', '[':
			if depth++; depth > maxDepth {
				return nil, fmt.Errorf("the answer is nested deeper than %d", maxDepth)
			}
		case '}', ']':
			depth--
		}
	}
	decoder := json.NewDecoder(bytes.NewReader(trimmed))
	decoder.UseNumber()
	var body any
	if err := decoder.Decode(&body); err != nil {
		return nil, errors.New("the answer is not JSON")
	}
	if decoder.InputOffset() != int64(len(trimmed)) {
		return nil, errors.New("the answer is more than one JSON value")
	}
	return numbers(body), nil
}

// exact is from where a float64 no longer tells whole numbers apart.
const exact = 1 << 53

// numbers makes whole numbers int64, so that ids stay what they are. A number that neither an int64 nor a
// float64 holds exactly stays the text that the upstream wrote.
func numbers(value any) any {
	switch v := value.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, err := v.Float64()
		if err != nil || math.Abs(f) >= exact {
			return v.String()
		}
		return f
	case map[string]any:
		for key, one := range v {
			v[key] = numbers(one)
		}
	case []any:
		for i, one := range v {
			v[i] = numbers(one)
		}
	}
	return value
}

// printable makes what an upstream said fit for a log and a terminal.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage], "") + "..."
	}
	return s
}

func basicAuth(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func parsePrivateKey(text string) (crypto.PrivateKey, error) {
	bad := errors.New("the key is no private key in PEM")
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, bad
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	if key, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	if key, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	return nil, bad
}

package connector

import (
	"cmp"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/hashicorp/go-retryablehttp"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"
)

// ClientConfig configures a Client. Only URL is required.
type ClientConfig struct {
	URL           string        // base of the provider's paths
	CACert        string        // PEM; default: the system's
	ClientCert    string        // PEM; for mutual TLS
	ClientKey     string        // PEM
	ProxyURL      string        // default: that of the environment
	Timeout       time.Duration // of a call, retries included; default DefaultTimeout
	RateLimit     float64       // requests a second; default: no limit
	MaxConcurrent int           // requests at once; default DefaultConcurrent
	UserAgent     string
	Dial          DialFunc         // default: net.Dialer
	Now           func() time.Time // the clock that expressions see; default: time.Now
}

// DialFunc makes a connection to a service, as net.Dialer.DialContext does.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Defaults and limits of a client.
const (
	DefaultTimeout    = 30 * time.Second
	DefaultConcurrent = 16

	maxAnswer  = 4 << 20 // bytes
	maxDepth   = 64      // of nested JSON
	maxValues  = 300_000 // of JSON: a decoded value takes about ten times the memory of its text
	maxRetries = 4
	maxMessage = 300 // bytes of the upstream's error message
)

// Client calls one upstream, with one pool of connections.
type Client struct {
	base *url.URL
	http *retryablehttp.Client
	cfg  ClientConfig

	// listing prevents revocations while tokens are listed page by page: a revocation moves the later tokens up, perhaps
	// to a page that was already read. A listing takes wholeListing, a revocation 1.
	listing *semaphore.Weighted
}

const wholeListing = 1 << 30

// NewClient returns a client. Its errors name the wrong setting.
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
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
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
			// A redirect would send the credential to a host that the operator has not configured.
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
		return nil, errors.New("url: must not contain a user or a password: set them in the credential")
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
			// send bounds the body.
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

// Close closes the idle connections.
func (c *Client) Close() { c.http.HTTPClient.CloseIdleConnections() }

// Timeout returns how long a call may take, retries included.
func (c *Client) Timeout() time.Duration { return c.cfg.Timeout }

// hold acquires a part of listing until release is called.
func (c *Client) hold(ctx context.Context, part int64) (release func(), err error) {
	if err := c.listing.Acquire(ctx, part); err != nil {
		return nil, &Error{Message: "timed out while another request listed the tokens of the service"}
	}
	return func() { c.listing.Release(part) }, nil
}

// outgoing is a request that is ready to be sent.
type outgoing struct {
	method, path string
	query        url.Values
	headers      map[string]string
	mediaType    string
	body         []byte
	secrets      []string // values of headers that contain a secret, perhaps encoded
	policy       retryPolicy
}

// send sends a request. It returns an *Error if there is no complete response.
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

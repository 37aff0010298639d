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
	Dial          DialFunc         // default: the network
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

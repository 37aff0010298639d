package alert

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

const (
	// timeout is the time limit of a delivery. Standard Webhooks recommend 15 to 30 seconds.
	timeout = 15 * time.Second

	// maxAnswer is how much of a receiver's answer is read, in bytes.
	maxAnswer = 1 << 10

	// maxExcerpt is how much of a receiver's answer an error shows, in bytes.
	maxExcerpt = 100
)

// dialer opens connections to receivers.
var dialer = net.Dialer{Timeout: 10 * time.Second, KeepAlive: -1, Control: refuseMetadata}

// metadata are addresses at which clouds serve the credentials of a machine, beside link-local addresses: of AWS over IPv6,
// Alibaba and Azure.
var metadata = []netip.Addr{
	netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("100.100.100.200"), netip.MustParseAddr("168.63.129.16"),
}

// refuseMetadata refuses connections to addresses that are no receiver. The address is what the name resolved to.
func refuseMetadata(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	addr := at.Addr().Unmap()
	bad := addr.IsLinkLocalUnicast() || addr.IsMulticast() || addr.IsUnspecified()
	for _, m := range metadata {
		bad = bad || addr == m
	}
	if bad {
		return fmt.Errorf("%s is a link-local, multicast or metadata address, to which no alert is sent", addr)
	}
	return nil
}

// newClient returns the client of an alert. A delivery is rare: no connection is kept.
func newClient(caCert string, dial connector.DialFunc) (*http.Client, error) {
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12}
	if caCert != "" {
		tlsConfig.RootCAs = x509.NewCertPool()
		if !tlsConfig.RootCAs.AppendCertsFromPEM([]byte(caCert)) {
			return nil, refusal.Field("ca_cert", "has no certificate in PEM")
		}
	}
	return &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: dial, TLSClientConfig: tlsConfig, TLSHandshakeTimeout: 10 * time.Second,
			DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10,
		},
		// A redirect would send the event to a host that the operator has not configured.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// event is what a delivery sends.
type event struct {
	id        string
	mediaType string
	body      []byte
}

// failure says why a delivery failed. Its text has no secret.
type failure struct {
	status  int // of the answer; 0: there was none
	message string
	after   time.Duration // how long the receiver asks to wait; 0: it does not ask
}

func (f *failure) Error() string {
	text := f.message
	if f.status != 0 {
		text = strings.TrimSpace(fmt.Sprintf("status %d %s", f.status, http.StatusText(f.status)))
		if f.message != "" {
			text += ": " + f.message
		}
	}
	if f.after > 0 {
		text += fmt.Sprintf(" (the receiver asks to wait %s)", refusal.Short(f.after))
	}
	return text
}

// send delivers an event, and returns the status of the answer. It returns a *failure unless the status is one of 200 to 299.
func (a *Alert) send(ctx context.Context, e *event, userAgent string, now time.Time) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.URL, bytes.NewReader(e.body))
	if err != nil {
		return 0, &failure{message: "the URL cannot be called"}
	}
	for name, value := range a.Headers {
		req.Header.Set(name, value)
	}
	req.Header.Set("Content-Type", e.mediaType)
	req.Header.Set("User-Agent", userAgent)
	if err := a.sign(req.Header, e, now); err != nil {
		return 0, &failure{message: err.Error()}
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return 0, &failure{message: a.cause(err)}
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return resp.StatusCode, nil
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // as much as there is
	f := &failure{status: resp.StatusCode, message: a.excerpt(string(text)), after: retryAfter(resp, now)}
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		f.message = "redirects are not followed: set url to the new place"
	}
	return resp.StatusCode, f
}

// sign sets the headers of Standard Webhooks.
func (a *Alert) sign(h http.Header, e *event, now time.Time) error {
	var signatures []string
	for _, secret := range a.secrets(now) {
		signer, err := standardwebhooks.NewWebhook(secret)
		if err != nil {
			return errors.New("the secret is not Base64") // the library's error may show a part of the secret
		}
		signature, err := signer.Sign(e.id, now, e.body)
		if err != nil {
			return errors.New("the event cannot be signed")
		}
		signatures = append(signatures, signature)
	}
	h.Set(standardwebhooks.HeaderWebhookID, e.id)
	h.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	h.Set(standardwebhooks.HeaderWebhookSignature, strings.Join(signatures, " "))
	return nil
}

// cause returns the text of a network error without the URL, and without the secrets of the alert: the text may quote what
// the receiver has answered.
func (a *Alert) cause(err error) string {
	if u := (*url.Error)(nil); errors.As(err, &u) {
		if u.Timeout() {
			return "timed out"
		}
		err = u.Err
	}
	return printable(a.hide(err.Error()), 3*maxExcerpt)
}

// excerpt returns the beginning of an answer without the secrets of the alert, which a receiver may repeat.
func (a *Alert) excerpt(text string) string { return printable(a.hide(text), maxExcerpt) }

// hide removes the secrets of the alert from a text. The longest are removed first, since a secret may be a part of another.
func (a *Alert) hide(text string) string {
	secrets := []string{a.Secret, a.Previous, a.url.RequestURI(), a.url.RawQuery}
	secrets = append(secrets, strings.Split(a.url.EscapedPath(), "/")...)
	secrets = append(secrets, strings.Split(a.url.Path, "/")...)
	for _, values := range a.url.Query() {
		secrets = append(secrets, values...)
	}
	for _, value := range a.Headers {
		secrets = append(append(secrets, value), strings.Fields(value)...)
	}
	slices.SortFunc(secrets, func(x, y string) int { return cmp.Compare(len(y), len(x)) })
	for _, secret := range secrets {
		if len(secret) >= 4 {
			text = strings.ReplaceAll(text, secret, "***")
		}
	}
	return text
}

// printable makes a text safe for a log and a terminal: printable ASCII, at most a number of bytes.
func printable(text string, most int) string {
	text = strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, text)), " ")
	if len(text) > most {
		text = text[:most] + "..."
	}
	return text
}

// retryAfter returns how long a receiver asks to wait (RFC 9110 section 10.2.3); 0 if it does not ask.
func retryAfter(resp *http.Response, now time.Time) time.Duration {
	text := resp.Header.Get("Retry-After")
	if seconds, err := strconv.Atoi(text); err == nil {
		return time.Duration(min(max(seconds, 0), int(longestPause/time.Second))) * time.Second
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), longestPause).Round(time.Second)
}

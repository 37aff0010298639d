package verify

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/feed"
)

const (
	maxFeedPage   = 10_000  // events in an answer of a relay
	maxFeedAnswer = 4 << 20 // bytes of an answer
)

// FeedHandler returns a handler that relays the feed to other verifiers: see Config.FeedFrom. Vault and its audit devices
// then see the polls of one verifier. The handler takes the query parameters epoch and cursor of the engine's path feed, and
// returns the same answer with age_ms. It answers 503 if this verifier has not read the feed for ten seconds.
//
// The feed has no secrets, but has the ids of revoked grants: serve the handler to verifiers only, by mutual TLS.
func (v *Verifier) FeedHandler() http.Handler {
	v.polling.Lock()
	defer v.polling.Unlock()
	if v.relay.Load() == nil {
		f := feed.New()
		f.Follow(v.positionOf())
		v.relay.Store(f)
	}
	return http.HandlerFunc(v.serveFeed)
}

func (v *impl) positionOf() feed.Position {
	epoch, end := v.events.where()
	return feed.Position{Epoch: epoch, Cursor: uint64(end.cursor)} //nolint:gosec // cursors are not negative
}

// mirror adds an answer of the feed to the relay. The caller holds polling.
func (v *impl) mirror(a *feedAnswer, resync bool) {
	relay := v.relay.Load()
	if relay == nil {
		return
	}
	if resync {
		relay.Follow(feed.Position{Epoch: a.Epoch, Cursor: uint64(a.Cursor - int64(len(a.Events)))}) //nolint:gosec // as above
	}
	for _, e := range a.Events {
		relay.Add(feed.Event{Kind: e.Type, ID: e.ID, Until: e.Until})
	}
}

func (v *impl) serveFeed(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "only GET is allowed", http.StatusMethodNotAllowed)
		return
	}
	cursor := uint64(0)
	if text := r.URL.Query().Get("cursor"); text != "" {
		var err error
		if cursor, err = strconv.ParseUint(text, 10, 63); err != nil {
			http.Error(w, "cursor: must be a number that is not negative", http.StatusBadRequest)
			return
		}
	}
	// The age is taken before the events: the answer must not claim to be newer than it is.
	age := v.feedAge(v.config.Now())
	if v.vault == nil || outOfReach(age) {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "the feed is out of reach", http.StatusServiceUnavailable)
		return
	}
	from := feed.Position{Epoch: r.URL.Query().Get("epoch"), Cursor: cursor}
	events, next, more, known := v.relay.Load().After(from, maxFeedPage)
	a := feedAnswer{
		Epoch: next.Epoch, Cursor: int64(next.Cursor), Events: make([]event, len(events)), More: more, //nolint:gosec // as above
		Resync: !known && from.Epoch != "", Age: max(0, age.Milliseconds()),
	}
	for i, e := range events {
		a.Events[i] = event{e.Kind, e.ID, e.Until}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(map[string]any{"data": a})
}

// ReadCertPool reads the certificates in PEM of a file. A file without a certificate is an error.
func ReadCertPool(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s has no certificate", file)
	}
	return pool, nil
}

// source is another verifier that relays the feed.
type source struct {
	url    *url.URL
	client *http.Client
}

func newSource(c *Config) (*source, error) {
	if c.Vault == nil {
		return nil, wrong("FeedFrom", "is set and Vault is not: only Vault knows the tokens that the feed is about")
	}
	s := c.FeedFrom
	u, err := url.Parse(s.URL)
	if err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, wrong("FeedFrom.URL", "%q is not a URL such as https://authz.example.com:9193/feed", s.URL)
	}
	if host, err := netip.ParseAddr(u.Hostname()); u.Scheme != "https" && (u.Scheme != "http" || err != nil || !host.IsLoopback()) {
		return nil, wrong("FeedFrom.URL", "%q must begin with https://; http:// is allowed on loopback only", s.URL)
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.CACert != "" {
		if conf.RootCAs, err = ReadCertPool(s.CACert); err != nil {
			return nil, wrong("FeedFrom.CACert", "%w", err)
		}
	}
	if (s.Certificate == "") != (s.Key == "") {
		return nil, wrong("FeedFrom.Certificate", "Certificate and Key are set together")
	}
	if s.Certificate != "" {
		load := func() (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(s.Certificate, s.Key)
			return &pair, err
		}
		if _, err := load(); err != nil {
			return nil, wrong("FeedFrom.Certificate", "%w", err)
		}
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	client := http.Client{}
	if c.HTTPClient != nil && s.CACert == "" && s.Certificate == "" {
		client = *c.HTTPClient
	} else {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.TLSClientConfig, transport.Proxy = conf, nil
		client.Transport = transport
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &source{u, &client}, nil
}

// feed reads a page of the feed.
func (s *source) feed(ctx context.Context, epoch string, cursor int64) (*feedAnswer, error) {
	u := *s.url
	u.RawQuery = url.Values{"epoch": {epoch}, "cursor": {strconv.FormatInt(cursor, 10)}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxFeedAnswer+1))
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("status %d of %s", resp.StatusCode, s.url)
	case len(body) > maxFeedAnswer:
		return nil, fmt.Errorf("the answer of %s has more than %d bytes", s.url, maxFeedAnswer)
	}
	var answer struct {
		Data *feedAnswer `json:"data"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("the answer of %s: %w", s.url, err)
	}
	if a := answer.Data; a == nil || a.Epoch == "" || a.Cursor < int64(len(a.Events)) || a.Age < 0 || a.Age > int64(24*time.Hour/time.Millisecond) {
		return nil, fmt.Errorf("the answer of %s is not one of a feed", s.url)
	}
	return answer.Data, nil
}

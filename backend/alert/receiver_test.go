package alert

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
)

var ctx = context.Background()

const (
	theURL    = "http://receiver.test/hooks/url-secret?key=query-secret"
	theHeader = "Bearer header-secret"
)

// delivery is what arrived at a receiver.
type delivery struct {
	at     time.Time
	header http.Header
	body   []byte
}

func (d *delivery) id() string { return d.header.Get("webhook-id") }

// receiver is a server of webhooks on connections in memory.
type receiver struct {
	accept chan net.Conn
	done   chan struct{}

	mu   sync.Mutex
	down bool
	do   func(w http.ResponseWriter, d *delivery) // what the receiver answers; nil: 204
	got  []delivery
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{accept: make(chan net.Conn), done: make(chan struct{})}
	server := &http.Server{Handler: r}
	go func() { _ = server.Serve(r) }()
	t.Cleanup(func() {
		close(r.done)
		_ = server.Close()
	})
	return r
}

func (r *receiver) Accept() (net.Conn, error) {
	select {
	case conn := <-r.accept:
		return conn, nil
	case <-r.done:
		return nil, net.ErrClosed
	}
}
func (r *receiver) Close() error   { return nil }
func (r *receiver) Addr() net.Addr { return &net.TCPAddr{} }

func (r *receiver) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	r.mu.Lock()
	down := r.down
	r.mu.Unlock()
	if down {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	}
	client, server := net.Pipe()
	select {
	case r.accept <- server:
		return client, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	d := delivery{time.Now(), req.Header.Clone(), body}
	r.mu.Lock()
	r.got = append(r.got, d)
	do := r.do
	r.mu.Unlock()
	if do == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	do(w, &d)
}

// answer has a receiver answer so.
func (r *receiver) answer(do func(w http.ResponseWriter, d *delivery)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.do = do
}

// fall has a receiver not listen, or listen again.
func (r *receiver) fall(down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = down
}

// status has a receiver answer with a status.
func (r *receiver) status(status int) {
	r.answer(func(w http.ResponseWriter, _ *delivery) { w.WriteHeader(status) })
}

// take returns what has arrived since the last take.
func (r *receiver) take() []delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.got
	r.got = nil
	return got
}

// bench is a mount's alerts with a receiver.
type bench struct {
	*Alerts
	*receiver
	t   *testing.T
	log *logBuffer
}

type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newBench(t *testing.T) *bench { return benchOn(t, new(logical.InmemStorage), newReceiver(t)) }

func benchOn(t *testing.T, s logical.Storage, r *receiver) *bench {
	t.Helper()
	b := &bench{receiver: r, t: t, log: new(logBuffer)}
	log := hclog.New(&hclog.LoggerOptions{Output: b.log})
	b.Alerts = New(Config{
		Storage: s, Now: time.Now, Log: func() hclog.Logger { return log }, Active: func() bool { return true },
		Origin:    func(string) Origin { return Origin{"https://vault.example.com/v1/apitoken", "prod"} },
		UserAgent: "test", Dial: r.dial,
	})
	if err := b.Load(ctx, s, time.Now()); err != nil {
		t.Fatal(err)
	}
	b.Start(b.Run)
	t.Cleanup(b.Alerts.Close)
	return b
}

// restart returns the alerts in another process, on the same storage.
func (b *bench) restart() *bench {
	b.t.Helper()
	b.Alerts.Close()
	return benchOn(b.t, b.Storage, b.receiver)
}

func ptr[T any](v T) *T { return &v }

// alert writes an alert, and returns its secret.
func (b *bench) alert(name string, c Change) string {
	b.t.Helper()
	c.MountPoint = "apitoken/"
	if c.URL == nil && b.Entries.Get(name) == nil {
		c.URL, c.AllowHTTP = ptr(theURL), ptr(true)
		c.Headers = &map[string]string{"Authorization": theHeader}
	}
	secret, err := b.Write(ctx, b.Storage, name, &c)
	if err != nil {
		b.t.Fatal(err)
	}
	return secret
}

// noticeOf returns a notice about finding n.
func noticeOf(n int) *detect.Notice {
	at := time.Now().UTC()
	return &detect.Notice{
		ID: fmt.Sprintf("%024x", n), Kind: detect.KindOpened, At: at,
		Finding: detect.Finding{
			ID: fmt.Sprintf("%024x", 1<<20+n), Rule: detect.Shared, Severity: detect.Medium, Count: 1, First: at, Last: at,
			TokenID: "5e79341686b9702bb51a2ed1", Role: "billing-reader", EntityID: "ann", Address: "192.0.2.7",
			Summary:         "the token was used from 6 addresses within 1h & <more>",
			Evidence:        []detect.Sight{{At: at, Address: "192.0.2.7"}},
			Acknowledgement: detect.Acknowledgement{State: detect.Open},
		},
	}
}

func (b *bench) notify(n ...int) {
	b.t.Helper()
	for _, n := range n {
		if err := b.Notify(ctx, noticeOf(n)); err != nil {
			b.t.Fatal(err)
		}
	}
}

// queued returns the IDs of the stored notices.
func (b *bench) queued() []string {
	b.t.Helper()
	ids, err := b.Storage.List(ctx, queuePrefix)
	if err != nil {
		b.t.Fatal(err)
	}
	return ids
}

func (b *bench) state(name string) map[string]any { return b.Describe(b.Entries.Get(name)) }

// verify checks the signature of a delivery with the library of Standard Webhooks.
func (b *bench) verify(d *delivery, secret string) {
	b.t.Helper()
	wh, err := standardwebhooks.NewWebhook(secret)
	if err == nil {
		err = wh.Verify(d.body, d.header)
	}
	if err != nil {
		b.t.Errorf("the signature of %s: %v", d.id(), err)
	}
}

// decoded returns the members of a body.
func (d *delivery) decoded(t *testing.T) map[string]any {
	t.Helper()
	var members map[string]any
	if err := json.Unmarshal(d.body, &members); err != nil {
		t.Fatal(err)
	}
	return members
}

// expect checks the IDs of deliveries.
func (b *bench) expect(got []delivery, want ...int) {
	b.t.Helper()
	ids := make([]string, len(got))
	for i := range got {
		ids[i] = strings.TrimLeft(got[i].id(), "0")
	}
	wanted := make([]string, len(want))
	for i := range want {
		wanted[i] = fmt.Sprintf("%x", want[i])
	}
	if fmt.Sprint(ids) != fmt.Sprint(wanted) {
		b.t.Errorf("delivered were %v, want %v", ids, wanted)
	}
}

package connector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// pipeListener serves HTTP over connections in memory, so that a test in a bubble waits for no real time.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// bubble runs a test of the provider small at a service, in a bubble.
func bubble(t *testing.T, serve func(r *http.Request) (int, any), test func(context.Context, *Service)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &pipeListener{make(chan net.Conn), make(chan struct{})}
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			status, body := serve(r)
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(body)
		})}
		go func() { _ = server.Serve(l) }()
		client, err := NewClient(ClientConfig{URL: "http://service.test", Dial: func(context.Context, string, string) (net.Conn, error) {
			a, b := net.Pipe()
			l.conns <- b
			return a, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		p, err := Compile([]byte(listed))
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			client.Close()
			close(l.done)
			_ = server.Close()
		}()
		test(t.Context(), &Service{
			Connection: "c", Provider: p, Client: client, Settings: map[string]any{"tenant": "main"},
			Credential: map[string]any{"user": "u", "key": "key-of-the-service"},
		})
	})
}

type object = map[string]any

func TestList(t *testing.T) {
	var asked []string
	bubble(t, func(r *http.Request) (int, any) {
		asked = append(asked, r.Method+" "+r.URL.RequestURI())
		page := r.URL.Query().Get("page")
		switch {
		case r.URL.Path == "/api/users" && page == "1":
			return 200, object{"users": []any{object{"login": "ann"}, object{"login": "bob"}}}
		case r.URL.Path == "/api/users":
			return 200, object{"users": []any{object{"login": "gone"}}}
		case strings.HasSuffix(r.URL.Path, "/ann") && page == "1":
			return 200, []any{
				object{"id": 1, "name": "laptop key-of-the-service", "created": "2026-01-02T03:04:05Z", "used": 1767323045, "ends": nil, "scopes": []string{"read", "write\n"},
					"sha1": "not mapped"},
				object{"id": 9007199254740993, "name": "vault-x", "created": "0001-01-01T00:00:00Z", "ends": "2027-01-01"},
			}
		case strings.HasSuffix(r.URL.Path, "/ann"):
			return 200, []any{object{"id": "3", "name": strings.Repeat("n", 1000)}}
		case strings.HasSuffix(r.URL.Path, "/gone"):
			return 404, nil
		}
		return 200, []any{}
	}, func(ctx context.Context, s *Service) {
		var items []*Item
		// Two roles of one level: their places are listed once.
		complete, err := s.List(ctx, []map[string]any{{"level": 3}, {"level": 3, "scopes": []any{"read"}}}, func(one *Item) { items = append(items, one) })
		if err != nil || !complete || len(items) != 3 {
			t.Fatalf("%v, %v, %d items", complete, err, len(items))
		}
		want := &Item{
			ID: "1", Name: "laptop [secret]", Owner: "ann", CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
			LastUsedAt: time.Unix(1767323045, 0).UTC(), Scopes: []string{"read", "write"},
		}
		if !reflect.DeepEqual(items[0], want) {
			t.Errorf("%+v\nwant %+v", items[0], want)
		}
		if one := items[1]; one.ID != "9007199254740993" || !one.CreatedAt.IsZero() || !one.ExpiresAt.Equal(time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)) {
			t.Errorf("%+v", one)
		}
		if len(items[2].Name) > 310 {
			t.Errorf("a name of %d bytes", len(items[2].Name))
		}
	})
	for _, request := range asked {
		if !strings.HasPrefix(request, "GET ") {
			t.Error(request)
		}
	}
	if len(asked) != 6 { // two pages of users, and the tokens of each user
		t.Errorf("%d requests: %q", len(asked), asked)
	}
}

// A List of a large service is slow and bounded, and says that it is not complete.
func TestListIsBounded(t *testing.T) {
	calls := 0
	bubble(t, func(r *http.Request) (int, any) {
		calls++
		if r.URL.Path == "/api/users" {
			return 200, object{"users": []any{object{"login": "ann"}}}
		}
		return 200, []any{object{"id": calls, "name": "a"}, object{"id": -calls, "name": "b"}} // the pages do not end
	}, func(ctx context.Context, s *Service) {
		began, items := time.Now(), 0
		complete, err := s.List(ctx, nil, func(*Item) { items++ })
		if err != nil || complete || items != 2*maxPages {
			t.Errorf("%v, %v, %d items", complete, err, items)
		}
		if took, least := time.Since(began), time.Duration(maxPages-listBurst)*time.Second/listPace; took < least || took > least+2*time.Second {
			t.Errorf("%d requests took %s, want %s", calls, took, least)
		}
	})
}

// An answer that a List cannot read is an error: a token must not seem to be gone.
func TestListRefuses(t *testing.T) {
	for body, want := range map[string]string{
		`{"unexpected": 1}`:                       "items is not a list",
		`[{"id": "1"}]`:                           "name: no such key: name",
		`[{"id": "", "name": "a"}]`:               "id: an item has none",
		`[{"id": "1", "name": "a", "ends": "x"}]`: `expires_at: "x" is not a time`,
		`[3]`: "id:",
	} {
		bubble(t, func(r *http.Request) (int, any) {
			if r.URL.Path == "/api/users" {
				return 200, object{"users": []any{object{"login": "ann"}}}
			}
			return 200, json.RawMessage(body)
		}, func(ctx context.Context, s *Service) {
			_, err := s.List(ctx, nil, func(*Item) {})
			if e := (*Error)(nil); !errors.As(err, &e) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %s", body, err, want)
			}
		})
	}
	bubble(t, func(*http.Request) (int, any) { return 403, object{"message": "no"} }, func(ctx context.Context, s *Service) {
		_, err := s.List(ctx, nil, func(*Item) {})
		if e := (*Error)(nil); !errors.As(err, &e) || !e.Denied {
			t.Error(err)
		}
	})
	bubble(t, func(*http.Request) (int, any) { return 200, nil }, func(ctx context.Context, s *Service) {
		without := *s.Provider
		without.operations = map[string]*operation{}
		s.Provider = &without
		if _, err := s.List(ctx, nil, func(*Item) {}); err == nil || fmt.Sprint(err) != `provider "small" cannot list the tokens of the service` {
			t.Error(err)
		}
	})
}

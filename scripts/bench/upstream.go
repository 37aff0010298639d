package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"time"
)

// definition is a provider for an upstream service that does nothing: the benchmark measures only the engine.
const definition = `
name: nothing
title: Nothing
credential:
  key: {type: string, secret: true, required: true, description: The key.}
operations:
  create:
    requests: [{method: POST, path: /tokens, headers: {authorization: credential.key}, json: '{"name": name}'}]
    result: {id: string(response.body.id), token: response.body.token}
  find:
    requests: [{method: GET, path: /tokens, headers: {authorization: credential.key}}]
    items: response.body
  revoke:
    requests: [{method: DELETE, path: '/tokens/{id}', headers: {authorization: credential.key}, gone: [404]}]
  check:
    requests: [{method: GET, path: /tokens, headers: {authorization: credential.key}}]
`

// newService starts the upstream service of definition.
func newService() *httptest.Server {
	var next atomic.Int64
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		if r.Method == http.MethodPost {
			fmt.Fprintf(w, `{"id": %d, "token": "0123456789abcdef0123456789abcdef01234567"}`, next.Add(1))
			return
		}
		fmt.Fprint(w, "[]")
	}))
}

func (b *bench) connect(ctx context.Context) error {
	for _, write := range []struct {
		path string
		data map[string]any
	}{
		{"providers/nothing", map[string]any{"definition": definition}},
		{"connections/bench", map[string]any{"provider": "nothing", "url": b.service.URL, "max_concurrent": 64, "credential": map[string]any{"key": "k"}}},
		{"roles/upstream", map[string]any{"connection": "bench", "ttl": "24h"}},
	} {
		if err := b.call(ctx, "POST", "apitoken/"+write.path, write.data, nil); err != nil {
			return err
		}
	}
	return nil
}

// direct requests a token from the upstream service without Vault.
func (b *bench) direct(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, "POST", b.service.URL+"/tokens", bytes.NewReader([]byte(`{"name": "x"}`)))
	if err != nil {
		return err
	}
	return b.do(req, nil)
}

// limited revokes leases of a connection with a rate limit, and prints the rate of revocations.
func (b *bench) limited(ctx context.Context) error {
	const count, limit = 16 * 63, 50
	if err := b.call(ctx, "POST", "sys/leases/revoke-prefix/apitoken/creds/upstream", map[string]any{"sync": true}, nil); err != nil {
		return err
	}
	if err := b.issue(ctx, "apitoken/creds/upstream", count); err != nil {
		return err
	}
	if err := b.call(ctx, "POST", "apitoken/connections/bench", map[string]any{"rate_limit": limit}, nil); err != nil {
		return err
	}
	start := time.Now()
	if err := b.call(ctx, "POST", "sys/leases/revoke-prefix/apitoken/creds/upstream", nil, nil); err != nil {
		return err
	}
	for {
		var answer struct {
			Data struct {
				Tokens int
				Queue  struct{ Count int }
			}
		}
		if err := b.call(ctx, "GET", "apitoken/connections/bench", nil, &answer); err != nil {
			return err
		}
		if answer.Data.Tokens+answer.Data.Queue.Count == 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	took := time.Since(start)
	fmt.Printf("\nrevoking %d leases of a connection with rate_limit=%d: %s, %.1f/s\n", count, limit, took.Round(100*time.Millisecond), float64(count)/took.Seconds())
	return b.call(ctx, "POST", "apitoken/connections/bench", map[string]any{"rate_limit": 0}, nil)
}

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// event is what the receiver shows of a CloudEvent.
type event struct {
	Type string `json:"type"`
	Data struct {
		Rule    string `json:"rule"`
		Summary string `json:"summary"`
	} `json:"data"`
}

// receive serves a webhook that verifies signatures with the secret in a file, and writes a line for each event to another file.
func receive(address, secretFile, path string) error {
	out, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return (&http.Server{Addr: address, ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			received, err := verified(r, secretFile)
			if err != nil {
				http.Error(w, err.Error(), http.StatusUnauthorized)
				return
			}
			fmt.Fprintf(out, "%s  rule %s: %s\n", received.Type, received.Data.Rule, received.Data.Summary)
			w.WriteHeader(http.StatusNoContent)
		})}).ListenAndServe()
}

// verified returns the event of a request with a good signature.
func verified(r *http.Request, secretFile string) (*event, error) {
	secret, err := os.ReadFile(secretFile)
	if err != nil {
		return nil, err
	}
	webhook, err := standardwebhooks.NewWebhook(strings.TrimSpace(string(secret)))
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 64<<10))
	if err != nil {
		return nil, err
	}
	if err := webhook.Verify(body, r.Header); err != nil {
		return nil, err
	}
	received := new(event)
	return received, json.Unmarshal(body, received)
}

// wait waits for an event of a type, for ten seconds at most, and prints the line of the event.
func wait(path, kind string) error {
	for start := time.Now(); time.Since(start) < 10*time.Second; time.Sleep(50 * time.Millisecond) {
		lines, _ := os.ReadFile(path) // no file: no event yet
		for line := range strings.Lines(string(lines)) {
			if strings.HasPrefix(line, kind+" ") {
				fmt.Print(line)
				return nil
			}
		}
	}
	return fmt.Errorf("no event %s within ten seconds", kind)
}

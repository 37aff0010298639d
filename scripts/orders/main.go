// Command orders is the API of the demo's gateway chapter, and the API's client.
//
//	orders ports N                 prints free ports on loopback
//	orders serve ADDRESS           serves the API, which checks no token and says who asks
//	orders get URL TOKEN           prints the status and what the API or the gateway answered; an empty TOKEN: none
//	orders until STATUS URL TOKEN  asks again and again, for ten seconds at most, and prints how long the status took
//	orders places FILE             writes a database of the places of addresses on loopback
//	orders receive ADDRESS SECRETFILE FILE
//	                               serves a webhook, and writes a line for each event to FILE
//	orders wait FILE TYPE          waits for an event of a type, and prints its line
//
// The client asks from the address in ORDERS_FROM, such as 127.0.20.7.
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/scripts/process"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "ports":
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		ports, err := process.FreePorts(n)
		fmt.Println(strings.Join(ports, " "))
		return err
	case len(args) == 2 && args[0] == "serve":
		server := &http.Server{Addr: args[1], Handler: http.HandlerFunc(serve), ReadHeaderTimeout: time.Second}
		return server.ListenAndServe()
	case len(args) == 3 && args[0] == "get":
		status, body, err := get(args[1], args[2])
		fmt.Println(strings.TrimSpace(fmt.Sprint(status, " ", body)))
		return err
	case len(args) == 4 && args[0] == "until":
		return until(args[1], args[2], args[3])
	case len(args) == 2 && args[0] == "places":
		return writePlaces(args[1])
	case len(args) == 4 && args[0] == "receive":
		return receive(args[1], args[2], args[3])
	case len(args) == 3 && args[0] == "wait":
		return wait(args[1], args[2])
	}
	return errors.New("usage: orders ports N | serve ADDRESS | get URL TOKEN | until STATUS URL TOKEN | places FILE | " +
		"receive ADDRESS SECRETFILE FILE | wait FILE TYPE")
}

func serve(w http.ResponseWriter, r *http.Request) {
	h := r.Header
	fmt.Fprintf(w, "%s for role %s, token %s, scopes %s\n", r.URL.Path,
		h.Get("X-Token-Role"), h.Get("X-Token-Id"), h.Get("X-Token-Scope"))
}

func get(url, token string) (status int, body string, err error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	req.Host = "orders.example.com"
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	dialer := &net.Dialer{}
	if from := os.Getenv("ORDERS_FROM"); from != "" {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	client := &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		text = nil // a page of the gateway
	}
	return resp.StatusCode, string(text), err
}

func until(want, url, token string) error {
	for start := time.Now(); time.Since(start) < 10*time.Second; time.Sleep(10 * time.Millisecond) {
		status, _, err := get(url, token)
		if err == nil && strconv.Itoa(status) == want {
			fmt.Printf("%s after %d ms\n", want, time.Since(start).Milliseconds())
			return nil
		}
	}
	return fmt.Errorf("no answer %s within ten seconds", want)
}

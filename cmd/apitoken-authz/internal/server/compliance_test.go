package server

import (
	"encoding/json"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// hostile are texts that could end a line of the log, or begin a member.
var hostile = []string{
	`/a"b`, `/a\b`, `/a","allowed":true,"x":"`, "/a%0ab%0d%1b[31m", "/\u00e9\u2028\u202e", `/a{"time":"2000-01-01T00:00:00Z"}`, "/" + strings.Repeat(`"`, 2000),
}

// A line of the access log is one JSON object with a time in RFC 3339, whatever the client sends.
func TestLogLines(t *testing.T) {
	eachMode(t, func(t *testing.T, w *world, mode string) {
		for _, text := range hostile {
			w.send(t, mode, get(text, "good"))
			w.send(t, mode, ask{target: "/status", method: "GET", host: strings.ReplaceAll(text, "/", "x")})
			w.send(t, mode, ask{target: "/status", method: strings.ReplaceAll(strings.ReplaceAll(text, "/", "X"), " ", "")})
		}
		n := 0
		for line := range strings.Lines(w.log.String()) {
			n++
			var entry map[string]any
			if err := json.Unmarshal([]byte(line), &entry); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			if _, err := time.Parse(time.RFC3339Nano, entry["time"].(string)); err != nil {
				t.Errorf("%q: %v", line, err)
			}
			for _, c := range strings.TrimSuffix(line, "\n") {
				if c < ' ' || c == 0x7f || c == '\u2028' {
					t.Errorf("%q has a control character", line)
				}
			}
			if entry["gateway"] != mode || len(line) > maxLine {
				t.Errorf("%q: gateway %v, %d bytes", line, entry["gateway"], len(line))
			}
		}
		if n < len(hostile) {
			t.Errorf("%d lines", n)
		}
	})
}

// Requests whose length can be read in two ways, and header fields with control characters, are refused before a gateway's request
// is read.
func TestMessageBoundaries(t *testing.T) {
	w := start(t)
	const request = "GET /nginx/status HTTP/1.1\r\nHost: api.example.com\r\nX-Original-Proto: https\r\nX-Original-Addr: 10.1.2.3\r\n"
	for name, more := range map[string]string{
		"two lengths":                "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
		"a length that is no number": "Content-Length: 1x\r\n\r\na",
		"a negative length":          "Content-Length: -1\r\n\r\n",
		"another encoding":           "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"two encodings":              "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"a space before the colon":   "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
		"a name with a space":        "X Token: 1\r\n\r\n",
		"a null byte":                "X-A: a\x00b\r\n\r\n",
	} {
		conn, err := net.Dial("tcp", w.http)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = io.WriteString(conn, request+more)
		status := make([]byte, len("HTTP/1.1 400"))
		_, err = io.ReadFull(conn, status)
		_ = conn.Close()
		if text := string(status); err != nil || !strings.HasSuffix(text, " 400") && !strings.HasSuffix(text, " 501") {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
	if strings.Contains(w.log.String(), `"request"`) {
		t.Errorf("a request was decided:\n%s", w.log)
	}
}

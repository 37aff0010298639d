package console

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

//go:embed templates
var templateFiles embed.FS

// pages are the templates that fill the frame of templates/frame.html.
var pages = []string{
	"sign-in", "leave", "problem", "overview", "tokens", "token", "action", "roles", "role", "connections", "connection", "findings",
	"finding", "reports", "report",
}

type templates map[string]*template.Template

func parseTemplates() templates {
	common := template.Must(template.New("").Funcs(functions).ParseFS(templateFiles, "templates/frame.html", "templates/parts.html"))
	t := templates{}
	for _, name := range pages {
		t[name] = template.Must(template.Must(common.Clone()).ParseFS(templateFiles, "templates/"+name+".html"))
	}
	return t
}

// frame is what surrounds the content of a page.
type frame struct {
	page    string
	Title   string
	Session *session // nil: nobody is signed in
	Content any

	// Set by render.
	Mount string
	CSRF  string
	Said  string
	Page  string
}

// render serves a page. No page has the text of an API token, whatever a person has typed and whatever Vault answers.
func (s *Server) render(w http.ResponseWriter, status int, f *frame) {
	f.Mount, f.Page = s.Mount, f.page
	if f.Session != nil {
		f.CSRF, f.Said = f.Session.csrf, f.Session.said()
	}
	var text bytes.Buffer
	if err := s.templates[f.page].ExecuteTemplate(&text, "frame", f); err != nil {
		s.Logger.Error("page not rendered", "page", f.page, "error", err.Error())
		http.Error(w, "The page cannot be shown.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, token.Redact(text.String())) // the browser may be gone
}

// fail serves a page with a problem.
func (s *Server) fail(w http.ResponseWriter, one *session, status int, text string) {
	s.render(w, status, &frame{page: "problem", Title: http.StatusText(status), Session: one, Content: text})
}

// part is a part of a page that a request to Vault fills.
type part[T any] struct {
	Value   T
	Problem *problem // in place of the value; nil: none
}

func partOf[T any](value T, err error) part[T] {
	if err != nil {
		return part[T]{Problem: problemOf(err)}
	}
	return part[T]{Value: value}
}

// instant is a time of an answer; zero: none.
type instant struct{ time.Time }

// UnmarshalJSON accepts RFC 3339, and takes other values for no time.
func (i *instant) UnmarshalJSON(text []byte) error {
	var s string
	if json.Unmarshal(text, &s) != nil {
		return nil
	}
	i.Time, _ = time.Parse(time.RFC3339Nano, s)
	return nil
}

var functions = template.FuncMap{
	"count":  count,
	"rfc":    func(i instant) string { return i.UTC().Format(time.RFC3339) },
	"clock":  func(i instant) string { return i.UTC().Format("2006-01-02 15:04:05") },
	"minute": func(i instant) string { return i.UTC().Format("2006-01-02 15:04") },
	"join":   func(list []string) string { return strings.Join(list, ", ") },
	"words":  words,
	"order":  func(name string) string { return orderNames[name] },
	"dict":   dict,
}

// dict returns the pairs of names and values as a map: a template takes one value.
func dict(pairs ...any) (map[string]any, error) {
	if len(pairs)%2 != 0 {
		return nil, fmt.Errorf("dict: a value is missing")
	}
	m := make(map[string]any, len(pairs)/2)
	for i := 0; i < len(pairs); i += 2 {
		name, ok := pairs[i].(string)
		if !ok {
			return nil, fmt.Errorf("dict: %v is not a name", pairs[i])
		}
		m[name] = pairs[i+1]
	}
	return m, nil
}

// count writes a number with separators: 1,234,567.
func count(n int64) string {
	text := strconv.FormatInt(n, 10)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

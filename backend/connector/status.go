package connector

import (
	"net/http"
	"slices"
	"strings"
)

// classify returns the error of a response's status, or nil.
func (r *request) classify(a *answer) error {
	good := a.status >= 200 && a.status < 300
	if len(r.ok) > 0 {
		good = slices.Contains(r.ok, a.status)
	}
	denied := a.status == http.StatusUnauthorized || a.status == http.StatusForbidden
	if len(r.denied) > 0 {
		denied = slices.Contains(r.denied, a.status)
	}
	switch {
	case good:
		return nil
	case slices.Contains(r.gone, a.status):
		return ErrGone
	case a.status >= 300 && a.status < 400:
		return &Error{Status: a.status, Message: "redirects are not followed: set url to the address of the API", Unsure: true}
	}
	e := &Error{Status: a.status, Message: messageOf(a.body), Denied: denied, RetryAfter: a.after}
	// A server may have processed the request before it failed. An unexpected 2xx status is unsure, too.
	refused := a.status >= 400 && a.status < 500 && a.status != http.StatusRequestTimeout
	e.Unsure = !refused && !(a.status == http.StatusServiceUnavailable && a.after > 0)
	return e
}

// messageOf returns the error message of a body. It tries the usual member names. The message may contain secrets.
func messageOf(body any) string {
	switch v := body.(type) {
	case string:
		if strings.HasPrefix(strings.TrimSpace(v), "<") {
			return "" // an HTML page
		}
		return v
	case []any:
		var all []string
		for _, one := range v {
			if text := messageOf(one); text != "" {
				all = append(all, text)
			}
		}
		return strings.Join(all, "; ")
	case map[string]any:
		for _, key := range []string{"error_description", "message", "errors", "error", "detail", "title", "reason"} {
			if text := messageOf(v[key]); text != "" {
				return text
			}
		}
		var all []string // such as {"name": ["is taken"]}
		for _, key := range sortedKeys(v) {
			if list, ok := v[key].([]any); ok {
				all = append(all, key+": "+messageOf(list))
			}
		}
		return strings.Join(all, "; ")
	}
	return ""
}

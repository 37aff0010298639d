package server

import (
	"encoding/json"
	"net/http"
)

// serveAdmin serves what operators and monitoring ask.
func (s *Server) serveAdmin(w http.ResponseWriter, r *http.Request, path string) {
	switch path {
	case "/healthz":
		writeJSON(w, http.StatusOK, map[string]any{"status": "ok"})
	case "/readyz":
		s.ready(w)
	case "/metrics":
		s.metrics.handler.ServeHTTP(w, r)
	default:
		http.NotFound(w, r)
	}
}

// ready answers 503 while some kind of token cannot be checked. Such tokens are refused.
func (s *Server) ready(w http.ResponseWriter) {
	state := s.checker.State()
	problems := state.Problems
	if s.draining.Load() {
		problems = append(problems, "the authorizer is stopping")
	}
	status := http.StatusOK
	if !state.Ready || s.draining.Load() {
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, map[string]any{
		"ready": status == http.StatusOK, "problems": problems, "rules": s.rules.Load().Len(),
		"feed_age_seconds": state.FeedAge.Seconds(), "keys_age_seconds": state.KeysAge.Seconds(), "keys": state.Keys,
		"tokens": state.Tokens, "epoch": state.Epoch, "cursor": state.Cursor,
	})
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value)
}

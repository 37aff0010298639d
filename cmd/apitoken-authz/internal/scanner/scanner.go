// Package scanner serves secret scanners: GitHub reports tokens that it has found, and TruffleHog and Betterleaks ask whether a
// token is alive. Requests are bounded in size, number and time, and no log line has a token.
package scanner

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/cmd/apitoken-authz/internal/config"
)

const (
	maxReportBody   = 4 << 20  // of GitHub
	maxReports      = 1000     // in a request of GitHub
	maxType         = 128      // bytes, as in the engine
	maxQuestionBody = 64 << 10 // of TruffleHog
	maxTexts        = 8        // in a question
	maxRequests     = 16       // that are handled at once
	maxBodies       = 64 << 20 // of all requests together
	bodyPart        = 16 << 10 // of maxBodies that a body takes at once
	minSecret       = 16       // bytes

	// requestTime is less than the 30 s that GitHub waits for an answer.
	requestTime = 25 * time.Second
)

// Engine is the engine as scanners need it. *verify.Verifier is one.
type Engine interface {
	ReportLeaked(ctx context.Context, list []verify.Leak) ([]verify.LeakFeedback, error)
	Alive(ctx context.Context, token string) (bool, error)
}

// Scanner answers secret scanners. A Scanner is safe for concurrent use.
type Scanner struct {
	engine  Engine
	logger  *slog.Logger
	keys    *file[keys]         // nil: reports need no signature
	secret  *file[[]byte]       // nil: nobody may ask
	places  chan struct{}       // full while maxRequests are handled
	memory  *semaphore.Weighted // of bodies
	answers *prometheus.CounterVec
}

// New returns a Scanner for a configuration. Its error says which file cannot be used.
func New(engine Engine, c *config.Scanner, logger *slog.Logger, registry *prometheus.Registry) (*Scanner, error) {
	s := &Scanner{
		engine: engine, logger: logger, places: make(chan struct{}, maxRequests), memory: semaphore.NewWeighted(maxBodies),
		answers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apitoken_authz_scanner_requests_total", Help: "Requests of secret scanners, by path and status.",
		}, []string{"path", "status"}),
	}
	registry.MustRegister(s.answers)
	var err error
	if c.GitHubKeys != "" {
		if s.keys, err = openFile("scanner.github_keys", c.GitHubKeys, logger, parseKeys); err != nil {
			return nil, err
		}
	}
	if c.SecretFile != "" {
		if s.secret, err = openFile("scanner.secret_file", c.SecretFile, logger, parseSecret); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func parseSecret(text []byte) ([]byte, error) {
	secret := strings.TrimSpace(string(text))
	if len(secret) < minSecret {
		return nil, errors.New("the secret has fewer than " + strconv.Itoa(minSecret) + " bytes")
	}
	return []byte(secret), nil
}

// answer is what a handler answers. A nil body is an empty body.
type answer struct {
	status int
	body   any
}

func problem(status int, text string) answer {
	return answer{status, map[string]string{"error": text}}
}

// ServeHTTP implements http.Handler.
func (s *Scanner) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var handle func(context.Context, http.ResponseWriter, *http.Request) answer
	path := "other"
	switch r.URL.Path {
	case "/scanner/github":
		path, handle = "github", s.reported
	case "/scanner/verify":
		if s.secret != nil {
			path, handle = "verify", s.asked
		}
	}
	a := problem(http.StatusNotFound, "the paths are /scanner/github, and /scanner/verify if scanner.secret_file is set")
	switch {
	case handle == nil:
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		a = problem(http.StatusMethodNotAllowed, "the method is POST")
	default:
		ctx, cancel := context.WithTimeout(r.Context(), requestTime)
		defer cancel()
		a = handle(ctx, w, r)
	}
	if a.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	s.answers.WithLabelValues(path, strconv.Itoa(a.status)).Inc()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(a.status)
	if a.body != nil {
		_ = json.NewEncoder(w).Encode(a.body)
	}
}

// atPlace answers a request that was read and checked, if fewer than maxRequests are handled: a client that sends slowly or may
// not ask takes no place.
func (s *Scanner) atPlace(handle func() answer) answer {
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }() // also if handle panics
		return handle()
	default:
		return problem(http.StatusServiceUnavailable, "too many requests are being handled")
	}
}

// read reads a body of at most some bytes. free gives the memory of the body back.
func (s *Scanner) read(w http.ResponseWriter, r *http.Request, most int64) (body []byte, free func(), failed *answer) {
	var buffer bytes.Buffer
	held := int64(0)
	free = func() { s.memory.Release(held) }
	reader := http.MaxBytesReader(w, r.Body, most)
	var err error
	for err == nil {
		if !s.memory.TryAcquire(bodyPart) {
			a := problem(http.StatusServiceUnavailable, "too many requests are being read")
			return nil, free, &a
		}
		held += bodyPart
		_, err = io.CopyN(&buffer, reader, bodyPart)
	}
	if errors.Is(err, io.EOF) {
		return buffer.Bytes(), free, nil
	}
	a := problem(http.StatusBadRequest, "the body cannot be read")
	if tooLarge, is := errors.AsType[*http.MaxBytesError](err); is {
		a = problem(http.StatusRequestEntityTooLarge, "the body is larger than "+strconv.FormatInt(tooLarge.Limit, 10)+" bytes")
	}
	return nil, free, &a
}

// reported takes the reports of GitHub's secret scanning partner program.
func (s *Scanner) reported(ctx context.Context, w http.ResponseWriter, r *http.Request) answer {
	body, free, failed := s.read(w, r, maxReportBody)
	defer free()
	if failed != nil {
		return *failed
	}
	if s.keys != nil {
		if err := s.keys.get().check(r.Header, body); err != nil {
			s.logger.Warn("report of leaked tokens refused", "error", err.Error(), "client", r.RemoteAddr)
			return problem(http.StatusForbidden, err.Error())
		}
	}
	var list []verify.Leak
	if err := json.Unmarshal(body, &list); err != nil { // without the error, which may show a token
		return problem(http.StatusBadRequest, "the body is no JSON array of objects with token, type, url and source")
	}
	if len(list) == 0 || len(list) > maxReports {
		return problem(http.StatusBadRequest, "the array has "+strconv.Itoa(len(list))+" objects, 1 to "+strconv.Itoa(maxReports)+
			" are allowed")
	}
	for i := range list {
		if list[i].Token == "" {
			return problem(http.StatusBadRequest, "object "+strconv.Itoa(i)+" of the array has no token")
		}
		if !validType(list[i].Type) { // the engine would refuse all reports
			return problem(http.StatusBadRequest, "object "+strconv.Itoa(i)+" of the array has a type that is not at most "+
				strconv.Itoa(maxType)+" bytes of printable ASCII")
		}
	}
	return s.atPlace(func() answer { return s.report(ctx, list) })
}

// report reports tokens to the engine.
func (s *Scanner) report(ctx context.Context, list []verify.Leak) answer {
	feedback, err := s.engine.ReportLeaked(ctx, list)
	if err != nil {
		s.logger.Error("leaked tokens not revoked", "reports", len(list), "error", err.Error())
		return problem(http.StatusServiceUnavailable, "the tokens cannot be revoked now: repeat the request later")
	}
	ours := 0
	for i := range feedback {
		if feedback[i].Label == "true_positive" {
			ours++
		}
	}
	s.logger.Info("leaked tokens reported", "reports", len(list), "tokens_of_this_mount", ours)
	return answer{http.StatusOK, feedback}
}

// validType reports whether the engine takes the type of a token.
func validType(kind string) bool {
	return len(kind) <= maxType && !strings.ContainsFunc(kind, func(c rune) bool { return c < 0x20 || c > 0x7e })
}

// asked answers whether a token is alive, in the form of TruffleHog's custom detectors: the name of the detector, and of each
// of its regular expressions the texts that it matched.
func (s *Scanner) asked(ctx context.Context, w http.ResponseWriter, r *http.Request) answer {
	given, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !bearer || subtle.ConstantTimeCompare([]byte(given), s.secret.get()) != 1 {
		w.Header().Set("WWW-Authenticate", "Bearer")
		return problem(http.StatusUnauthorized, "Authorization must be Bearer and the secret of scanner.secret_file")
	}
	body, free, failed := s.read(w, r, maxQuestionBody)
	defer free()
	if failed != nil {
		return *failed
	}
	texts, err := matches(body)
	if err != nil {
		return problem(http.StatusBadRequest, err.Error())
	}
	return s.atPlace(func() answer { return s.alive(ctx, texts) })
}

// alive asks the engine whether one of some texts is a token that is alive.
func (s *Scanner) alive(ctx context.Context, texts []string) answer {
	for _, text := range texts {
		alive, err := s.engine.Alive(ctx, text)
		if err != nil {
			s.logger.Error("question of a scanner not answered", "error", err.Error())
			return problem(http.StatusServiceUnavailable, "Vault does not answer")
		}
		if alive {
			return answer{http.StatusOK, map[string]bool{"alive": true}}
		}
	}
	return answer{http.StatusNotFound, map[string]bool{"alive": false}}
}

// matches returns the different texts of a question.
func matches(body []byte) ([]string, error) {
	var detectors map[string]map[string][]string
	if err := json.Unmarshal(body, &detectors); err != nil { // without the error, which may show a token
		return nil, errors.New(`the body is not of the form {"DETECTOR": {"REGEX": ["MATCH"]}}`)
	}
	seen := make(map[string]bool)
	var texts []string
	for _, patterns := range detectors {
		for _, list := range patterns {
			for _, text := range list {
				if text = strings.TrimSpace(text); text != "" && !seen[text] {
					seen[text], texts = true, append(texts, text)
				}
			}
		}
	}
	if len(texts) == 0 || len(texts) > maxTexts {
		return nil, errors.New("the body has " + strconv.Itoa(len(texts)) + " different matches, 1 to " + strconv.Itoa(maxTexts) +
			" are allowed")
	}
	return texts, nil
}

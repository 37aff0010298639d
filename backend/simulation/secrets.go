package simulation

import (
	"encoding/json"
	"regexp"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"
)

// secrets are what must not show: invariant 8. Their forms are known, so that they are found where they must not be
// without comparing everything with each of them.
type secrets struct {
	forms *regexp.Regexp
}

func (s *secrets) init()      { s.forms = secretForms }
func (s *secrets) add(string) {}

func (s *secrets) checkAnswer(w *world, operation logical.Operation, path string, a *answer) {
	if a.err != nil {
		s.checkText(w, "the error of "+path, a.err.Error())
	}
	if a.refused != "" {
		s.checkText(w, "the refusal of "+path, a.refused)
	}
	if a.resp == nil {
		return
	}
	for _, warning := range a.resp.Warnings {
		s.checkText(w, "a warning of "+path, warning)
	}
	for _, prefix := range answersWithTokens {
		if strings.HasPrefix(path, prefix) {
			return
		}
	}
	if operation == logical.RevokeOperation || operation == logical.RenewOperation || path == "introspect" {
		return
	}
	encoded, _ := json.Marshal(a.resp.Data)
	s.checkText(w, "the answer of "+path, string(encoded))
}

func (s *secrets) checkText(w *world, where, text string) {
	if found := s.forms.FindString(text); found != "" {
		w.broken(8, "%s shows %s: %s", where, found, clip(text))
	}
}

// checkLog looks through what a node has logged.
func (w *world) checkLog(n *node) {
	if text := n.log.take(); text != "" {
		w.secrets.checkText(w, "the log", text)
		for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
			w.say("      node %d logs: %s", n.n, clip(line))
		}
	}
}

// rawBody is the body of an answer that is not Vault's, and its status; 0 where it is Vault's.
func rawBody(resp *logical.Response) (string, int) {
	if resp == nil || resp.Data[logical.HTTPRawBody] == nil {
		return "", 0
	}
	status, _ := resp.Data[logical.HTTPStatusCode].(int)
	switch body := resp.Data[logical.HTTPRawBody].(type) {
	case []byte:
		return string(body), status
	case string:
		return body, status
	}
	return "", status
}

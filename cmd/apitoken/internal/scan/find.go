package scan

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"sync"

	"github.com/zricethezav/gitleaks/v8/config"
	"github.com/zricethezav/gitleaks/v8/detect"
	"github.com/zricethezav/gitleaks/v8/regexp"
	"github.com/zricethezav/gitleaks/v8/sources"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// Rules of the detector.
const (
	ruleOpaque = "vault-apitoken"
	ruleJWT    = "vault-apitoken-jwt"
)

// anyPrefix matches every prefix of a token.
const anyPrefix = `[a-z][a-z0-9_]{1,15}`

// finder finds tokens in fragments of text. A finder is safe for concurrent use.
type finder struct {
	detector *detect.Detector

	mu      sync.Mutex
	secrets map[string]*secret
	found   map[location]*finding
}

// location identifies a finding.
type location struct {
	text, file, commit string
	line               int
}

// newFinder returns a finder of tokens with some prefixes; nil: any. The finder decodes base64, hexadecimal and percent-encoding up
// to decode times.
func newFinder(ctx context.Context, prefixes []string, decode int) *finder {
	pattern := anyPrefix
	var keywords []string
	if prefixes != nil {
		pattern = "(?:" + strings.Join(prefixes, "|") + ")"
		for _, prefix := range prefixes {
			keywords = append(keywords, prefix+"_")
		}
	}
	rules := []config.Rule{
		// No word boundary at either side: a text such as "\napt_..." in JSON has none. The checksum decides.
		{RuleID: ruleOpaque, Regex: regexp.MustCompile(pattern + `_[0-9A-Za-z]{80,}`), Keywords: keywords},
		{
			RuleID: ruleJWT, Keywords: []string{"eyj"}, // the detector compares keywords in lower case
			Regex: regexp.MustCompile(`eyJ[0-9A-Za-z_-]{10,}\.eyJ[0-9A-Za-z_-]{40,}\.[0-9A-Za-z_-]{40,}`),
		},
	}
	c := config.Config{Rules: make(map[string]config.Rule), Keywords: make(map[string]struct{})}
	for _, rule := range rules {
		c.Rules[rule.RuleID] = rule
		c.OrderedRules = append(c.OrderedRules, rule.RuleID)
		for _, keyword := range rule.Keywords {
			c.Keywords[keyword] = struct{}{}
		}
	}
	d := detect.NewDetectorContext(ctx, c)
	d.MaxDecodeDepth = decode
	d.IgnoreGitleaksAllow = true // a comment does not make a live token harmless
	return &finder{detector: d, secrets: make(map[string]*secret), found: make(map[location]*finding)}
}

// inspect finds the tokens of a fragment, also in UTF-16: without its zeros, such a text has one byte for each character of a token.
func (f *finder) inspect(ctx context.Context, fragment sources.Fragment) {
	f.detect(ctx, fragment)
	if strings.Contains(fragment.Raw, "\x00") {
		fragment.Raw = strings.ReplaceAll(fragment.Raw, "\x00", "")
		f.detect(ctx, fragment)
	}
}

func (f *finder) detect(ctx context.Context, fragment sources.Fragment) {
	//nolint:staticcheck // version 8 has no other type for a fragment, which version 9 is to replace
	for _, hit := range f.detector.DetectContext(ctx, detect.Fragment(fragment)) {
		text, ok := opaque(hit.Secret)
		if hit.RuleID == ruleJWT {
			text, ok = hit.Secret, isEngineJWT(hit.Secret)
		}
		if ok {
			f.add(text, hit.RuleID, location{text, fragment.FilePath, fragment.CommitSHA, hit.StartLine})
		}
	}
}

func (f *finder) add(text, kind string, at location) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.secrets[text]
	if s == nil {
		s = &secret{text: text, kind: kind}
		f.secrets[text] = s
	}
	if f.found[at] == nil {
		f.found[at] = &finding{secret: s, file: at.file, line: at.line, commit: at.commit}
	}
}

// sorted returns what was found, by place.
func (f *finder) sorted() []*finding {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := make([]*finding, 0, len(f.found))
	for _, one := range f.found {
		list = append(list, one)
	}
	slices.SortFunc(list, func(a, b *finding) int {
		return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.line, b.line), cmp.Compare(a.commit, b.commit),
			cmp.Compare(a.text, b.text))
	})
	return list
}

// opaque returns the opaque token at the end of a match. Letters before the prefix belong to the match if any prefix is
// allowed.
func opaque(match string) (string, bool) {
	end := strings.LastIndexByte(match, '_')
	for begin := range max(end-1, 0) {
		text := match[begin:]
		if token.CheckPrefix(match[begin:end]) == nil && token.Checksum(text) {
			return text, true
		}
	}
	return "", false
}

// isEngineJWT reports whether a JWT has the claim of the engine. The signature is not checked.
func isEngineJWT(text string) bool {
	parts := strings.Split(text, ".")
	if len(text) > token.MaxLen || len(parts) != 3 {
		return false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return false
	}
	var claims map[string]json.RawMessage
	return json.Unmarshal(payload, &claims) == nil && claims[token.EngineClaim] != nil
}

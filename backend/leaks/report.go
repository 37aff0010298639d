// Package leaks has the reports of leaked tokens: which form a report has, and what of a report may be kept. The finder of a
// token reports the token, without a Vault token. Nothing in a report is trusted. A report costs a bounded amount of memory.
package leaks

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

const (
	// MaxReports is the maximum number of reports in a request.
	MaxReports = 100

	// DefaultType is the type of a token whose report states none.
	DefaultType = "vault_apitoken"

	maxType   = 128
	maxURL    = 512
	maxSource = 64
)

// Labels of GitHub's secret scanning partner program.
const (
	TruePositive  = "true_positive"
	FalsePositive = "false_positive"
)

// Report says that a token was found where it should not be.
type Report struct {
	Token string // as the report has it: anything but empty

	// Type is what the reporter calls the kind of token: at most 128 bytes of printable ASCII.
	Type string

	URL    string // where the token was found, without the token: at most 512 bytes; empty: not stated
	Source string // kind of the place: at most 64 bytes; empty: not stated
}

// Parse returns the reports of a request. value is decoded JSON: an array of tokens, or of objects as GitHub sends them, or a
// string of tokens that are separated by commas.
func Parse(field string, value any) ([]Report, error) {
	var items []any
	switch list := value.(type) {
	case string:
		for text := range strings.SplitSeq(list, ",") {
			items = append(items, strings.TrimSpace(text))
		}
	case []any:
		items = list
	case []string:
		for _, text := range list {
			items = append(items, text)
		}
	default:
		return nil, refusal.Field(field, "takes an array of tokens, or of objects with %s", strings.Join(members, ", "))
	}
	if len(items) == 0 {
		return nil, refusal.Field(field, "is empty: give 1 to %d tokens", MaxReports)
	}
	if len(items) > MaxReports {
		return nil, refusal.Field(field, "has %d tokens, at most %d are allowed in a request", len(items), MaxReports)
	}
	reports := make([]Report, len(items))
	for i, item := range items {
		if err := reports[i].parse(field+"["+strconv.Itoa(i)+"]", item); err != nil {
			return nil, err
		}
	}
	others := othersOf(reports)
	for i := range reports {
		r := &reports[i]
		found := &secrets{r.Token, others}
		r.URL, r.Source = location(found.hideLong(r.URL), found), clean(found.hideLong(r.Source), found, maxSource)
	}
	return reports, nil
}

// members are the members of a report, as GitHub names them.
var members = []string{"token", "type", "url", "source"}

func (r *Report) parse(place string, item any) error {
	if text, is := item.(string); is {
		item = map[string]any{"token": text}
	}
	object, is := item.(map[string]any)
	if !is {
		return refusal.Field(place, "takes a token, or an object with %s", strings.Join(members, ", "))
	}
	texts := make(map[string]string, len(object))
	for name, value := range object {
		text, is := value.(string)
		switch {
		case !slices.Contains(members, name):
			return refusal.Field(place, "%q is no member of a report, which has %s", refusal.Clip(name), strings.Join(members, ", "))
		case !is:
			return refusal.Field(place+"."+name, "takes a string")
		}
		texts[name] = text
	}
	if texts["token"] == "" {
		return refusal.Field(place+".token", "is missing or empty")
	}
	kind := texts["type"]
	if err := refusal.CheckLen(place+".type", kind, maxType); err != nil {
		return err
	}
	if strings.ContainsFunc(kind, func(c rune) bool { return c < 0x20 || c > 0x7e }) {
		return refusal.Field(place+".type", "has characters that are not printable ASCII")
	}
	if kind == "" {
		kind = DefaultType
	}
	*r = Report{Token: texts["token"], Type: kind, URL: texts["url"], Source: texts["source"]} // Parse cleans url and source
	return nil
}

// Answer returns the feedback on a report, in the form of GitHub's secret scanning partner program. The answer names the
// token by its SHA-256 hash, so that no answer has a token. ours reports whether the mount made the token.
func (r *Report) Answer(ours bool) map[string]any {
	label := FalsePositive
	if ours {
		label = TruePositive
	}
	sum := sha256.Sum256([]byte(r.Token))
	return map[string]any{"token_hash": hex.EncodeToString(sum[:]), "token_type": r.Type, "label": label}
}

package console

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

const findingsOnPage = 50

// findingRow is a finding.
type findingRow struct {
	ID             string                 `json:"id"`
	Rule           string                 `json:"rule"`
	Severity       string                 `json:"severity"`
	State          string                 `json:"state"`
	Count          int64                  `json:"count"`
	FirstSeenAt    instant                `json:"first_seen_at"`
	LastSeenAt     instant                `json:"last_seen_at"`
	TokenID        string                 `json:"token_id"`
	Role           string                 `json:"role"`
	EntityID       string                 `json:"entity_id"`
	Address        string                 `json:"address"`
	Summary        string                 `json:"summary"`
	Numbers        map[string]json.Number `json:"numbers"`
	Evidence       []evidence             `json:"evidence"`
	Commands       []string               `json:"commands"`
	Response       string                 `json:"response"`
	Note           string                 `json:"note"`
	AcknowledgedAt instant                `json:"acknowledged_at"`
	AcknowledgedBy string                 `json:"acknowledged_by"`
}

type evidence struct {
	At      instant `json:"at"`
	Address string  `json:"address"`
	Region  string  `json:"region"`
	Network string  `json:"network"`

	// Of a leaked token, as its report says. Nobody has checked either: a page shows them as text, and not as a link.
	URL    string `json:"url"`
	Source string `json:"source"`
}

// rules are the rules of config/detection, for the form.
var rules = []string{
	"impossible_travel", "new_region", "new_network", "several_networks", "refused_burst", "guessing", "shared", "dormant_awake",
	"used_after_end", "surge", "refresh_reuse", "proof_failed", "wrong_environment", "leaked",
}

// findingsContent is the data of the page of findings.
type findingsContent struct {
	State, Rule, Role string
	Rules             []string
	Rows              []findingRow
	Problem           *problem
	Next, First       string // addresses of pages; empty: none
}

func (s *Server) findings(v *view) (any, error) {
	query := v.URL.Query()
	c := &findingsContent{State: query.Get("state"), Rule: query.Get("rule"), Role: query.Get("role"), Rules: rules}
	if !query.Has("state") {
		c.State = "open"
	}
	if c.State != "" && c.State != "open" && c.State != "acknowledged" {
		return nil, refusal("state", "is not one of: open, acknowledged")
	}
	for name, value := range map[string]string{"rule": c.Rule, "role": c.Role, "after": query.Get("after")} {
		if value != "" && !validName(value) {
			return nil, refusal(name, "is not a name: letters, digits, _, - and . are allowed")
		}
	}
	link := func(after string) string {
		q := url.Values{"state": {c.State}, "rule": {c.Rule}, "role": {c.Role}}
		if after != "" {
			q.Set("after", after)
		}
		return "/findings?" + q.Encode()
	}
	q := url.Values{"limit": {strconv.Itoa(findingsOnPage)}}
	for name, value := range map[string]string{"state": c.State, "rule": c.Rule, "role": c.Role, "after": query.Get("after")} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if q.Has("after") {
		c.First = link("")
	}
	a, err := list[findingRow](v.ctx, v.caller, "findings", q)
	if err != nil {
		c.Problem = problemOf(err)
		return c, nil
	}
	for _, id := range a.Data.Keys {
		c.Rows = append(c.Rows, a.Data.Info[id])
	}
	if len(a.Warnings) > 0 && len(a.Data.Keys) > 0 {
		c.Next = link(a.Data.Keys[len(a.Data.Keys)-1])
	}
	return c, nil
}

// findingContent is the data of the page of one finding.
type findingContent struct {
	*findingRow
	Measured []pair
}

// pair is a name and a value.
type pair struct{ Name, Value string }

func findingID(r *http.Request) (string, error) {
	id := r.PathValue("id")
	if !tokenIDPattern.MatchString(id) || len(id) != 24 {
		return "", refusal("id", "is not the ID of a finding: 24 hexadecimal digits")
	}
	return id, nil
}

func (s *Server) finding(v *view) (any, error) {
	id, err := findingID(v.Request)
	if err != nil {
		return nil, err
	}
	a, err := read[*findingRow](v.ctx, v.caller, "findings/"+id, nil)
	if err != nil {
		return nil, err
	}
	if a.Data == nil || a.Data.ID == "" {
		return nil, &problem{Kind: missing, Path: "finding " + id}
	}
	c := &findingContent{findingRow: a.Data}
	for _, name := range slices.Sorted(maps.Keys(a.Data.Numbers)) {
		c.Measured = append(c.Measured, pair{words(name), a.Data.Numbers[name].String()})
	}
	return c, nil
}

func (s *Server) acknowledge(w http.ResponseWriter, r *http.Request, one *session) {
	id, err := findingID(r)
	var done *answer[map[string]any]
	if err == nil {
		done, err = write(r.Context(), one.caller, "findings/"+id, map[string]any{"note": strings.TrimSpace(r.PostFormValue("note"))})
	}
	s.answer(w, r, one, "/findings/"+id, "The finding was acknowledged.", done, err)
}

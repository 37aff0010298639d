package console

import (
	"cmp"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// tokenContent is the data of the page of one token.
type tokenContent struct {
	Token    *tokenRow
	Refusals []label
	Timeline []event
	Findings part[[]findingRow] // about this token
	Cut      bool               // the role has more findings than the console read
}

// event is a point of a timeline.
type event struct {
	At    instant
	Kind  string // class of the style sheet
	Title string
	Text  string
	Link  string // empty: none
}

// grantID returns the ID of the grant of a token: what the engine lists.
func grantID(v *view) (string, error) {
	id := v.PathValue("id")
	if !tokenIDPattern.MatchString(id) {
		return "", refusal("token_id", "is not the public name of a token: 24 hexadecimal digits")
	}
	return id[:24], nil
}

func (s *Server) token(v *view) (any, error) {
	id, err := grantID(v)
	if err != nil {
		return nil, err
	}
	a, err := read[*tokenRow](v.ctx, v.caller, "tokens/"+id, nil)
	if err != nil {
		return nil, err
	}
	if a.Data == nil || a.Data.TokenID == "" {
		return nil, &problem{Kind: missing, Path: "token " + id + ": the token expired, or was never issued"}
	}
	c := &tokenContent{Token: a.Data}
	for _, reason := range slices.Sorted(maps.Keys(a.Data.Usage.Refusals)) {
		c.Refusals = append(c.Refusals, label{reason, a.Data.Usage.Refusals[reason]})
	}
	query := url.Values{"limit": {strconv.Itoa(apiPage)}}
	if validName(a.Data.Role) {
		query.Set("role", a.Data.Role)
	}
	found, err := list[findingRow](v.ctx, v.caller, "findings", query)
	if err != nil {
		c.Findings = partOf[[]findingRow](nil, err)
	} else {
		c.Cut = len(found.Warnings) > 0
		for _, key := range found.Data.Keys {
			if f := found.Data.Info[key]; strings.HasPrefix(f.TokenID, id) {
				c.Findings.Value = append(c.Findings.Value, f)
			}
		}
	}
	c.Timeline = timeline(c.Token, c.Findings.Value)
	return c, nil
}

// timeline returns what is known of a token, the newest first. A suspension and a revocation have no time: the engine keeps none.
func timeline(t *tokenRow, found []findingRow) []event {
	var events []event
	add := func(at instant, kind, title, text, link string) {
		if !at.IsZero() {
			events = append(events, event{at, kind, title, text, link})
		}
	}
	add(t.IssuedAt, "issued", "Issued", "by role "+t.Role+", version "+strconv.FormatInt(t.RoleVersion, 10)+", to "+
		cmp.Or(t.DisplayName, "an unnamed requester"), "")
	u := &t.Usage
	add(u.FirstUsedAt, "used", "First use", "", "")
	if u.Uses > 1 {
		add(u.LastUsedAt, "used", "Last use", strings.Join(known(
			"use number "+count(u.Uses), prefixed("from ", u.LastIP), prefixed("in ", u.LastRegion), prefixed("network ", u.LastNetwork),
		), ", "), "")
	}
	for i := range found {
		f := &found[i]
		link := "/findings/" + f.ID
		add(f.FirstSeenAt, "finding", "Finding: "+words(f.Rule), f.Summary, link)
		if f.Count > 1 {
			add(f.LastSeenAt, "finding", "Again: "+words(f.Rule), "event number "+count(f.Count), link)
		}
		if f.Response != "" {
			add(f.FirstSeenAt, "response", "Response of the rule "+words(f.Rule), f.Response, link)
		}
		add(f.AcknowledgedAt, "acknowledged", "Finding acknowledged",
			strings.Join(known(prefixed("by ", f.AcknowledgedBy), f.Note), ": "), link)
	}
	title := "Expires"
	if t.State == "expired" {
		title = "Expired"
	}
	add(t.ExpiresAt, "expires", title, "", "")
	slices.SortStableFunc(events, func(a, b event) int { return a.At.Compare(b.At.Time) })
	slices.Reverse(events)
	return events
}

// known returns the texts that are not empty.
func known(texts ...string) []string {
	return slices.DeleteFunc(texts, func(s string) bool { return s == "" })
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

func words(s string) string { return strings.ReplaceAll(s, "_", " ") }

// action is what a page does with a token.
type action struct {
	Name  string // of the path of the engine
	Title string
	Done  string
	Text  string // what the action does
	Note  bool   // whether the action takes a note
}

var actions = map[string]action{
	"revoke": {Name: "revoke", Title: "Revoke", Done: "revoked",
		Text: "Every token of the grant is refused from now on. A revocation cannot be undone."},
	"suspend": {Name: "suspend", Title: "Suspend", Done: "suspended", Note: true,
		Text: "Every token of the grant is refused until you resume the token. A suspended token cannot be renewed."},
	"resume": {Name: "resume", Title: "Resume", Done: "resumed", Note: true,
		Text: "The suspension is undone. The token expires at its time."},
}

// actionContent is the data of the page that asks for a confirmation.
type actionContent struct {
	ID     string
	Action action
	Token  part[*tokenRow]
}

func (s *Server) confirm(v *view) (any, error) {
	id, err := grantID(v)
	if err != nil {
		return nil, err
	}
	a, known := actions[v.PathValue("action")]
	if !known {
		return s.notFound(v)
	}
	c := &actionContent{ID: id, Action: a}
	t, err := read[*tokenRow](v.ctx, v.caller, "tokens/"+id, nil)
	if err != nil {
		c.Token = partOf[*tokenRow](nil, err)
	} else {
		c.Token = partOf(t.Data, nil)
	}
	return c, nil
}

// act revokes, suspends or resumes a token.
func (s *Server) act(w http.ResponseWriter, r *http.Request, one *session) {
	v := &view{Request: r, session: one, ctx: r.Context()}
	id, err := grantID(v)
	a, known := actions[r.PathValue("action")]
	if err == nil && !known {
		_, err = s.notFound(v)
	}
	if err != nil {
		s.answer(w, r, one, "", "", nil, err)
		return
	}
	body := map[string]any{"token_id": id}
	if note := strings.TrimSpace(r.PostFormValue("note")); a.Note && note != "" {
		body["note"] = note
	}
	done, err := write(r.Context(), one.caller, a.Name, body)
	s.answer(w, r, one, "/tokens/"+id, "Token "+id+" was "+a.Done+".", done, err)
}

// answer leads to a page that says what was done, or serves the problem.
func (s *Server) answer(
	w http.ResponseWriter, r *http.Request, one *session, to, said string, done *answer[map[string]any], err error,
) {
	switch {
	case one.caller.ended.Load():
		s.tokenEnded(w, r, one)
	case err != nil:
		p := problemOf(err)
		s.fail(w, one, p.status(), p.Error())
	default:
		for _, warning := range done.Warnings {
			said += " Warning: " + warning + "."
		}
		one.say(said)
		http.Redirect(w, r, to, http.StatusSeeOther) //nolint:gosec // G710: a page of the console, with an ID that was checked
	}
}

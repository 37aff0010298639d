package console

import (
	"cmp"
	"context"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const (
	tokensOnPage = 50
	// scanBound is the most tokens that the console examines for a page that searches or sorts, in pages of scanPage.
	scanBound = 1500
	scanPage  = 500
)

// tokenRow is a row of tokens/.
type tokenRow struct {
	TokenID     string   `json:"token_id"`
	Role        string   `json:"role"`
	RoleVersion int64    `json:"role_version"`
	Scopes      []string `json:"scopes"`
	EntityID    string   `json:"entity_id"`
	DisplayName string   `json:"display_name"`
	IssuedAt    instant  `json:"issued_at"`
	ExpiresAt   instant  `json:"expires_at"`
	State       string   `json:"state"`
	Detail      string   `json:"detail"`

	// Only in a list.
	Uses       int64   `json:"uses"`
	Refused    int64   `json:"refused"`
	LastUsedAt instant `json:"last_used_at"`
	LastIP     string  `json:"last_ip"`

	// Only of one token.
	Usage struct {
		Uses        int64            `json:"uses"`
		FirstUsedAt instant          `json:"first_used_at"`
		LastUsedAt  instant          `json:"last_used_at"`
		LastIP      string           `json:"last_ip"`
		LastRegion  string           `json:"last_region"`
		LastNetwork string           `json:"last_network"`
		Scopes      []string         `json:"scopes"`
		MoreScopes  bool             `json:"more_scopes"`
		Refusals    map[string]int64 `json:"refusals"`
	} `json:"usage"`
}

// Suspended reports whether the token can be resumed.
func (r *tokenRow) Suspended() bool { return r.State == "suspended" }

// Active reports whether the token can be suspended or revoked.
func (r *tokenRow) Active() bool { return r.State == "active" || r.State == "unknown" }

// tokenPage returns a page of tokens/, and whether there are more.
func tokenPage(ctx context.Context, c *caller, query url.Values) (rows []tokenRow, more bool, _ error) {
	a, err := list[tokenRow](ctx, c, "tokens", query)
	if err != nil {
		return nil, false, err
	}
	rows = make([]tokenRow, 0, len(a.Data.Keys))
	for _, id := range a.Data.Keys {
		rows = append(rows, a.Data.Info[id])
	}
	return rows, len(a.Warnings) > 0, nil // the engine warns if there are more
}

// tokenFilter is what the form of the page selects.
type tokenFilter struct {
	Role  string // the engine filters
	Use   string // unused or used: the engine filters; empty: all
	For   string // duration of Use
	State string // the console filters
	Text  string // the console filters
	Sort  string // a key of tokenOrders; empty: by ID, which is the engine's order
	After string // ID after which the page begins
	From  int    // number of sorted tokens before the page
}

// tokenOrders are the orders of the page, each with the natural direction.
var tokenOrders = map[string]func(a, b *tokenRow) int{
	"issued":  func(a, b *tokenRow) int { return b.IssuedAt.Compare(a.IssuedAt.Time) },
	"expires": func(a, b *tokenRow) int { return a.ExpiresAt.Compare(b.ExpiresAt.Time) },
	"last":    func(a, b *tokenRow) int { return b.LastUsedAt.Compare(a.LastUsedAt.Time) },
	"uses":    func(a, b *tokenRow) int { return cmp.Compare(b.Uses, a.Uses) },
	"refused": func(a, b *tokenRow) int { return cmp.Compare(b.Refused, a.Refused) },
	"role":    func(a, b *tokenRow) int { return strings.Compare(a.Role, b.Role) },
	"holder":  func(a, b *tokenRow) int { return strings.Compare(a.DisplayName, b.DisplayName) },
}

// orderNames are the names of the orders in the form.
var orderNames = map[string]string{
	"issued": "issue, newest first", "expires": "expiry, soonest first", "last": "last use, newest first",
	"uses": "uses, most first", "refused": "refusals, most first", "role": "role", "holder": "holder",
}

var (
	tokenIDPattern  = regexp.MustCompile(`^[0-9a-f]{24}(?:\.[0-9a-f]{24})?$`)
	durationPattern = regexp.MustCompile(`^[0-9]{1,9}[smhd]?$`)
)

func tokenFilterOf(query url.Values) (*tokenFilter, error) {
	f := &tokenFilter{
		Role: query.Get("role"), Use: query.Get("use"), For: query.Get("for"), State: query.Get("state"),
		Text: strings.TrimSpace(query.Get("q")), Sort: query.Get("sort"), After: query.Get("after"),
	}
	if f.For == "" {
		f.For = "45d"
	}
	if from := query.Get("from"); from != "" {
		n, err := strconv.Atoi(from)
		if err != nil || n < 0 || n > scanBound {
			return nil, refusal("from", "is not a number up to "+strconv.Itoa(scanBound))
		}
		f.From = n
	}
	switch {
	case f.Role != "" && !validName(f.Role):
		return nil, refusal("role", "is not the name of a role")
	case !slices.Contains([]string{"", "unused", "used"}, f.Use):
		return nil, refusal("use", "is not one of: unused, used")
	case !durationPattern.MatchString(f.For):
		return nil, refusal("for", "is not a duration, such as 45d, 12h or 90m")
	case len(f.State) > 40:
		return nil, refusal("state", "is not a state of a token")
	case len(f.Text) > 200:
		return nil, refusal("search", "is longer than 200 bytes")
	case f.Sort != "" && tokenOrders[f.Sort] == nil:
		return nil, refusal("sort", "is not an order of the page")
	}
	return f, nil
}

// query returns the part of the filter that the engine does.
func (f *tokenFilter) query(now time.Time) url.Values {
	q := url.Values{}
	if f.Role != "" {
		q.Set("role", f.Role)
	}
	switch f.Use {
	case "unused":
		q.Set("unused_for", f.For)
	case "used":
		q.Set("used_since", now.Add(-duration(f.For)).UTC().Format(time.RFC3339))
	}
	return q
}

// duration parses what durationPattern accepts.
func duration(s string) time.Duration {
	unit := time.Second
	for suffix, d := range map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour} {
		if number, has := strings.CutSuffix(s, suffix); has {
			s, unit = number, d
			break
		}
	}
	n, _ := strconv.ParseInt(s, 10, 64)
	return time.Duration(min(n, int64(1<<62/time.Hour)/24)) * min(unit, 24*time.Hour)
}

// matches reports whether a token passes the part of the filter that the console does.
func (f *tokenFilter) matches(r *tokenRow) bool {
	if f.State != "" && r.State != f.State {
		return false
	}
	if f.Text == "" {
		return true
	}
	text := strings.ToLower(f.Text)
	for _, value := range []string{r.TokenID, r.DisplayName, r.EntityID, r.Role, r.LastIP, strings.Join(r.Scopes, " ")} {
		if strings.Contains(strings.ToLower(value), text) {
			return true
		}
	}
	return false
}

// link returns the address of the page with a change.
func (f *tokenFilter) link(change func(*tokenFilter)) string {
	g := *f
	change(&g)
	q := url.Values{}
	set := func(name, value string) {
		if value != "" {
			q.Set(name, value)
		}
	}
	set("role", g.Role)
	set("use", g.Use)
	if g.Use != "" {
		set("for", g.For)
	}
	set("state", g.State)
	set("q", g.Text)
	set("sort", g.Sort)
	set("after", g.After)
	if g.From > 0 {
		set("from", strconv.Itoa(g.From))
	}
	return "/tokens?" + q.Encode()
}

// tokensContent is the data of the page of tokens.
type tokensContent struct {
	Filter   *tokenFilter
	Rows     []tokenRow
	Problem  *problem
	Next     string // address of the next page; empty: none
	First    string // address of the first page; empty: this is the first
	Examined int64  // number of examined tokens, if the console filters or sorts
	Cut      bool   // the filter selects more tokens than the console examined
	States   []string
	Orders   []string
}

func (s *Server) tokens(v *view) (any, error) {
	f, err := tokenFilterOf(v.URL.Query())
	if err != nil {
		return nil, err
	}
	if token.Redact(f.Text) != f.Text { // the redirect keeps the token out of the history of the browser
		v.say("Do not search for the text of a token: search for its token_id, which lookup of the token tells.")
		return redirect("/tokens"), nil
	}
	if tokenIDPattern.MatchString(f.Text) {
		return redirect("/tokens/" + f.Text), nil
	}
	c := &tokensContent{
		Filter: f,
		States: []string{"active", "suspended", "revoked", "expired", "role_deleted", "subject_disabled", "unknown"},
		Orders: []string{"issued", "expires", "last", "uses", "refused", "role", "holder"},
	}
	if f.After != "" || f.From > 0 {
		c.First = f.link(func(f *tokenFilter) { f.After, f.From = "", 0 })
	}
	switch {
	case f.Sort != "":
		err = c.sorted(v, f.query(s.Now()))
	case f.Text != "" || f.State != "":
		err = c.searched(v, f.query(s.Now()))
	default:
		err = c.paged(v, f.query(s.Now()))
	}
	c.Problem = problemOf(err)
	return c, nil
}

// paged fills a page in the order of the engine.
func (c *tokensContent) paged(v *view, query url.Values) error {
	query.Set("limit", strconv.Itoa(tokensOnPage))
	if c.Filter.After != "" {
		query.Set("after", c.Filter.After)
	}
	rows, more, err := tokenPage(v.ctx, v.caller, query)
	if err != nil {
		return err
	}
	c.Rows = rows
	if more && len(rows) > 0 {
		c.next(rows[len(rows)-1].TokenID)
	}
	return nil
}

func (c *tokensContent) next(after string) {
	c.Next = c.Filter.link(func(f *tokenFilter) { f.After = after })
}

// searched examines up to scanBound tokens for a page of matches. The next page goes on where this one stops.
func (c *tokensContent) searched(v *view, query url.Values) error {
	query.Set("limit", strconv.Itoa(scanPage))
	after := c.Filter.After
	for c.Examined < scanBound {
		if after != "" {
			query.Set("after", after)
		}
		rows, more, err := tokenPage(v.ctx, v.caller, query)
		if err != nil {
			return err
		}
		for i := range rows {
			c.Examined++
			after = rows[i].TokenID
			if !c.Filter.matches(&rows[i]) {
				continue
			}
			c.Rows = append(c.Rows, rows[i])
			if len(c.Rows) == tokensOnPage && (more || i < len(rows)-1) {
				c.next(after)
				return nil
			}
		}
		if !more || len(rows) == 0 {
			return nil
		}
	}
	c.Cut = true
	c.next(after)
	return nil
}

// sorted sorts the first scanBound tokens that the engine's filters select.
func (c *tokensContent) sorted(v *view, query url.Values) error {
	rows, more, err := firstTokens(v.ctx, v.caller, query)
	if err != nil {
		return err
	}
	c.Examined, c.Cut = int64(len(rows)), more
	rows = slices.DeleteFunc(rows, func(r tokenRow) bool { return !c.Filter.matches(&r) })
	order := tokenOrders[c.Filter.Sort]
	slices.SortStableFunc(rows, func(a, b tokenRow) int { return order(&a, &b) })
	from := min(c.Filter.From, len(rows))
	to := min(from+tokensOnPage, len(rows))
	c.Rows = rows[from:to]
	if to < len(rows) {
		c.Next = c.Filter.link(func(f *tokenFilter) { f.From = to })
	}
	return nil
}

// firstTokens returns the first scanBound tokens of a filter, and whether there are more.
func firstTokens(ctx context.Context, c *caller, query url.Values) (all []tokenRow, more bool, _ error) {
	query.Set("limit", strconv.Itoa(scanPage))
	for {
		rows, more, err := tokenPage(ctx, c, query)
		if err != nil {
			return nil, false, err
		}
		all = append(all, rows...)
		if len(all) >= scanBound {
			return all[:scanBound], more || len(all) > scanBound, nil
		}
		if !more || len(rows) == 0 {
			return all, false, nil
		}
		query.Set("after", rows[len(rows)-1].TokenID)
	}
}

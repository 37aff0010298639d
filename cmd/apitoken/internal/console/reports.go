package console

import (
	"context"
	"encoding/csv"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const (
	itemsOnPage  = 50
	maxDownload  = 200 // pages of 1,000 items in a download
	downloadTime = 2 * time.Minute

	upstreamToken = "upstream_token" // kind of the items that a comparison has found at a service
)

// reportPage is a page of a report.
type reportPage struct {
	Items   []reportItem `json:"items"`
	Next    string       `json:"next"`
	Caveats []string     `json:"caveats"`
}

// reportItem is an item of a report.
type reportItem struct {
	Kind           string   `json:"kind"`
	Name           string   `json:"name"`
	Reasons        []string `json:"reasons"`
	Detail         string   `json:"detail"`
	Command        string   `json:"command"`
	Owner          string   `json:"owner"`
	Role           string   `json:"role"`
	EntityID       string   `json:"entity_id"`
	DisplayName    string   `json:"display_name"`
	Connection     string   `json:"connection"`
	UpstreamID     string   `json:"upstream_id"` // at the service
	Scopes         []string `json:"scopes"`
	IssuedAt       instant  `json:"issued_at"`
	ExpiresAt      instant  `json:"expires_at"`
	LastSeenAt     instant  `json:"last_seen_at"`
	ReviewBy       string   `json:"review_by"`
	WatchedSince   instant  `json:"watched_since"`
	UsedScopes     []string `json:"used_scopes"`
	UnneededScopes []string `json:"unneeded_scopes"`
	UsedAddresses  []string `json:"used_addresses"`
	UsedRegions    []string `json:"used_regions"`
	LongestUse     int64    `json:"longest_use"` // seconds
}

// Link returns the page about the item; empty: none.
func (i *reportItem) Link() string {
	switch {
	case i.Kind == "token" && tokenIDPattern.MatchString(i.Name):
		return "/tokens/" + i.Name
	case i.Kind == "role" && validName(i.Name):
		return "/roles/" + i.Name
	default:
		return ""
	}
}

// Upstream reports whether the item is a token that a comparison has found at a service.
func (i *reportItem) Upstream() bool { return i.Kind == upstreamToken }

// Service returns the page of the connection to the service of an upstream token; empty: none.
func (i *reportItem) Service() string {
	if !i.Upstream() || !validName(i.Connection) {
		return ""
	}
	return "/connections/" + i.Connection
}

// reportKind describes a report.
type reportKind struct {
	Name  string
	Title string
	Text  string
	Kinds []string // of items; empty: only one kind
	Field string   // of a duration; empty: none
	Label string   // of Field
	Usual string   // value of Field by default
}

var reportKinds = []reportKind{
	{
		Name: "stale", Title: "Stale", Text: "What nobody has used for a time.",
		Kinds: []string{"token", "role", "connection", "static_role"}, Field: "unused_for", Label: "Unused for", Usual: "45d",
	},
	{
		Name: "broad", Title: "Broad", Text: "Roles and live tokens that grant too much.",
		Kinds: []string{"token", "role"}, Field: "max_life", Label: "Longest life", Usual: "30d",
	},
	{
		Name: "right-size", Title: "Right-size", Text: "What the uses of each role needed, and the command that narrows the role.",
		Field: "watched_for", Label: "Watched for", Usual: "14d",
	},
	{
		Name: "orphans", Title: "Orphans",
		Text:  "Tokens whose entity, role, connection or static role is gone, and what comparisons have found at services.",
		Kinds: []string{"token", "static_role", upstreamToken},
	},
	{
		Name: "unowned", Title: "Unowned", Text: "What nobody answers for, or nobody has confirmed in time.",
		Kinds: []string{"role", "connection", "static_role"},
	},
}

// reportContent is the data of the page of a report.
type reportContent struct {
	reportKind
	All         []reportKind
	Kind        string // selected; empty: all
	Duration    string // value of Field
	Page        reportPage
	Problem     *problem
	Next, First string // addresses of pages; empty: none
	CSV         string // address of the download
}

func (s *Server) reports(*view) (any, error) { return reportKinds, nil }

// reportOf returns the report of a request, and its query.
func reportOf(r *http.Request) (*reportContent, url.Values, error) {
	name := r.PathValue("report")
	i := slices.IndexFunc(reportKinds, func(k reportKind) bool { return k.Name == name })
	if i < 0 {
		return nil, nil, &problem{Kind: missing, Path: "report of this name"}
	}
	given := r.URL.Query()
	c := &reportContent{reportKind: reportKinds[i], All: reportKinds, Kind: given.Get("kind"), Duration: reportKinds[i].Usual}
	q := url.Values{}
	if c.Kind != "" {
		if !slices.Contains(c.Kinds, c.Kind) {
			return nil, nil, refusal("kind", "is not one of: "+strings.Join(c.Kinds, ", "))
		}
		q.Set("kind", c.Kind)
	}
	if d := given.Get(c.Field); c.Field != "" && d != "" {
		if !durationPattern.MatchString(d) {
			return nil, nil, refusal(c.Field, "is not a duration, such as 45d or 12h")
		}
		c.Duration = d
	}
	if c.Field != "" {
		q.Set(c.Field, c.Duration)
	}
	return c, q, nil
}

func (s *Server) report(v *view) (any, error) {
	c, q, err := reportOf(v.Request)
	if err != nil {
		return nil, err
	}
	path := "/reports/" + c.Name
	c.CSV = path + "/csv?" + q.Encode()
	first := path + "?" + q.Encode()
	shown := maps.Clone(q)
	shown.Set("limit", strconv.Itoa(itemsOnPage))
	if after := v.URL.Query().Get("after"); after != "" {
		shown.Set("after", after)
		c.First = first
	}
	page, err := read[reportPage](v.ctx, v.caller, "report/"+c.Name, shown)
	if err != nil {
		c.Problem = problemOf(err)
		return c, nil
	}
	c.Page = page.Data
	if c.Page.Next != "" {
		q.Set("after", c.Page.Next)
		c.Next = path + "?" + q.Encode()
	}
	return c, nil
}

// csvHeader names the columns of a download.
var csvHeader = []string{
	"kind", "name", "reasons", "detail", "command", "owner", "role", "connection", "entity_id", "display_name", "scopes",
	"issued_at", "expires_at", "last_seen_at", "review_by", "watched_since", "used_scopes", "unneeded_scopes", "used_addresses",
	"used_regions", "longest_use_seconds", "upstream_id",
}

func (i *reportItem) record() []string {
	longest := ""
	if i.LongestUse > 0 {
		longest = strconv.FormatInt(i.LongestUse, 10)
	}
	list := func(values []string) string { return strings.Join(values, " ") }
	return []string{
		i.Kind, i.Name, list(i.Reasons), i.Detail, i.Command, i.Owner, i.Role, i.Connection, i.EntityID, i.DisplayName, list(i.Scopes),
		i.IssuedAt.text(), i.ExpiresAt.text(), i.LastSeenAt.text(), i.ReviewBy, i.WatchedSince.text(), list(i.UsedScopes),
		list(i.UnneededScopes), list(i.UsedAddresses), list(i.UsedRegions), longest, i.UpstreamID,
	}
}

func (i instant) text() string {
	if i.IsZero() {
		return ""
	}
	return i.UTC().Format(time.RFC3339)
}

// formula is what a spreadsheet takes for the begin of a formula: a sign at the begin of a cell, in a spreadsheet that separates
// cells by semicolons or tabs also in the middle of a value.
var formula = regexp.MustCompile(`(^|[;\t\r\n])(\s*[=+\-@＝＋－＠])`)

// cell keeps a spreadsheet from running a value as a formula, and has no token.
func cell(s string) string {
	s = formula.ReplaceAllString(token.Redact(s), "$1'$2")
	if s != "" && strings.ContainsRune("\t\r\n", rune(s[0])) {
		return "'" + s
	}
	return s
}

// download sends a report as CSV, page by page. A download that cannot be completed is cut off: a browser then reports that the
// download failed, and nobody takes a part for the whole.
func (s *Server) download(w http.ResponseWriter, r *http.Request, one *session) {
	ctx, cancel := context.WithTimeout(r.Context(), downloadTime)
	defer cancel()
	c, q, err := reportOf(r)
	if err != nil {
		s.answer(w, r, one, "", "", nil, err)
		return
	}
	q.Set("limit", strconv.Itoa(apiPage))
	page, err := read[reportPage](ctx, one.caller, "report/"+c.Name, q)
	if err != nil {
		s.answer(w, r, one, "", "", nil, err)
		return
	}
	w.Header().Set("Content-Type", "text/csv; charset=utf-8; header=present")
	w.Header().Set("Content-Disposition", `attachment; filename="`+c.Name+"-"+s.Now().UTC().Format("2006-01-02")+`.csv"`)
	out := csv.NewWriter(w)
	_ = out.Write(csvHeader) // Error below
	for pages := 1; ; pages++ {
		for i := range page.Data.Items {
			record := page.Data.Items[i].record()
			for j := range record {
				record[j] = cell(record[j])
			}
			_ = out.Write(record)
		}
		out.Flush()
		if page.Data.Next == "" && out.Error() == nil {
			return
		}
		q.Set("after", page.Data.Next)
		if out.Error() == nil && pages < maxDownload {
			page, err = read[reportPage](ctx, one.caller, "report/"+c.Name, q)
		}
		if err != nil || out.Error() != nil || pages >= maxDownload {
			s.Logger.Warn("download cut off", "report", c.Name, "pages", pages)
			panic(http.ErrAbortHandler)
		}
	}
}

package backend

import (
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/report"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/values"
)

// reportAnswer are the members of a page of a report.
var reportAnswer = fields{
	"items": must(slice("Items of the page: kind, name, reasons, detail (the reasons in sentences) and command (what to do); further " +
		"members where they apply.")),
	"next":    str("Value of after for the next page; absent on the last page. A page before the last page may be empty."),
	"caveats": must(strs("What the report cannot know.")),
}

// reportFields returns the fields of a report of these kinds of items, with further fields.
func reportFields(kinds []string, more fields) fields {
	allowed := make([]any, len(kinds))
	for i, kind := range kinds {
		allowed[i] = kind
	}
	return joined(fields{
		"after": query(str("next of the previous page. Default: the first page.")),
		"limit": query(num(fmt.Sprintf("Maximum number of items to return, at most %d. Default: %[1]d. With format=jsonl: %d.",
			report.MaxLimit, maxLines))),
		"format": formatField(),
		"kind":   oneOf(query(str("Return only items of this kind: "+strings.Join(kinds, ", ")+". Default: all.")), allowed...),
	}, more)
}

// reportPath returns the path of a report.
func (b *backend) reportPath(
	name string, f fields, of reader, synopsis, description string,
) *framework.Path {
	read := func(ctx context.Context, st *state, req *request, d *input) (*response, error) {
		inLines, err := wantsLines(d)
		if err != nil {
			return nil, err
		}
		if err := b.Usage.Refresh(ctx); err != nil {
			return nil, err
		}
		if inLines {
			return reportLines(ctx, b.Report(st, req.MountPoint), d, of)
		}
		p, err := of(ctx, b.Report(st, req.MountPoint), d)
		if err != nil {
			return nil, err
		}
		return reportPage(p), nil
	}
	// The active node has counted the uses of the last minute.
	return path("report/"+name, "read", name+"-report", f,
		only(logical.ReadOperation, forward(b.answer(read, synopsis, orLines(ok(reportAnswer))))), synopsis, description)
}

func reportPage(p *report.Page) *response {
	items := make([]any, len(p.Items))
	for i, item := range p.Items {
		items[i] = itemMembers(item)
	}
	return members(reportAnswer, map[string]any{"items": items, "next": p.Next, "caveats": p.Caveats})
}

// itemMembers returns an item of a report as answers show the item.
func itemMembers(item *report.Item) map[string]any {
	row := values.Members(item)
	for name, value := range row {
		if values.IsEmpty(value) {
			delete(row, name)
		}
	}
	return row
}

// reportQuery returns the query of reportFields.
func reportQuery(d *input) (report.Query, error) {
	q := report.Query{After: d.Get("after").(string), Limit: report.MaxLimit}
	if kind, given := d.GetOk("kind"); given {
		if q.Kind = kind.(string); q.Kind == "" {
			return q, refusal.Field("kind", "is empty: leave the field out, or give a kind")
		}
	}
	if limit, given := d.GetOk("limit"); given {
		q.Limit = limit.(int)
	}
	return q, nil
}

func (b *backend) pathsReports() []*framework.Path {
	return []*framework.Path{
		b.reportPath("stale", reportFields(report.Kinds, fields{
			"unused_for": query(secs("Return what was not used for this long. Default: 45d.")),
		}), pathReportStale,
			"Report what nobody uses.",
			"Returns live tokens that were not used for unused_for, roles and connections that issued nothing, and static roles whose "+
				"token nobody read. Items are in the order of kind and name."),
		b.reportPath("broad", reportFields(report.BroadKinds, fields{
			"max_life": query(secs("Longest life of a token that is not long. Default: 30d.")),
			"checks": query(commas("Checks: " + strings.Join(report.Checks, ", ") + ". Default: " +
				strings.Join(report.DefaultChecks, ", ") + ".")),
		}), pathReportBroad,
			"Report what grants too much.",
			"Returns roles and live tokens with privileged or wildcard scopes, or a long life, and roles that bound their tokens to "+
				"nothing."),
		b.reportPath("right-size", reportFields(report.RightSizeKinds, fields{
			"role":        query(str("Return only this role. Default: all.")),
			"watched_for": query(secs("Leave out roles that the engine has watched for a shorter time. Default: 14d.")),
		}), pathReportRightSize,
			"Report what roles could do without.",
			"Returns, for each role whose tokens were used, the scopes, addresses, regions and lives that the uses needed, and the "+
				"command that narrows the role to them. The report knows only what was seen since watched_since."),
		b.reportPath("orphans", reportFields(report.OrphanKinds, nil), b.pathReportOrphans,
			"Report tokens whose entity, role, connection or static role is gone.",
			"Returns tokens that have neither expired nor been revoked, and static roles. One page asks Vault about at most 1,000 "+
				"entities."),
		path("report/summary", "read", "summary", fields{"format": formatField()},
			only(logical.ReadOperation,
				forward(b.answer(b.pathReportSummary, "Read the numbers of the mount.", orLines(ok(summaryAnswer))))),
			"Read the numbers of the mount.",
			"Counts the tokens of the inventory, their uses, and what needs attention. On a mount with many tokens, an answer may be up to "+
				"20 times as old as counting takes; as_of is the time of the count."),
		b.reportPath("unowned", reportFields(report.UnownedKinds, nil), pathReportUnowned,
			"Report what nobody answers for.",
			"Returns roles, connections and static roles without an owner, without review_by, and with an overdue review. attest confirms "+
				"that an entry is still needed."),
	}
}

func pathReportStale(_ context.Context, v *report.View, d *input) (*report.Page, error) {
	q, err := reportQuery(d)
	if err != nil {
		return nil, err
	}
	stale := &report.StaleQuery{Query: q, UnusedFor: report.DefaultUnusedFor}
	if _, is := d.GetOk("unused_for"); is {
		stale.UnusedFor = seconds(d, "unused_for")
	}
	return v.Stale(stale)
}

func pathReportUnowned(_ context.Context, v *report.View, d *input) (*report.Page, error) {
	q, err := reportQuery(d)
	if err != nil {
		return nil, err
	}
	return v.Unowned(&q)
}

func pathReportBroad(_ context.Context, v *report.View, d *input) (*report.Page, error) {
	q, err := reportQuery(d)
	if err != nil {
		return nil, err
	}
	broad := &report.BroadQuery{Query: q, MaxLife: report.DefaultMaxLife, Checks: report.DefaultChecks}
	if _, is := d.GetOk("max_life"); is {
		broad.MaxLife = seconds(d, "max_life")
	}
	if checks, is := d.GetOk("checks"); is {
		broad.Checks = checks.([]string)
	}
	return v.Broad(broad)
}

func pathReportRightSize(_ context.Context, v *report.View, d *input) (*report.Page, error) {
	q, err := reportQuery(d)
	if err != nil {
		return nil, err
	}
	size := &report.RightSizeQuery{Query: q, Role: d.Get("role").(string), WatchedFor: report.DefaultWatchedFor}
	if _, is := d.GetOk("watched_for"); is {
		size.WatchedFor = seconds(d, "watched_for")
	}
	return v.RightSize(size)
}

func (b *backend) pathReportOrphans(ctx context.Context, v *report.View, d *input) (*report.Page, error) {
	q, err := reportQuery(d)
	if err != nil {
		return nil, err
	}
	return v.Orphans(ctx, &q, b.World.Subjects.Disabled)
}

// summaryAnswer are the members of report.Summary.
var summaryAnswer = fields{
	"as_of":              must(date("Time of the count.")),
	"roles":              must(num("Number of roles.")),
	"connections":        must(num("Number of connections.")),
	"static_roles":       must(num("Number of static roles.")),
	"live_tokens":        must(num("Number of live grants in the inventory.")),
	"live_opaque":        must(num("Live grants of opaque tokens.")),
	"live_jwt":           must(num("Live grants of JWTs.")),
	"live_of_services":   must(num("Live tokens of services.")),
	"issued_last_day":    must(num("Grants of the inventory that were issued within 24 hours.")),
	"expire_next_day":    must(num("Live grants that expire within 24 hours.")),
	"used_last_day":      must(num("Live grants with a known use within 24 hours.")),
	"never_used":         must(num("Live native grants without a known use.")),
	"stale_tokens":       must(num("Live grants that report/stale lists by default.")),
	"uses":               must(num64("Known uses of the live grants.")),
	"refusals":           must(num64("Known refusals of the live grants.")),
	"revocation_queue":   must(num("Tokens of services that are to be revoked.")),
	"unreadable_entries": must(num("Stored entries that cannot be read; see broken.")),
	"unowned":            must(num("Roles, connections and static roles without an owner.")),
	"overdue_reviews":    must(num("Roles, connections and static roles whose review_by has passed.")),
	"privileged_roles":   must(num("Roles with scopes that match privileged_scopes.")),
	"top_roles":          must(slice("The ten roles with the most live grants: role, live_tokens.")),
}

func (b *backend) pathReportSummary(ctx context.Context, st *state, _ *request, d *input) (*response, error) {
	inLines, err := wantsLines(d)
	if err != nil {
		return nil, err
	}
	if err := b.Usage.Refresh(ctx); err != nil {
		return nil, err
	}
	resp := members(summaryAnswer, b.Summary(st))
	if inLines {
		var l lines
		if err := l.add(resp.Data); err != nil {
			return nil, err
		}
		return l.answer("")
	}
	return resp, nil
}

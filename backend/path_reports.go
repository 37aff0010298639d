package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/report"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/values"
)

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
			return reportLines(ctx, b.Report(st, req.MountPoint), given[report.Request](d), of)
		}
		p, err := of(given[report.Request](d), ctx, b.Report(st, req.MountPoint))
		if err != nil {
			return nil, err
		}
		return reportPage(p), nil
	}
	// The active node has counted the uses of the last minute.
	return path("report/"+name, "read", name+"-report", f,
		only(logical.ReadOperation, forward(b.answer(read, synopsis, orLines(ok(report.Answer))))), synopsis, description)
}

func reportPage(p *report.Page) *response {
	items := make([]any, len(p.Items))
	for i, item := range p.Items {
		items[i] = itemMembers(item)
	}
	return members(report.Answer, map[string]any{"items": items, "next": p.Next, "caveats": p.Caveats})
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

func (b *backend) pathsReports() []*framework.Path {
	return []*framework.Path{
		b.reportPath("stale", report.StaleFields, (*report.Request).Stale,
			"Report what nobody uses.",
			"Returns live tokens that were not used for unused_for, roles and connections that issued nothing, and static roles whose "+
				"token nobody read. Items are in the order of kind and name."),
		b.reportPath("broad", report.BroadFields, (*report.Request).Broad,
			"Report what grants too much.",
			"Returns roles and live tokens with privileged or wildcard scopes, or a long life, and roles that bound their tokens to "+
				"nothing."),
		b.reportPath("right-size", report.RightSizeFields, (*report.Request).RightSize,
			"Report what roles could do without.",
			"Returns, for each role whose tokens were used, the scopes, addresses, regions and lives that the uses needed, and the "+
				"command that narrows the role to them. The report knows only what was seen since watched_since."),
		b.reportPath("orphans", report.OrphanFields, (*report.Request).Orphans,
			"Report tokens whose entity, role, connection or static role is gone.",
			"Returns tokens that have neither expired nor been revoked, and static roles. One page asks Vault about at most 1,000 "+
				"entities."),
		path("report/summary", "read", "summary", report.SummaryFields,
			only(logical.ReadOperation,
				forward(b.answer(b.pathReportSummary, "Read the numbers of the mount.", orLines(ok(report.SummaryAnswer))))),
			"Read the numbers of the mount.",
			"Counts the tokens of the inventory, their uses, and what needs attention. On a mount with many tokens, an answer may be up to "+
				"20 times as old as counting takes; as_of is the time of the count."),
		b.reportPath("unowned", report.UnownedFields, (*report.Request).Unowned,
			"Report what nobody answers for.",
			"Returns roles, connections and static roles without an owner, without review_by, and with an overdue review. attest confirms "+
				"that an entry is still needed."),
	}
}

func (b *backend) pathReportSummary(ctx context.Context, st *state, _ *request, d *input) (*response, error) {
	inLines, err := wantsLines(d)
	if err != nil {
		return nil, err
	}
	if err := b.Usage.Refresh(ctx); err != nil {
		return nil, err
	}
	resp := members(report.SummaryAnswer, b.Summary(st))
	if inLines {
		var l lines
		if err := l.add(resp.Data); err != nil {
			return nil, err
		}
		return l.answer("")
	}
	return resp, nil
}

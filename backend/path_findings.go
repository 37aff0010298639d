package backend

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/mount"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

// findingAnswer are the members of a finding.
var findingAnswer = fields{
	"id":            must(str("ID of the finding: 24 hexadecimal digits.")),
	"rule":          must(str("Rule that fired, as in config/detection.")),
	"severity":      must(str("high, medium or low.")),
	"state":         must(str("open or acknowledged.")),
	"count":         must(num64("Number of events.")),
	"first_seen_at": must(str("Time of the first event.")),
	"last_seen_at":  must(str("Time of the last event.")),
	"token_id":      str("Public name of the token, or of its grant; absent if the finding concerns no known token."),
	"role":          str("Role of the token."),
	"entity_id":     str("Vault entity that requested the token."),
	"address":       str("Address of the client."),
	"summary":       must(str("What was seen, and what is allowed.")),
	"numbers":       must(object("What the rule measured, and the thresholds.")),
	"evidence":      must(slice("The uses or refusals that the rule compared: at, address (or a range), region, network.")),
	"commands":      must(strs("What to do, as commands to paste. The text behind # says when.")),
	"response": str("What the engine did with the grant: revoked, suspended, refused (a token of another service cannot be suspended), or " +
		"failed (the engine tries again). Absent if the rule only makes findings."),
	"note":            str("Note of the operator who acknowledged the finding."),
	"acknowledged_at": str("When the finding was acknowledged."),
	"acknowledged_by": str("Who acknowledged the finding: the display name of the Vault token."),
}

func (b *backend) pathsFindings() []*framework.Path {
	rules, states := make([]any, len(detect.Rules)), []any{detect.Open, detect.Acknowledged}
	for i, r := range detect.Rules {
		rules[i] = string(r.Rule)
	}
	listFields := pageFields("id")
	listFields["limit"].Description = fmt.Sprintf("Maximum number of entries to return, at most %d. Default: %[1]d. With "+
		"format=jsonl: %d.", mount.MaxPage, maxLines)
	listFields["format"] = formatField()
	listFields["rule"] = query(oneOf(str("List only findings of this rule."), rules...))
	listFields["role"] = query(str("List only findings about tokens of this role."))
	listFields["state"] = query(oneOf(str("List only findings in this state: open or acknowledged."), states...))
	listFields["since"] = query(date("List only findings with an event at this time or later: RFC 3339, or seconds since 1970."))
	listResponse := listAnswer("id")
	listResponse["key_info"] = object("Answer of findings/:id for each id.")
	return []*framework.Path{
		path("findings/"+framework.GenericNameRegex("id"), "", "finding", fields{
			"id":   must(str("ID of the finding: 24 hexadecimal digits.")),
			"note": str(fmt.Sprintf("Why the finding is as it should be, or what was done: at most %d bytes, without a token.", detect.MaxNote)),
		},
			operations{
				logical.ReadOperation: b.answer(b.pathFindingsRead, "Read a finding of misuse.", ok(findingAnswer)),
				logical.UpdateOperation: verb("acknowledge",
					b.change(b.pathFindingsUpdate, "Acknowledge a finding of misuse, with a note.")),
			},
			"Read or acknowledge a finding of misuse.",
			"A finding says which rule fired, with which numbers, on which evidence, and what to do. Later events of the "+
				"same kind count in the same finding. An acknowledged finding stays acknowledged when it recurs."),
		path("findings/?$", "", "findings", listFields,
			only(logical.ListOperation, b.answer(b.pathFindingsList, "List the findings of misuse.", orLines(ok(listResponse)))),
			"List the findings of misuse.",
			"Returns a page of findings, the newest first. For the next page, set after to the last id."),
	}
}

// verb sets the verb of the OpenAPI operation id of an operation.
func verb(verb string, operation *framework.PathOperation) *framework.PathOperation {
	operation.DisplayAttrs = &framework.DisplayAttributes{OperationVerb: verb}
	return operation
}

func (b *backend) pathFindingsRead(_ context.Context, _ *state, req *request, d *input) (*response, error) {
	f, known := b.Detect.Get(d.Get("id").(string))
	if !known {
		return nil, nil
	}
	return findingMembers(&f, req.MountPoint), nil
}

// findingMembers returns the answer that shows a finding.
func findingMembers(f *detect.Finding, mountPoint string) *response {
	numbers, evidence := make(map[string]any, len(f.Numbers)), make([]any, len(f.Evidence))
	for name, n := range f.Numbers {
		numbers[name] = n
	}
	for i := range f.Evidence {
		evidence[i] = f.Evidence[i].Members()
	}
	return members(findingAnswer, f, map[string]any{
		"count": int64(min(f.Count, 1<<62)), "numbers": numbers, "evidence": evidence, "commands": f.Advice(mountPoint),
	})
}

func (b *backend) pathFindingsUpdate(ctx context.Context, _ *state, req *request, d *input) (*response, error) {
	by := cmp.Or(req.DisplayName, req.EntityID)
	return nil, b.Detect.Acknowledge(ctx, req.Storage, d.Get("id").(string), d.Get("note").(string), by)
}

func (b *backend) pathFindingsList(_ context.Context, _ *state, req *request, d *input) (*response, error) {
	inLines, err := wantsLines(d)
	if err != nil {
		return nil, err
	}
	if inLines {
		return b.findingsLines(req, d)
	}
	after, limit, err := pageOf(d)
	if err != nil {
		return nil, err
	}
	if _, given := d.GetOk("limit"); !given {
		limit = mount.MaxPage
	}
	if limit > mount.MaxPage {
		return nil, refusal.Field("limit", "%d is too large, at most %d is allowed", limit, mount.MaxPage)
	}
	filter, err := findingsFilter(d)
	if err != nil {
		return nil, err
	}
	list, more, err := b.listFindings(filter, after, limit)
	if err != nil {
		return nil, err
	}
	keys, info := make([]string, len(list)), make(map[string]any, len(list))
	for i := range list {
		keys[i], info[list[i].ID] = list[i].ID, findingMembers(&list[i], req.MountPoint).Data
	}
	resp := logical.ListResponseWithInfo(keys, info)
	if more {
		resp.AddWarning(fmt.Sprintf("there are more findings: list again with after=%s", keys[len(keys)-1]))
	}
	return resp, nil
}

func (b *backend) listFindings(filter *detect.Filter, after string, limit int) (list []detect.Finding, more bool, _ error) {
	list, more, known := b.Detect.List(filter, after, limit)
	if !known {
		return nil, false, refusal.Field("after", "%q is not the id of a finding: list from the start", refusal.Clip(after))
	}
	return list, more, nil
}

// findingsLines answers with findings in JSON Lines.
func (b *backend) findingsLines(req *request, d *input) (*response, error) {
	limit, err := linesLimit(d)
	if err != nil {
		return nil, err
	}
	filter, err := findingsFilter(d)
	if err != nil {
		return nil, err
	}
	list, more, err := b.listFindings(filter, d.Get("after").(string), limit)
	if err != nil {
		return nil, err
	}
	var l lines
	next := ""
	for i := range list {
		if l.full() {
			more = true
			break
		}
		if err := l.add(findingMembers(&list[i], req.MountPoint).Data); err != nil {
			return nil, err
		}
		next = list[i].ID
	}
	if !more {
		next = ""
	}
	return l.answer(next)
}

func findingsFilter(d *input) (*detect.Filter, error) {
	f := &detect.Filter{Rule: detect.Rule(d.Get("rule").(string)), Role: d.Get("role").(string), State: d.Get("state").(string)}
	if f.Rule != "" && !f.Rule.Valid() {
		return nil, refusal.Field("rule", "%q is no rule of config/detection", refusal.Clip(string(f.Rule)))
	}
	if f.State != "" && f.State != detect.Open && f.State != detect.Acknowledged {
		return nil, refusal.Field("state", "%q is not one of: %s, %s", refusal.Clip(f.State), detect.Open, detect.Acknowledged)
	}
	if since, given := d.GetOk("since"); given {
		f.Since = since.(time.Time)
	}
	return f, nil
}

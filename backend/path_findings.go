package backend

import (
	"cmp"
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
)

func (b *backend) pathsFindings() []*framework.Path {
	return []*framework.Path{
		path("findings/"+framework.GenericNameRegex("id"), "", "finding", detect.FindingFields,
			operations{
				logical.ReadOperation: b.answer(b.pathFindingsRead, "Read a finding of misuse.", ok(detect.FindingAnswer)),
				logical.UpdateOperation: verb("acknowledge",
					b.change(b.pathFindingsUpdate, "Acknowledge a finding of misuse, with a note.")),
			},
			"Read or acknowledge a finding of misuse.",
			"A finding says which rule fired, with which numbers, on which evidence, and what to do. Later events of the "+
				"same kind count in the same finding. An acknowledged finding stays acknowledged when it recurs."),
		path("findings/?$", "", "findings", detect.QueryFields,
			only(logical.ListOperation, b.answer(b.pathFindingsList, "List the findings of misuse.", orLines(ok(detect.ListAnswer)))),
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
	return members(detect.FindingAnswer, f, f.Members(mountPoint))
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
		return b.findingsLines(req, given[detect.Query](d))
	}
	findings, more, err := b.Detect.Page(given[detect.Query](d))
	if err != nil {
		return nil, err
	}
	keys, info := make([]string, len(findings)), make(map[string]any, len(findings))
	for i := range findings {
		keys[i], info[findings[i].ID] = findings[i].ID, findingMembers(&findings[i], req.MountPoint).Data
	}
	return listed("findings", keys, info, more), nil
}

// findingsLines answers with findings in JSON Lines.
func (b *backend) findingsLines(req *request, q *detect.Query) (*response, error) {
	list, more, err := b.Detect.Lines(q)
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

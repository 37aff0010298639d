package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/insight"
)

func (b *backend) pathsUsage() []*framework.Path {
	return []*framework.Path{path("usage", "report", "usage", insight.ReportFields,
		only(logical.UpdateOperation,
			forward(b.answer(b.pathUsageUpdate, "Report uses and refusals of tokens.", ok(insight.OutcomeAnswer)))),
		"Report how tokens were used, for verifiers that do not ask introspect for each use.",
		"A verifier reports in batches what it has seen of each token since the last batch. A batch counts once: the verifier "+
			"repeats a batch with the same sequence until the engine answers, and only then sends the next batch. \"tokens\" and "+
			"\"lookup\" show the counts.")}
}

func (b *backend) pathUsageUpdate(_ context.Context, _ *state, _ *request, d *input) (*response, error) {
	tokens, _ := d.Get("tokens").([]any)
	unknown, _ := d.Get("unknown").([]any)
	report, err := insight.ParseReport(d.Get("reporter").(string), d.Get("sequence").(int64), tokens, unknown)
	if err != nil {
		return nil, err
	}
	done, err := b.Usage.Count(report)
	if err != nil {
		return nil, err
	}
	b.NoteReport(report, done)
	return members(insight.OutcomeAnswer, done), nil
}

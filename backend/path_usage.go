package backend

import (
	"context"
	"fmt"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/insight"
)

// usageAnswer are the members of the answer of usage: insight.Outcome.
var usageAnswer = fields{
	"accepted": must(num("Number of counted rows.")),
	"ignored":  must(num("Number of rows about tokens that the engine does not know. These rows are not counted.")),
	"duplicate": must(flag("Whether the reporter has sent this sequence or a higher one before. The batch is then not " +
		"counted.")),
	"reporters": must(num("Number of reporters that reported within five minutes, this one included.")),
}

func (b *backend) pathsUsage() []*framework.Path {
	return []*framework.Path{path("usage", "report", "usage", fields{
		"reporter": must(str("Name of the reporting process: letters, digits, . : - and _, at most 64. Each process, and each start " +
			"of a process, has a name of its own.")),
		"sequence": must(num64("Number of the batch, from 1, higher with each batch of the reporter. A retry has the number of the " +
			"batch.")),
		"tokens": slice("One row for each token: token_id, uses, last_used_at, last_ip, last_region, last_network, refusals (a " +
			fmt.Sprintf("number for each reason), scopes (that uses needed). At most %d rows. Default: none.", insight.MaxRows)),
		"unknown": slice(fmt.Sprintf("One row for each address that unknown tokens came from: ip, refusals. At most %d rows. "+
			"Default: none.", insight.MaxRows)),
	},
		only(logical.UpdateOperation, forward(b.answer(b.pathUsageUpdate, "Report uses and refusals of tokens.", ok(usageAnswer)))),
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
	return members(usageAnswer, done), nil
}

// isLookUp reports whether an introspection is no use of a token: a verifier that reads the feed asks what a token is, and
// reports the uses itself.
func isLookUp(d *input) bool {
	raw := d.Raw // without the conversions of the framework: every introspection asks
	if _, given := raw["min_cursor"]; !given {
		return false
	}
	for _, field := range []string{"client_ip", "region", "host", "audience", "required_scopes"} {
		if _, given := raw[field]; given {
			return false
		}
	}
	return true
}

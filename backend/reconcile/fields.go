package reconcile

import "github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/schema"

// Answer are the members of Result.
var Answer = schema.Fields{
	"state": schema.Str("never (not since this node became active), running, done or failed. A running comparison goes on " +
		"after the answer.").Must(),
	"started_at": schema.Str("Time when the last comparison began; empty if never.").Must(),
	"compared_at": schema.Str("Time when the comparison began whose numbers the answer has; empty if none succeeded.").
		Must(),
	"next_at":      schema.Str("Time of the next comparison by itself; empty without reconcile_period.").Must(),
	"listed":       schema.Num("Tokens at the service, as far as the credential can see.").Must(),
	"unknown_here": schema.Num("Tokens with a name of this connection that the engine does not know.").Must(),
	"gone_there":   schema.Num("Live tokens of the engine that do not exist at the service.").Must(),
	"foreign":      schema.Num("Tokens with a life of more than 24 hours that were made without the engine.").Must(),
	"unconfirmed": schema.Num("Live tokens of the engine that were not listed, and that may be too young to be listed, or " +
		"for which a search failed.").Must(),
	"kept":     schema.Num("Items in report/orphans, at most 1,000 of a connection.").Must(),
	"complete": schema.Flag("Whether both looks listed all tokens of the service. A listing that is cut short does not count a token as gone_there.").Must(),
	"error":    schema.Str("Error of the last comparison; empty if none.").Must(),
}

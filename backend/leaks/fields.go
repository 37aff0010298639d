package leaks

import (
	"fmt"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/schema"
)

// Fields are the fields of a request that reports leaked tokens.
var Fields = schema.Fields{
	"tokens": schema.Slice(fmt.Sprintf("Tokens that were found, at most %d: an array of tokens, or of objects with token, and if "+
		"known type, url and source, as GitHub's secret scanning sends them.", MaxReports)).Secret().Must(),
}

// Answer are the members of the answer to a report.
var Answer = schema.Fields{
	"results": schema.Slice("Feedback on each token, in the order of the request: token_hash (SHA-256 in hexadecimal), " +
		"token_type, and label: true_positive if the mount made the token, false_positive if not.").Must(),
}

package insight

import (
	"fmt"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/schema"
)

// ReportFields are the fields of a report, see ParseReport.
var ReportFields = schema.Fields{
	"reporter": schema.Str("Name of the reporting process: letters, digits, . : - and _, at most 64. Each process, and " +
		"each start of a process, has a name of its own.").Must(),
	"sequence": schema.Num64("Number of the batch, from 1, higher with each batch of the reporter. A retry has the " +
		"number of the batch.").Must(),
	"tokens": schema.Slice("One row for each token: token_id, uses, last_used_at, last_ip, last_region, last_network, " +
		fmt.Sprintf("refusals (a number for each reason), scopes (that uses needed). At most %d rows. Default: none.", MaxRows)),
	"unknown": schema.Slice(fmt.Sprintf("One row for each address that unknown tokens came from: ip, refusals. At most %d "+
		"rows. Default: none.", MaxRows)),
}

// OutcomeAnswer are the members of Outcome.
var OutcomeAnswer = schema.Fields{
	"accepted": schema.Num("Number of counted rows.").Must(),
	"ignored":  schema.Num("Number of rows about tokens that the engine does not know. These rows are not counted.").Must(),
	"duplicate": schema.Flag("Whether the reporter has sent this sequence or a higher one before. The batch is then not " +
		"counted.").Must(),
	"reporters": schema.Num("Number of reporters that reported within five minutes, this one included.").Must(),
}

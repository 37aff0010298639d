package mount

import (
	"fmt"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/schema"
)

// TokenFields are the fields of TargetRequest that name a token.
var TokenFields = schema.Fields{
	"token": schema.Str("Token. A request has either token or token_id.").Secret(),
	"token_id": schema.Str("Public name of the token: 24 hexadecimal digits. For a refreshed or exchanged token: the " +
		"digits of the grant, a dot and 24 more digits."),
}

// RevokeFields are the fields of TargetRequest.
var RevokeFields = schema.Joined(TokenFields, schema.Fields{
	"subject": schema.Str("ID of a Vault entity, whose tokens are all revoked. A request has one of token, token_id and " +
		"subject."),
})

// RevokeAnswer are the members of the answer to the revocation of an entity's tokens.
var RevokeAnswer = schema.Fields{
	"revoked": schema.Num("Number of revoked grants, tokens of services and static tokens; only with subject."),
}

// SuspendFields are the fields of TargetRequest, and the note.
var SuspendFields = schema.Joined(TokenFields, schema.Fields{
	"subject": schema.Str("ID of a Vault entity, in place of a token: all tokens of the entity are meant, also tokens " +
		"that are issued later."),
	"note": schema.Str("Why, in at most 256 bytes: detail of lookup and tokens shows the note. No token may be in it. " +
		"Default: none."),
})

// SuspendedFields are the fields of a page of suspensions.
var SuspendedFields = schema.BoundedPage("key", MaxPage)

// SuspendedAnswer are the members of Suspended.
var SuspendedAnswer = schema.Fields{
	"kind":         schema.Str("token or entity.").Must(),
	"suspended_at": schema.Str("Time of the last suspend.").Must(),
	"note":         schema.Str("Note of the last suspend."),
	"role":         schema.Str("Role of the token, if the inventory has the token."),
	"entity_id":    schema.Str("Vault entity of the token, or the suspended entity."),
	"display_name": schema.Str("Display name of the Vault token that requested the token."),
}

// SuspendedListAnswer are the members of a page of suspensions.
var SuspendedListAnswer = schema.Joined(schema.List("key"), schema.Fields{
	"key_info": schema.Object("For each key: kind (token or entity), suspended_at, note, role, entity_id, display_name."),
})

// RecordAnswer are the members of Record.
var RecordAnswer = schema.Fields{
	"token_id": schema.Str("Public name of the token.").Must(),
	"state": schema.Str("State of the token: active, expired, revoked, role_deleted, suspended, subject_disabled; unknown " +
		"if storage cannot be read; in lookup also malformed, wrong_environment.").Must(),
	"detail":       schema.Str("The state in a sentence; absent if the token is active."),
	"role":         schema.Str("Role that the token was issued from.").Must(),
	"role_version": schema.Num("Version of the role at the issue.").Must(),
	"scopes":       schema.Strs("Granted scopes.").Must(),
	"entity_id":    schema.Str("Vault entity that requested the token; empty if none.").Must(),
	"display_name": schema.Str("Display name of the Vault token that requested the token.").Must(),
	"issued_at":    schema.Date("Time of issue.").Must(),
	"expires_at":   schema.Date("Expiry of the token, renewals included.").Must(),
	"usage": schema.Object("Uses of the token and its grant: uses; if used: first_used_at, last_used_at, last_ip, " +
		"last_region, last_network, scopes (that uses needed), more_scopes (whether uses needed more); if refused: " +
		"refusals, a number for each reason. Unknown values are absent.").Must(),
}

// LookupAnswer are the members of Record for a token that the request has shown.
var LookupAnswer = schema.Joined(RecordAnswer, schema.Fields{
	"token_bound_cidrs": schema.Strs("Addresses that the token may be used from; only with token, absent if any. Empty: " +
		"the token is good nowhere."),
	"bound_regions": schema.Strs("Countries that the token may be used from (ISO 3166-1 alpha-2); only with token, " +
		"absent if any."),
	"bound_hosts": schema.Strs("API hosts that the token is for; only with token, absent if any."),
})

// ListFields are the fields of ListRequest.
var ListFields = schema.Joined(schema.BoundedPage("token_id", MaxPage), schema.Fields{
	"role": schema.Str("List only tokens of this role.").Query(),
	"unused_for": schema.Secs("List only tokens that were not used for this long; of tokens never used, those issued this " +
		"long ago.").Query(),
	"used_since": schema.Date("List only tokens that were used at this time or later: RFC 3339, or seconds since 1970.").Query(),
})

// ListAnswer are the members of a page of the inventory.
var ListAnswer = schema.Joined(schema.List("token_id"), schema.Fields{
	"key_info": schema.Object("Answer of tokens/:token_id for each token_id. Instead of usage, a row has uses, refused (the " +
		"number of refused uses), last_used_at and last_ip."),
})

// FeedFields are the fields of FeedRequest.
var FeedFields = schema.Fields{
	"epoch": schema.Str("Epoch of the last answer. Default: none; the answer then has only the end of the feed.").
		Query(),
	"cursor": schema.Num64("Cursor of the last answer. Default: 0.").Query(),
	"limit":  schema.Num(fmt.Sprintf("Maximum number of events to return, at most %d. Default: %[1]d.", maxFeedPage)).Query(),
}

// FeedAnswer are the members of the answer of ReadFeed.
var FeedAnswer = schema.Fields{
	"epoch":  schema.Str("Epoch of the feed. A restart or a failover begins a new epoch.").Must(),
	"cursor": schema.Num64("Position after the returned events, for the next request.").Must(),
	"events": schema.Slice("Events in order, each with type (grant, role, key or subject) and id (of the grant, the key or " +
		"the Vault entity; the name of the role). The event of a grant has until: when the tokens of the grant would have " +
		"expired.").Must(),
	"more": schema.Flag("Whether there are more events.").Must(),
	"resync": schema.Flag("Whether events may be missing, since the feed does not know the epoch or the cursor of the " +
		"request. Every kept answer may then be wrong.").Must(),
}

package static

import (
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/review"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/schema"
)

// Fields are the fields of Change.
var Fields = schema.Joined(review.Fields, schema.Fields{
	"name": schema.Str("Name of the static role.").Must(),
	"role": schema.Str("Role of the token: a role of opaque tokens without refresh and proof, or a role with a connection. " +
		"The role of a static role cannot be changed.").Titled("Role"),
	"rotation_period": schema.Secs("Time between two rotations, at least 5s. Either rotation_period or rotation_schedule " +
		"is required.").Titled("Rotation period"),
	"rotation_schedule": schema.Str("Times of the rotations in cron syntax, in UTC: \"0 3 * * SAT\" is Saturdays at three.").
		Titled("Rotation schedule"),
	"rotation_window": schema.Secs("How long after a time of rotation_schedule a rotation may still begin, at least 1h. " +
		"Default: no limit.").Titled("Rotation window"),
	"overlap": schema.Secs("How long the previous token still works after a rotation. Default: 0.").Titled("Overlap"),
	"entity_id": schema.Str("Vault entity of the token. After the entity is disabled or deleted, the engine revokes the " +
		"token without replacement. Default: none.").Titled("Entity ID"),
	"description": schema.Str("Purpose of the static role.").Titled("Description"),
})

// rotationFields are the members of Status about the rotation.
var rotationFields = schema.Fields{
	"last_vault_rotation":       schema.Date("Time of the last rotation.").Must(),
	"next_vault_rotation":       schema.Date("Time of the next rotation.").Must(),
	"previous_token_expires_at": schema.Date("Expiry of the previous token; absent if no previous token works."),
	"rotation_period":           schema.Num("Seconds between two rotations; 0 with rotation_schedule.").Must(),
	"rotation_schedule":         schema.Str("Times of the rotations in cron syntax; empty with rotation_period.").Must(),
	"rotation_window": schema.Num("How long after a scheduled time a rotation may still begin, in seconds; 0: no " +
		"limit.").Must(),
}

// Answer are the members of Status without the token.
var Answer = schema.Joined(rotationFields, schema.Fields{
	"role":        schema.Str("Role of the token.").Must(),
	"overlap":     schema.Num("How long the previous token works after a rotation, in seconds.").Must(),
	"entity_id":   schema.Str("Vault entity of the token; empty if none.").Must(),
	"description": schema.Str("Purpose of the static role.").Must(),
	"owner":       schema.Str("Team or person that answers for the static role; empty if none.").Must(),
	"review_by":   schema.Str("Last day for the next review; empty if none.").Must(),
	"attested":    review.Attested,
	"token_id":    schema.Str("Public name of the token.").Must(),
	"last_error":  schema.Str("Error of the last rotation; absent if the rotation succeeded."),
})

// TokenAnswer are the members of Status with the token.
var TokenAnswer = schema.Joined(rotationFields, schema.Fields{
	"token":    schema.Str("Token of the static role.").Must(),
	"token_id": schema.Str("Public name of the token, safe to log.").Must(),
	"ttl":      schema.Num("Seconds until the token is rotated or expires.").Must(),
	"name":     schema.Str("Name of the token at the upstream service."),
	"upstream": schema.Object("Further members of the service's answer."),
})

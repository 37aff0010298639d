// Package upstream keeps the connections to other people's services and the tokens that the engine has minted there: it
// mints, shares, renews and revokes the tokens, and rotates the credentials that the tokens are minted with.
//
// A token has states, and moves through them in one direction only:
//
//	Creating -> Live -> Ending -> forgotten
//
// Each step is in storage before the service is asked for anything that depends on it. Whatever is cut short, by an
// error, a crash or a failover, the queue completes: it searches for a token that is Creating by its name, and revokes
// one that is Ending until the service has confirmed that. A change of one token is made under a lock of that
// token, and is based on what storage holds.
//
// What storage holds:
//
//	provider/<name>            a provider of an operator's own
//	connection/<name>          a service and the credential for it
//	upstream/<token id>        a token
//	hold/<token id>/<hold id>  that one of several leases holds a shared token, and until when
package upstream

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// State is what has become of a token.
type State string

// The states of a token at a service, in their order.
const (
	Creating State = "creating" // the token may exist, under its name: stored before the service is asked for it
	Live     State = "live"     // the token exists, and something holds it
	Ending   State = "ending"   // nothing holds the token any more, and the service is to revoke it
)

// Token is a token at a service: all that is needed to revoke it.
type Token struct {
	ID           token.ID          `json:"id"`
	State        State             `json:"state"`
	Connection   string            `json:"connection"`
	ConnectionID string            `json:"connection_id"` // differs when a connection is deleted and created again
	URL          string            `json:"url"`           // of the connection when the token was minted
	Role         string            `json:"role,omitzero"`
	RoleID       token.RoleID      `json:"role_id,omitzero"`
	Subject      string            `json:"subject,omitzero"`      // Vault entity that asked for it; "": none
	Name         string            `json:"name"`                  // at the service
	UpstreamID   string            `json:"upstream_id,omitzero"`  // "" while the token is Creating
	Params       map[string]any    `json:"params,omitzero"`       // as they were asked for
	Record       map[string]string `json:"record,omitzero"`       // what the provider remembers
	Text         string            `json:"text,omitzero"`         // the token; "" where nothing needs it
	Hash         string            `json:"hash,omitzero"`         // HashOf the token
	StaticRole   string            `json:"static_role,omitzero"`  // that holds the token; "": a lease, or nothing
	Leaseless    bool              `json:"leaseless,omitzero"`    // no lease revokes the token: it ends at EndsAt
	Shared       bool              `json:"shared,omitzero"`       // several leases may hold the token: see holds
	Data         map[string]any    `json:"data,omitzero"`         // of a shared token: what the next requester is told
	CreatedAt    time.Time         `json:"created_at"`            // when it was asked for
	LiveSince    time.Time         `json:"live_since,omitzero"`   // when it became Live
	TokenEnd     time.Time         `json:"token_end,omitzero"`    // as the service says; zero: the service knows none
	EndsAt       time.Time         `json:"ends_at"`               // of its lease, or its own
	EndingSince  time.Time         `json:"ending_since,omitzero"` // when it became Ending
}

// ErrRevoked is returned for a token that is revoked, or about to be.
var ErrRevoked = errors.New("the token is revoked")

// since is when a token that waits in the queue began to wait.
func (t *Token) since() time.Time {
	if t.State == Ending {
		return t.EndingSince
	}
	return t.CreatedAt
}

// capped is an end, or the token's own end at the service where that comes first.
func (t *Token) capped(end time.Time) time.Time {
	if !t.TokenEnd.IsZero() && t.TokenEnd.Before(end) {
		return t.TokenEnd
	}
	return end
}

// expires is when the token ends at the service without a revocation, as far as is known.
func (t *Token) expires() time.Time {
	if t.TokenEnd.IsZero() {
		return t.EndsAt
	}
	return t.TokenEnd
}

// atService is the token as the connector needs it.
func (t *Token) atService() *connector.Token {
	return &connector.Token{Name: t.Name, ID: t.UpstreamID, Text: t.Text, Params: t.Params, Record: t.Record}
}

// shareKey returns the same text for tokens that can be issued in place of each other. Tokens of two connections never
// can, even if the connections had the same name one after the other.
func shareKey(role token.RoleID, connectionID string, params map[string]any) string {
	text, _ := json.Marshal(params) // params come from JSON
	return role.String() + connectionID + string(text)
}

// HashOf returns what a token can be recognised by, and not be used: tokens are random enough for SHA-256.
func HashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

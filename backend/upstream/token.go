// Package upstream keeps the connections to other people's services and the tokens that the engine has minted there: it
// mints, shares, renews and revokes the tokens, and rotates the credentials that the tokens are minted with.
//
// A token has states, and moves through them in one direction only:
//
//	Creating -> Live -> Ending -> forgotten
//	Creating -> Lost -> forgotten
//
// Each state is stored before the service is called. The queue completes what an error, a crash or a failover
// interrupted: it searches for a Lost token by the token's name, and retries the revocation of an Ending token until
// the service confirms the revocation. A token is changed under its lock, and the change is based on the stored token.
//
// What storage holds:
//
//	provider/<name>            a provider of an operator's own
//	connection/<name>          a service and the credential for it
//	upstream/<token id>        a token
//	hold/<token id>/<hold id>  the claim of one lease on a shared token
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

// State is the state of a token.
type State string

// The states of a token at a service, in their order.
const (
	Creating State = "creating" // the service may have created the token; stored before the create call
	Lost     State = "lost"     // the creation was interrupted, and the queue searches for the token; stored before the search
	Live     State = "live"     // the token exists, and a lease or a static role holds the token
	Ending   State = "ending"   // the service must revoke the token
)

// Token is a token at a service, with all data needed to revoke the token.
type Token struct {
	ID           token.ID          `json:"id"`
	State        State             `json:"state"`
	Connection   string            `json:"connection"`
	ConnectionID string            `json:"connection_id"` // differs when a connection is deleted and created again
	URL          string            `json:"url"`           // of the connection when the token was minted
	Role         string            `json:"role,omitzero"`
	RoleID       token.RoleID      `json:"role_id,omitzero"`
	Subject      string            `json:"subject,omitzero"`      // Vault entity that requested the token; empty if none
	Name         string            `json:"name"`                  // at the service
	UpstreamID   string            `json:"upstream_id,omitzero"`  // ID at the service; empty while Creating
	Params       map[string]any    `json:"params,omitzero"`       // requested params
	Record       map[string]string `json:"record,omitzero"`       // values that the provider needs again to revoke
	Text         string            `json:"text,omitzero"`         // the secret; empty unless revoking or sharing needs it
	Hash         string            `json:"hash,omitzero"`         // HashOf the text
	StaticRole   string            `json:"static_role,omitzero"`  // static role that holds the token; empty if none
	Leaseless    bool              `json:"leaseless,omitzero"`    // no lease: the queue revokes the token at EndsAt
	Shared       bool              `json:"shared,omitzero"`       // several leases may hold the token: see holds
	Data         map[string]any    `json:"data,omitzero"`         // response data of a shared token, for its next requester
	CreatedAt    time.Time         `json:"created_at"`            // before the create call
	LiveSince    time.Time         `json:"live_since,omitzero"`   // when the token became Live
	TokenEnd     time.Time         `json:"token_end,omitzero"`    // expiry at the service; zero if the service has none
	EndsAt       time.Time         `json:"ends_at"`               // end of the lease, or of a token without a lease
	EndingSince  time.Time         `json:"ending_since,omitzero"` // when the token became Ending
}

// ErrRevoked is returned for a token that is revoked or about to be revoked.
var ErrRevoked = errors.New("the token is revoked")

// since returns when a token in the queue began to wait.
func (t *Token) since() time.Time {
	if t.State == Ending {
		return t.EndingSince
	}
	return t.CreatedAt
}

// capped returns end, or the token's expiry at the service if the expiry is earlier.
func (t *Token) capped(end time.Time) time.Time {
	if !t.TokenEnd.IsZero() && t.TokenEnd.Before(end) {
		return t.TokenEnd
	}
	return end
}

// expires returns when the token expires at the service without a revocation. EndsAt is the best guess if the service
// reports no expiry.
func (t *Token) expires() time.Time {
	if t.TokenEnd.IsZero() {
		return t.EndsAt
	}
	return t.TokenEnd
}

// atService returns the token in the form that the connector needs.
func (t *Token) atService() *connector.Token {
	return &connector.Token{Name: t.Name, ID: t.UpstreamID, Text: t.Text, Params: t.Params, Record: t.Record}
}

// shareKey returns the same text for tokens that can replace each other. Tokens of two connections cannot, even if the
// connections have had the same name.
func shareKey(role token.RoleID, connectionID string, params map[string]any) string {
	text, _ := json.Marshal(params) // params come from JSON
	return role.String() + connectionID + string(text)
}

// HashOf returns the SHA-256 of a token's text. The hash identifies the token but cannot be used as one: the text is too
// random to guess.
func HashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

package mount

import (
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// Target is what a request looks up, suspends, resumes or revokes: the grant of a token, by the text of the token or by the
// ID of the grant, or a Vault entity with all its grants. Exactly one field is set.
type Target struct {
	Text    string
	Grant   token.ID
	Subject string
}

// TargetRequest names a Target. A nil field is not in the request.
type TargetRequest struct {
	Token   *string `json:"token"`
	TokenID *string `json:"token_id"`
	Subject *string `json:"subject"`
}

// Target returns what the request names: a token or a Vault entity.
func (q *TargetRequest) Target() (Target, error) {
	if q.Subject == nil {
		return q.TokenTarget("give exactly one of token, token_id and subject")
	}
	if q.Token != nil || q.TokenID != nil {
		return Target{}, refusal.New("give exactly one of token, token_id and subject")
	}
	return Target{Subject: *q.Subject}, native.CheckSubject(*q.Subject)
}

// TokenTarget returns the token that the request names. otherwise is the refusal of a request that does not name exactly one.
func (q *TargetRequest) TokenTarget(otherwise string) (Target, error) {
	if (q.Token == nil) == (q.TokenID == nil) {
		return Target{}, refusal.New("%s", otherwise)
	}
	if q.Token != nil {
		return Target{Text: *q.Token}, native.CheckText(*q.Token)
	}
	_, grant, err := token.ParseName(*q.TokenID)
	if err != nil {
		return Target{}, refusal.Field("token_id", "%s", err) // without the value, which may be a token by mistake
	}
	return Target{Grant: grant}, nil
}

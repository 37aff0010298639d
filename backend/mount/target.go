package mount

import (
	"context"
	"errors"

	"github.com/hashicorp/vault/sdk/logical"

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

// found is the token that a text is.
type found struct {
	service token.ID      // ID of a token of a service; zero: the token is native
	claims  *token.Claims // of a native token
}

// find returns the token that a text is. If the text is no native token of this mount, find looks for the token of a service
// that another process may have issued. An error that foreign reports says that the text is neither.
func (st *State) find(ctx context.Context, s logical.Storage, text string) (found, error) {
	if t, known := st.Upstreams.Known(text); known {
		return found{service: t.ID}, nil
	}
	claims, err := st.Open(ctx, s, text)
	if !foreign(err) {
		return found{claims: claims}, err
	}
	t, isUpstream, unread := st.Upstreams.Discover(ctx, text)
	switch {
	case unread != nil:
		return found{}, unread
	case isUpstream:
		return found{service: t.ID}, nil
	}
	return found{}, err
}

// foreign reports whether an error says that a text is no native token of this mount.
func foreign(err error) bool {
	return errors.Is(err, token.ErrMalformed) || errors.Is(err, token.ErrUnknownKey) || errors.Is(err, token.ErrForged)
}

// keyGone reports whether an error says that the key of a native token is gone: the token is dead, but other tokens of its
// grant may be alive.
func keyGone(err error) bool {
	return errors.Is(err, token.ErrExpiredKey) || errors.Is(err, token.ErrDestroyedKey)
}

// notFound refuses a text for which find returned a foreign error. did is what was to be done, elsewhere what to do with a
// token of another mount.
func notFound(err error, did, elsewhere string) error {
	if errors.Is(err, token.ErrMalformed) {
		return refusal.Field("token", "is no token: the checksum is wrong, so the token may be mistyped or cut short. Nothing was %s",
			did)
	}
	return refusal.Field("token", "was not made by this mount: %s. Nothing was %s", elsewhere, did)
}

package verifytest

import (
	"testing"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/feed"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// ID returns the token_id of an issued token.
func (i *Issuer) ID(text string) string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.issued[text].claims.Name()
}

// Revoke revokes a token. Verifiers learn of it by the feed.
func (i *Issuer) Revoke(text string) { i.revoke(text, true) }

// RevokeQuietly revokes a token without an event in the feed, as a node that was replaced does.
func (i *Issuer) RevokeQuietly(text string) { i.revoke(text, false) }

func (i *Issuer) revoke(text string, tell bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	c := i.issued[text].claims
	i.revoked[c.Grant] = true
	if tell {
		i.feed.Add(feed.Event{Kind: feed.Grant, ID: c.Grant.String(), Until: c.ExpiresAt})
	}
}

// Suspend suspends a token. Verifiers learn of it by the feed.
func (i *Issuer) Suspend(text string) { i.suspend(text, true) }

// Resume undoes Suspend. Verifiers learn of it by the feed.
func (i *Issuer) Resume(text string) { i.suspend(text, false) }

func (i *Issuer) suspend(text string, to bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	c := i.issued[text].claims
	i.suspended[c.Grant.String()] = to
	i.feed.Add(feed.Event{Kind: feed.Grant, ID: c.Grant.String(), Until: c.ExpiresAt})
}

// SuspendSubject suspends all tokens of a Vault entity. Verifiers learn of it by the feed.
func (i *Issuer) SuspendSubject(subject string) { i.suspendSubject(subject, true) }

// ResumeSubject undoes SuspendSubject. Verifiers learn of it by the feed.
func (i *Issuer) ResumeSubject(subject string) { i.suspendSubject(subject, false) }

func (i *Issuer) suspendSubject(subject string, to bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.suspended[subject] = to
	i.feed.Add(feed.Event{Kind: feed.Subject, ID: subject})
}

// NarrowRole takes scopes from all tokens of a role, as an operator does who tightens the role.
func (i *Issuer) NarrowRole(role string, keep ...string) {
	i.changeRole(role, func(one *issued) {
		p := *one.permissions
		p.Scopes = p.Scopes.Intersect(keep)
		one.permissions = &p
	})
}

// BindRole binds all tokens of a role to addresses.
func (i *Issuer) BindRole(role string, addresses access.Addresses) {
	i.changeRole(role, func(one *issued) {
		p := *one.permissions
		p.Addresses = append(append([]access.Addresses{}, p.Addresses...), addresses)
		one.permissions = &p
	})
}

// DeleteRole deletes a role, which ends its tokens.
func (i *Issuer) DeleteRole(role string) {
	i.changeRole(role, func(one *issued) { one.roleGone = true })
}

func (i *Issuer) changeRole(role string, change func(*issued)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, one := range i.issued {
		if one.role == role {
			change(one)
		}
	}
	i.feed.Add(feed.Event{Kind: feed.Role, ID: role})
}

// DisableSubject disables a Vault entity. The feed does not tell.
func (i *Issuer) DisableSubject(subject string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, one := range i.issued {
		one.disabled = one.disabled || one.claims.Subject == subject
	}
}

// RotateKey signs later JWTs with a new key of an algorithm: ES256, EdDSA or RS256.
func (i *Issuer) RotateKey(t testing.TB, algorithm string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.signing = newSigningRing(t, i.now(), algorithm, i.signing.Keys)
}

// DestroyKey destroys the key that signs JWTs. RotateKey makes another.
func (i *Issuer) DestroyKey() {
	i.mu.Lock()
	defer i.mu.Unlock()
	keys := append(token.Keys{}, i.signing.Keys...)
	current := keys.Current()
	current.Destroyed, current.Secret = true, nil
	i.signing = token.NewSigningRing(keys)
	i.feed.Add(feed.Event{Kind: feed.Key, ID: current.Name})
}

// SetIssuer changes the "iss" of later JWTs and of the metadata, as a change of config does. An empty url takes the issuer
// away, and later JWTs have none. The feed does not tell.
func (i *Issuer) SetIssuer(url string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.issuer = url
}

// Restart begins a new epoch of the feed, as a restart or failover of Vault does.
func (i *Issuer) Restart() { i.feed.Restart() }

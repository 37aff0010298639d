package backend

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

func (e *engine) exp(c *creds) time.Time {
	e.t.Helper()
	return time.Unix(e.write("introspect", data{"token": c.token})["exp"].(int64), 0)
}

// vaultRenews renews and computes the new end of the lease as Vault does from the answer.
func (e *engine) vaultRenews(c *creds, increment time.Duration) time.Time {
	e.t.Helper()
	resp, err := e.renew(c, increment)
	if err != nil || resp.IsError() {
		e.t.Fatal(resp, err)
	}
	ttl, _, err := framework.CalculateTTL(e.system, increment, resp.Secret.TTL, 0, resp.Secret.MaxTTL, 0, c.secret.IssueTime)
	if err != nil {
		e.t.Fatal(err)
	}
	c.secret = resp.Secret // Vault stores the secret of the answer
	return time.Now().Add(ttl)
}

// The token ends when its lease does, after each renewal, and never later than max_ttl after its issue.
func TestRenewToTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("roles/reader", data{"scopes": "a", "ttl": "1h", "max_ttl": "150m"})
		c := e.creds("reader", nil)
		start := time.Now()
		for _, step := range []struct {
			increment, end time.Duration // from the issue
		}{
			{0, 90 * time.Minute},
			{2 * time.Hour, 150 * time.Minute},
			{time.Minute, 91 * time.Minute}, // a shorter life is a life that was asked for
			{10 * time.Hour, 150 * time.Minute},
		} {
			time.Sleep(30*time.Minute - time.Since(start)%(30*time.Minute))
			if now := time.Since(start); step.increment == time.Minute {
				step.end = now + time.Minute
			} else if step.increment == 0 {
				step.end = now + time.Hour
			}
			lease := e.vaultRenews(c, step.increment)
			for _, e := range []*engine{e, mountOn(t, e.storage, e.system)} {
				if exp := e.exp(c); !exp.Equal(lease.Truncate(time.Second)) || exp.Sub(start) != step.end {
					t.Errorf("renewed by %s: the token ends after %s, its lease after %s, want %s", step.increment, exp.Sub(start), lease.Sub(start), step.end)
				}
			}
			if step.increment == time.Minute { // renew at once, while it is live
				e.vaultRenews(c, time.Hour)
			}
		}
		time.Sleep(150*time.Minute - time.Since(start) - time.Second)
		e.expect("active", c.token, nil)
		time.Sleep(time.Second)
		e.expect("expired", c.token, nil)
		resp, err := e.renew(c, 0)
		e.saysNo(resp, err, "cannot be renewed")

		time.Sleep(10 * time.Minute) // by which another node's clock may be behind
		e.minute()
		if n := e.b.Loaded().Deviations.Len(); n != 0 {
			t.Errorf("%d deviations are kept of a token that has ended", n)
		}
		e.expect("expired", c.token, nil)
	})
}

// A JWT states its end. Where a renewal shortens the lease, the status list shows the JWT as revoked once the lease has ended,
// and as suspended as long as the JWT could be accepted.
func TestStatusOfAJWTWhoseLeaseWasShortened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newIssuer(t)
		e.system.become("an-entity", &logical.Entity{ID: "an-entity"})
		e.write("roles/orders", data{"token_format": "jwt", "scopes": "orders:read", "audience": "api", "ttl": "1h"})
		c := e.credsAs("an-entity", "orders", nil)
		shows := func(bits float64, want byte) {
			t.Helper()
			if b, got := e.listed(c.token); b != bits || got != want {
				t.Errorf("the list of %v bits shows %d, want %d in %v bits", b, got, want, bits)
			}
		}
		shows(1, token.StatusValid)
		e.vaultRenews(c, time.Minute)
		e.write("suspend", data{"subject": "an-entity"})
		shows(2, token.StatusSuspended)
		time.Sleep(time.Minute)
		e.expect("expired", c.token, nil)
		shows(2, token.StatusSuspended)
		e.write("resume", data{"subject": "an-entity"})
		e.revokeLease(c) // as Vault does at the end of the lease
		shows(1, token.StatusInvalid)
		e.expect("expired", c.token, nil)
		shows(1, token.StatusInvalid)
	})
}

func TestRenewUnderAShorterRole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("roles/reader", data{"scopes": "a", "ttl": "1h", "max_ttl": "24h"})
		c := e.creds("reader", nil)
		start := time.Now()
		time.Sleep(30 * time.Minute)
		e.write("roles/reader", data{"max_ttl": "1h"})
		if lease := e.vaultRenews(c, 0); lease.Sub(start) != time.Hour || !e.exp(c).Equal(lease) {
			t.Errorf("the lease ends after %s", lease.Sub(start))
		}
		e.write("roles/reader", data{"max_ttl": "1000h"}) // does not lengthen what was promised shorter
		if lease := e.vaultRenews(c, 2000*time.Hour); lease.Sub(start) != 24*time.Hour || !e.exp(c).Equal(lease) {
			t.Errorf("the lease ends after %s", lease.Sub(start))
		}
		e.system.most.Store(int64(2 * time.Hour))
		if lease := e.vaultRenews(c, 2000*time.Hour); lease.Sub(start) != 2*time.Hour || !e.exp(c).Equal(lease) {
			t.Errorf("the lease ends after %s", lease.Sub(start))
		}
	})
}

func TestRevokeLease(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a"})
	c, other := e.creds("reader", nil), e.creds("reader", nil)
	for range 2 {
		e.revokeLease(c)
		for _, e := range []*engine{e, mountOn(t, e.storage, e.system)} {
			e.expect("revoked", c.token, nil)
			e.expect("active", other.token, nil)
		}
	}
	resp, err := e.renew(c, 0)
	e.saysNo(resp, err, "cannot be renewed: the token is revoked")

	e.do(logical.DeleteOperation, "roles/reader", nil)
	e.revokeLease(other) // needs nothing but the lease
	e.expect("revoked", other.token, nil)
}

// A lease that is not what this version wrote is an error, never a panic.
func TestDamagedLeases(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a"})
	c := e.creds("reader", nil)
	for field, value := range map[string]any{
		"version": "9", "grant": 7.0, "status": "x", "role_id": nil, "expires_at": "soon", "ttl": []any{}, "lifetime": 3600.0,
	} {
		secret := *c.secret
		secret.InternalData = data{}
		for k, v := range c.secret.InternalData {
			secret.InternalData[k] = v
		}
		secret.InternalData[field] = value
		for _, op := range []logical.Operation{logical.RenewOperation, logical.RevokeOperation} {
			if resp, err := e.request(&logical.Request{Operation: op, Path: "creds/x", Secret: &secret}); err == nil && !resp.IsError() {
				t.Errorf("%s with %s = %v is accepted", op, field, value)
			}
		}
	}
}

// A process that does not know of a renewal stores the revocation of the lease: the lease says how long it was renewed for.
func TestAProcessBehindRevokesARenewedLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		behind := newEngine(t)
		behind.write("roles/app", data{"scopes": "a", "ttl": "1h", "max_ttl": "24h"})
		c := behind.creds("app", nil)
		ahead := mountOn(t, behind.storage, behind.system)
		time.Sleep(30 * time.Minute)
		for range 2 { // the second time the lease has the data of the first renewal
			ahead.vaultRenews(c, 3*time.Hour)
		}
		time.Sleep(2 * time.Hour)
		ahead.expect("active", c.token, nil)
		behind.revokeLease(c)
		behind.expect("revoked", c.token, nil)
		mountOn(t, behind.storage, behind.system).expect("revoked", c.token, nil)
	})
}

// Of the renewals by two processes that do not know of each other, the last one counts: the lease says how many there were.
func TestTheLastOfTheRenewalsByTwoProcessesCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := newEngine(t)
		one.write("roles/app", data{"scopes": "a", "ttl": "1h", "max_ttl": "24h"})
		c := one.creds("app", nil)
		two := mountOn(t, one.storage, one.system)
		for i, e := range []*engine{one, two, one} {
			time.Sleep(10 * time.Minute)
			end := e.vaultRenews(c, time.Duration(2+i%2)*time.Hour).Truncate(time.Second)
			if got := mountOn(t, one.storage, one.system).exp(c); !got.Equal(end) {
				t.Errorf("renewal %d: the token ends at %s, the lease at %s", i+1, got, end)
			}
		}
	})
}

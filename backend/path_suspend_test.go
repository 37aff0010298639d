package backend

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
)

// codeOf returns the status code of an error; 0 if the error has none.
func codeOf(err error) int {
	if coded := logical.HTTPCodedError(nil); errors.As(err, &coded) {
		return coded.Code()
	}
	return 0
}

// warned makes a request that must succeed with a warning.
func (e *engine) warned(path string, d data, want string) {
	e.t.Helper()
	if resp := e.do(logical.UpdateOperation, path, d); resp == nil || !strings.Contains(strings.Join(resp.Warnings, " "), want) {
		e.t.Errorf("%s %.100v: %v, want the warning %q", path, d, resp, want)
	}
}

// A grant can be suspended and resumed by each of its tokens and ids, at any node.
func TestSuspendByTokenAndByID(t *testing.T) {
	e := newIssuer(t)
	e.write("roles/app", data{"scopes": "a", "audience": "x", "refresh": true, "exchange": true, "access_ttl": "5m"})
	e.write("roles/signed", data{"scopes": "a", "audience": "x", "token_format": "jwt"})
	app, signed, other := e.creds("app", nil), e.creds("signed", nil), e.creds("app", nil)
	refresh := app.data["refresh_token"].(string)
	_, exchanged := e.exchange(app.token, nil)
	texts := []string{app.token, exchanged["access_token"].(string)}
	for _, by := range []data{
		{"token": app.token}, {"token": refresh}, {"token": texts[1]}, {"token_id": app.id}, {"token_id": app.data["grant_id"]},
	} {
		e.write("suspend", by)
		e.write("suspend", by)
		for _, e := range []*engine{e, mountOn(t, e.storage, e.system)} {
			for _, text := range append(texts, refresh) {
				e.expect("suspended", text, nil)
			}
			e.expect("active", other.token, nil)
		}
		if status, answer := e.refresh(refresh); status != 400 || answer["error"] != "invalid_grant" {
			t.Errorf("a refresh: %d %v", status, answer)
		}
		if status, answer := e.exchange(app.token, nil); status != 400 || answer["error"] != "invalid_grant" {
			t.Errorf("an exchange: %d %v", status, answer)
		}
		if _, answer := e.form("oauth/introspect", data{"token": app.token}); answer["active"] != false || len(answer) != 1 {
			t.Errorf("oauth/introspect: %v", answer)
		}
		resp, err := e.renew(app, time.Hour)
		e.saysNo(resp, err, "the token cannot be renewed: the token is suspended")
		e.write("resume", by)
		for _, e := range []*engine{e, mountOn(t, e.storage, e.system)} {
			for _, text := range texts {
				e.expect("active", text, nil)
			}
		}
	}
	if resp, err := e.renew(app, time.Hour); err != nil || resp.IsError() {
		t.Error(resp, err)
	}
	if _, next := e.mustRefresh(refresh); next == "" {
		t.Error("no refresh after the resume")
	}
	e.write("suspend", data{"token": signed.token})
	e.expect("suspended", signed.token, nil)
	e.write("resume", data{"token_id": signed.id})
	e.expect("active", signed.token, nil)
}

func TestSuspendRefusals(t *testing.T) {
	e, other := newEngine(t), newEngine(t)
	for _, mount := range []*engine{e, other} {
		mount.write("roles/reader", data{"scopes": "a"})
	}
	c, stranger := e.creds("reader", nil), other.creds("reader", nil)
	for path, did := range map[string]string{"suspend": "suspended", "resume": "resumed"} {
		for want, d := range map[string]data{
			"token: was not made by this mount: use the mount that issued the token. Nothing was " + did: {"token": stranger.token},
			"token: is no token: the checksum is wrong, so the token may be mistyped or cut short":       {"token": c.token[:30]},
			"token_id: must be 24":                                                                 {"token_id": c.token},
			"give exactly one of token, token_id and subject":                                      {},
			"give exactly one of token, token_id and subject ":                                     {"token": c.token, "token_id": c.id},
			"give exactly one of token, token_id and subject  ":                                    {"subject": entityAnn, "token_id": c.id},
			"subject: is empty, the ID of a Vault entity is required":                              {"subject": ""},
			"subject: is 129 bytes long, the longest ID of a Vault entity has 128":                 {"subject": strings.Repeat("x", 129)},
			"subject: has bytes that are not printable ASCII":                                      {"subject": "é"},
			"note: is 257 bytes long, at most 256 are allowed":                                     {"token": c.token, "note": strings.Repeat("x", 257)},
			"note: has a control character or is no UTF-8, only text in one line is allowed":       {"token": c.token, "note": "a\nb"},
			"note: contains a token, which a listing would show: name the token by its token_id":   {"token": c.token, "note": "leaked: '" + c.token + "'."},
			"note: contains a token, which a listing would show: name the token by its token_id\t": {"subject": entityAnn, "note": stranger.token},
		} {
			resp, err := e.request(&logical.Request{Operation: logical.UpdateOperation, Path: path, Data: d})
			if e.saysNo(resp, err, strings.TrimSpace(want)); strings.Contains(resp.Error().Error(), c.token[:12]) {
				t.Errorf("%s shows the token: %s", path, resp.Error())
			}
		}
	}
	e.expect("active", c.token, nil)
	e.warned("resume", data{"token": c.token, "note": "see wiki.example.com, client 1.2.3"}, "the token was not suspended")
	e.warned("suspend", data{"token_id": strings.Repeat("0", 24)}, `token_id "000000000000000000000000" is unknown`)
	e.warned("resume", data{"token": c.token}, "the token was not suspended")
	e.warned("resume", data{"subject": entityAnn}, "was not suspended")
	e.warned("suspend", data{"subject": "nobody"}, `Vault has no entity "nobody": the entity was deleted, or the id is mistyped`)
}

func TestSuspendStatic(t *testing.T) {
	e := newEngine(t)
	e.write("roles/r", data{"scopes": "a"})
	e.write("static-roles/kept", data{"role": "r", "rotation_period": "30d", "entity_id": entityAnn})
	read := func(want ...string) {
		t.Helper()
		got := e.do(logical.ReadOperation, "static-creds/kept", nil).Warnings
		if len(got) != len(want) || len(want) > 0 && !strings.HasPrefix(got[0], want[0]) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	read()
	for _, by := range []data{{"token_id": e.read("static-roles/kept")["token_id"]}, {"subject": entityAnn}} {
		e.write("suspend", by)
		read("the token is suspended")
		e.write("resume", by)
		read()
	}
}

// A revocation is final, a suspended token expires, and a suspended token can be revoked.
func TestSuspendAndEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := newSystem()
		sys.most.Store(int64(2 * time.Hour))
		sys.DefaultLeaseTTLVal = time.Hour
		e := mountOn(t, new(storage), sys)
		e.write("roles/reader", data{"scopes": "a", "ttl": "1h", "max_ttl": "1h"})
		revoked, expired, deleted := e.creds("reader", nil), e.creds("reader", nil), e.creds("reader", nil)
		for _, c := range []*creds{revoked, expired, deleted} {
			e.write("suspend", data{"token": c.token})
		}
		e.write("revoke", data{"token": revoked.token})
		e.expect("revoked", revoked.token, nil)
		e.refused(logical.UpdateOperation, "resume", data{"token": revoked.token}, "the token was revoked, and a revocation cannot be undone")
		e.warned("suspend", data{"token": revoked.token}, "the token was revoked, which no resume undoes: nothing was suspended")
		e.expect("revoked", revoked.token, nil)
		e.revokeLease(deleted)
		e.refused(logical.UpdateOperation, "resume", data{"token_id": deleted.id}, "a revocation cannot be undone")
		time.Sleep(time.Hour)
		e.expect("expired", expired.token, nil)
		e.write("resume", data{"token_id": expired.id})
		e.expect("expired", expired.token, nil)
		e.minute()
		if left := e.keysBelow(ledger.SuspensionsPrefix); len(left) == 0 {
			t.Error("nothing is kept")
		}
		time.Sleep(2*time.Hour + 2*ledger.ClockSkew)
		e.minute()
		if left := e.keysBelow(ledger.SuspensionsPrefix); len(left) > 0 {
			t.Errorf("%q is left", left)
		}
	})
}

// A suspended entity has no good token, of before and of later, and gets no other.
func TestSuspendSubject(t *testing.T) {
	e := newIssuer(t)
	e.write("roles/reader", data{"scopes": "a", "refresh": true, "exchange": true, "access_ttl": "5m"})
	e.write("roles/signed", data{"scopes": "a", "audience": "x", "token_format": "jwt"})
	e.write("roles/leaseless", data{"scopes": "a", "audience": "x", "token_format": "jwt", "generate_lease": false, "ttl": "5m"})
	const bob = "22222222-2222-4222-8222-222222222222"
	e.system.become(bob, &logical.Entity{ID: bob})
	ann, signed, of := e.creds("reader", nil), e.creds("signed", nil), e.credsAs(bob, "reader", nil)
	later := mountOn(t, e.storage, e.system) // does not know what comes
	e.write("suspend", data{"subject": entityAnn, "note": "laptop stolen"})
	e.write("suspend", data{"subject": entityAnn}) // keeps the note
	issued := later.creds("reader", nil)           // by a node that does not know of the suspension
	for _, e := range []*engine{e, mountOn(t, e.storage, e.system)} {
		for _, c := range []*creds{ann, signed, issued} {
			e.expect("suspended", c.token, nil)
		}
		e.expect("active", of.token, nil)
		for _, role := range []string{"reader", "leaseless"} {
			resp, err := e.request(&logical.Request{Operation: logical.ReadOperation, Path: "creds/" + role, EntityID: entityAnn})
			e.saysNo(resp, err, `the Vault entity "`+entityAnn+`" is suspended`)
			if codeOf(err) != http.StatusForbidden {
				t.Errorf("%v is no 403", err)
			}
		}
		e.credsAs(bob, "reader", nil)
	}
	resp, err := e.renew(ann, time.Hour)
	e.saysNo(resp, err, "the token is suspended")
	for _, by := range []data{{"token": ann.token}, {"token_id": ann.id}} {
		got := e.write("lookup", by)
		if got["state"] != "suspended" || got["detail"] != "the Vault entity that requested the token is suspended; note: laptop stolen" {
			t.Errorf("%v", got)
		}
	}
	explained := func(want string) {
		t.Helper()
		for _, path := range []string{"lookup", "introspect"} {
			if got, _ := e.write(path, data{"token": ann.token})["detail"].(string); strings.TrimSuffix(got, "; note: laptop stolen") != want {
				t.Errorf("%s: %q, want %q", path, got, want)
			}
		}
	}
	explained("the Vault entity that requested the token is suspended")
	e.warned("resume", data{"token": ann.token}, "the token stays suspended, since the Vault entity")
	e.write("suspend", data{"token": ann.token})
	explained("the token is suspended, and so is the Vault entity that requested the token")
	e.write("resume", data{"subject": entityAnn})
	e.expect("suspended", ann.token, nil) // by itself
	explained("the token is suspended")
	e.expect("active", signed.token, nil)
	e.write("resume", data{"token": ann.token})
	e.expect("active", ann.token, nil)
	e.creds("reader", nil)
}

// A status list shows a suspended JWT as 2, and as revoked once the JWT is revoked.
func TestSuspendedInStatusList(t *testing.T) {
	e := newIssuer(t)
	e.write("roles/signed", data{"scopes": "a", "audience": "x", "token_format": "jwt"})
	e.write("roles/doomed", data{"scopes": "a", "audience": "x", "token_format": "jwt"})
	c, neighbour, doomed := e.creds("signed", nil), e.creds("signed", nil), e.creds("doomed", nil)
	shows := func(when string, c *creds, width float64, want byte) {
		t.Helper()
		if bits, status := e.listed(c.token); bits != width || status != want {
			t.Errorf("%s: the list has %v bits and shows %d, want %v and %d", when, bits, status, width, want)
		}
	}
	expect := func(when string, width float64, status byte) {
		t.Helper()
		shows(when, c, width, status)
		shows(when, neighbour, width, token.StatusValid)
	}
	expect("at first", 1, token.StatusValid)
	for _, by := range []data{{"token": c.token}, {"token_id": c.id}} {
		e.write("suspend", by)
		expect("suspended", 2, token.StatusSuspended)
		e.write("resume", by)
		expect("resumed", 1, token.StatusValid)
	}
	e.write("suspend", data{"subject": entityAnn})
	shows("entity suspended", c, 2, token.StatusSuspended)
	shows("entity suspended", neighbour, 2, token.StatusSuspended)
	e.do(logical.DeleteOperation, "roles/doomed", nil)
	e.revokeLease(c)
	shows("revoked and suspended", c, 2, token.StatusInvalid)
	shows("role deleted and suspended", doomed, 2, token.StatusInvalid)
	e.write("resume", data{"subject": entityAnn})
	expect("revoked", 1, token.StatusInvalid)
}

// The feed has suspensions and resumes, also those of another process.
func TestSuspendInFeed(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a"})
	c := e.creds("reader", nil)
	f := e.follow()
	e.write("suspend", data{"token": c.token})
	f.expectEvents("grant " + c.id)
	e.write("resume", data{"token": c.token})
	f.expectEvents("grant " + c.id)
	e.write("suspend", data{"subject": entityAnn})
	e.write("resume", data{"subject": entityAnn})
	f.expectEvents("subject "+entityAnn, "subject "+entityAnn)
}

// A standby forwards both paths, and learns of both.
func TestSuspendAtAStandby(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a"})
	c := e.creds("reader", nil)
	sys := newSystem()
	sys.ReplicationStateVal = consts.ReplicationPerformanceStandby
	standby := mountOn(t, e.storage, sys)
	for _, path := range []string{"suspend", "resume"} {
		if !standby.b.Route(path).Operations[logical.UpdateOperation].Properties().ForwardPerformanceStandby {
			t.Errorf("%s is not forwarded", path)
		}
	}
	for _, step := range []struct{ path, want string }{{"suspend", "suspended"}, {"resume", "active"}} {
		e.write(step.path, data{"token": c.token})
		for _, key := range e.keysBelow(ledger.SuspensionsPrefix) {
			standby.b.InvalidateKey(t.Context(), key)
		}
		standby.expect(step.want, c.token, nil)
	}
}

// Suspended tokens take places below max_tokens: all of them may be resumed.
func TestSuspendedTokensCount(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a", "max_tokens": 1})
	e.write("suspend", data{"token": e.creds("reader", nil).token})
	time.Sleep(1100 * time.Millisecond)
	resp, err := e.request(&logical.Request{Operation: logical.ReadOperation, Path: "creds/reader", EntityID: entityAnn})
	e.saysNo(resp, err, "max_tokens: ")
}

// A page of suspensions that cannot be read is an error for its tokens, and can be deleted.
func TestBrokenSuspensions(t *testing.T) {
	e := newIssuer(t)
	e.write("roles/signed", data{"scopes": "a", "audience": "x", "token_format": "jwt"})
	c := e.creds("signed", nil)
	e.write("suspend", data{"token": c.token})
	pages := e.keysBelow(ledger.SuspensionsPrefix)
	if len(pages) != 1 {
		t.Fatal(pages)
	}
	e.spoil(pages[0], "\xff")
	e = e.restart()
	why := "the stored entry " + pages[0] + " cannot be read"
	e.refused(logical.UpdateOperation, "introspect", data{"token": c.token}, why)
	list := e.verify(c.token, "at+jwt")["status"].(data)["status_list"].(data)["uri"].(string)
	if resp, err := e.request(&logical.Request{Operation: logical.ReadOperation, Path: strings.TrimPrefix(list, issuer+"/")}); err == nil {
		t.Errorf("the status list is served: %v", resp)
	}
	e.do(logical.DeleteOperation, "broken/"+pages[0], nil)
	e.expect("active", c.token, nil)
}

// A token of a service is not suspended. A suspended entity keeps it, with a warning, and gets no other.
func TestSuspendUpstream(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	e := onShelf(t, s)
	c := e.creds("reader", nil)
	for field, value := range map[string]string{"token": c.token, "token_id": c.id} {
		for _, path := range []string{"suspend", "resume"} {
			e.refused(logical.UpdateOperation, path, data{field: value}, field+": is a token of another service, which cannot be suspended: revoke the token instead")
		}
	}
	e.warned("suspend", data{"subject": entityAnn}, "1 tokens of other services stay valid")
	resp, err := e.request(&logical.Request{Operation: logical.ReadOperation, Path: "creds/reader", EntityID: entityAnn})
	e.saysNo(resp, err, "is suspended")
	if s.live() != 1 {
		t.Errorf("%d tokens", s.live())
	}
}

// A verifier refuses a suspended token within a second, and takes a resumed one back once the refusal is over.
func TestVerifierAndSuspension(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config", data{"issuer": testIssuer})
		e.write("roles/opaque", data{"scopes": "a", "audience": "api"})
		e.write("roles/signed", data{"scopes": "a", "audience": "api", "token_format": "jwt"})
		v := e.verifier(func(*verify.Config) {})
		tokens := []*creds{e.creds("opaque", nil), e.creds("signed", nil)}
		expect := func(when string, want access.Reason) {
			t.Helper()
			for i, c := range tokens {
				if d, err := v.Check(t.Context(), c.token, &verify.Use{}); err != nil || d.Reason != want {
					t.Errorf("%s: token %d: %+v, %v, want %q", when, i, d, err, want)
				}
			}
		}
		for range 2 {
			expect("at first", access.Good)
			for _, c := range tokens {
				e.write("suspend", data{"token_id": c.id})
			}
			time.Sleep(1100 * time.Millisecond)
			expect("suspended", access.Suspended)
			time.Sleep(10 * time.Minute) // the status lists are read again
			expect("still suspended", access.Suspended)
			for _, c := range tokens {
				e.write("resume", data{"token_id": c.id})
			}
			time.Sleep(11100 * time.Millisecond)
			expect("resumed", access.Good)
			e.write("suspend", data{"subject": entityAnn})
			time.Sleep(1100 * time.Millisecond)
			expect("entity suspended", access.Suspended)
			e.write("resume", data{"subject": entityAnn})
			time.Sleep(11100 * time.Millisecond)
			expect("entity resumed", access.Good)
		}
		e.write("suspend", data{"token_id": tokens[1].id})
		offline := e.verifier(func(c *verify.Config) { c.Vault, c.Issuer = nil, testIssuer })
		if d, err := offline.Check(t.Context(), tokens[1].token, &verify.Use{}); err != nil || d.Reason != access.Suspended {
			t.Errorf("offline: %+v, %v", d, err)
		}
		e.write("resume", data{"token_id": tokens[1].id})
		time.Sleep(5 * time.Minute)
		if d, err := offline.Check(t.Context(), tokens[1].token, &verify.Use{}); err != nil || !d.Allowed {
			t.Errorf("offline, resumed: %+v, %v", d, err)
		}
	})
}

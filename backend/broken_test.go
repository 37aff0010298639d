package backend

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// spoil replaces what storage holds under a key by what nobody can read.
func (e *engine) spoil(key, value string) {
	e.t.Helper()
	if err := e.storage.InmemStorage.Put(context.Background(), &logical.StorageEntry{Key: key, Value: []byte(value)}); err != nil {
		e.t.Fatal(err)
	}
}

// An entry that cannot be read costs what needs it and nothing else; it is listed and can be deleted or overwritten.
func TestBrokenEntries(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	e := onShelf(t, s)
	e.write("roles/good", data{"scopes": "a"})
	e.write("roles/bad", data{"scopes": "a"})
	e.write("static-roles/kept", data{"role": "good", "rotation_period": "1h"})
	e.write("static-roles/lost", data{"role": "good", "rotation_period": "1h"})
	good, bad := e.creds("good", nil), e.creds("bad", nil)
	kept, lost := e.read("static-creds/kept")["token"].(string), e.read("static-creds/lost")["token"].(string)
	e.b.Flush(t.Context())

	e.spoil("role/bad", `{"scopes": 5`)
	e.spoil("static-role/lost", `{"current": 5}`)
	e.spoil("provider/odd", "name: odd\nexpiry: never\n")
	e.spoil("connection/odd", `{"id": "5", "url": "://"}`)
	e.storage.broken.Store(false)
	e = e.restart()

	keys := []string{"connection/odd", "provider/odd", "role/bad", "static-role/lost"}
	if got := e.list("broken/", nil); !slices.Equal(got, keys) {
		t.Errorf("broken/ lists %q, want %q", got, keys)
	}
	for _, kind := range []string{"roles/bad", "static-roles/lost", "providers/odd", "connections/odd"} {
		e.refused(logical.ReadOperation, kind, nil, "the stored entry ")
		list, name, _ := strings.Cut(kind, "/")
		if got := e.list(list+"/", nil); !slices.Contains(got, name) {
			t.Errorf("%s/ lists %q", list, got)
		}
	}
	e.refused(logical.ReadOperation, "creds/bad", nil, "the stored entry role/bad cannot be read")
	e.refused(logical.ReadOperation, "static-creds/lost", nil, "the stored entry static-role/lost cannot be read")
	e.refused(logical.UpdateOperation, "rotate-role/lost", nil, "the stored entry static-role/lost cannot be read")
	e.refused(logical.UpdateOperation, "static-roles/other", data{"role": "bad", "rotation_period": "1h"}, "the stored entry role/bad cannot be read")
	e.refused(logical.UpdateOperation, "connections/other", data{"provider": "odd", "url": "https://x"}, "the stored entry provider/odd does not compile")
	e.refused(logical.UpdateOperation, "introspect", data{"token": bad.token}, "the stored entry role/bad cannot be read")
	e.refused(logical.DeleteOperation, "broken/role/good", nil, "is not the key of an entry")

	e.expect("active", good.token, nil)
	e.expect("active", kept, nil)
	e.expect("active", lost, nil)
	e.creds("good", nil)
	e.revokeLease(bad)

	e.do(logical.DeleteOperation, "roles/bad", nil)
	e.expect("revoked", bad.token, nil)
	e.do(logical.DeleteOperation, "broken/static-role/lost", nil)
	e.expect("revoked", lost, nil)
	e.expect("active", kept, nil)
	e.do(logical.DeleteOperation, "providers/odd", nil)
	e.do(logical.DeleteOperation, "connections/odd", nil)
	if got := e.list("broken/", nil); len(got) != 0 {
		t.Errorf("broken/ lists %q", got)
	}
	e = e.restart()
	e.read("config")
}

// keysBelow lists what storage holds below a prefix.
func (e *engine) keysBelow(prefix string) []string {
	e.t.Helper()
	names, err := e.storage.InmemStorage.List(context.Background(), prefix)
	if err != nil {
		e.t.Fatal(err)
	}
	for i := range names {
		names[i] = prefix + names[i]
	}
	return names
}

// What is not known of a token because its page cannot be read is not guessed.
func TestBrokenPages(t *testing.T) {
	t.Parallel()
	e := newIssuer(t)
	e.write("roles/opaque", data{"scopes": "a", "ttl": "1h"})
	e.write("roles/signed", data{"scopes": "a", "token_format": "jwt", "audience": "https://x", "ttl": "1h"})
	revoked, signed := e.creds("opaque", nil), e.creds("signed", nil)
	e.write("revoke", data{"token": revoked.token})
	other := e.creds("opaque", nil)
	for other.id[:3] == revoked.id[:3] {
		other = e.creds("opaque", nil)
	}
	e.b.Flush(t.Context())
	pages := e.keysBelow(ledger.DeviationsPrefix)
	if len(pages) != 1 {
		t.Fatal(pages)
	}
	e.spoil(pages[0], "\xff\xff")
	e = e.restart()
	why := "the stored entry " + pages[0] + " cannot be read"
	if got := e.list("broken/", nil); !slices.Equal(got, pages) {
		t.Errorf("broken/ lists %q", got)
	}
	e.refused(logical.UpdateOperation, "introspect", data{"token": revoked.token}, why)
	if row := e.read("tokens/" + revoked.id); row["state"] != "unknown" || !strings.Contains(row["detail"].(string), why) {
		t.Errorf("its row: %v", row)
	}
	if resp, err := e.renew(revoked, 0); err == nil {
		t.Errorf("renewed: %v", resp)
	}
	list, _ := strings.CutPrefix(e.verify(signed.token, "at+jwt")["status"].(data)["status_list"].(data)["uri"].(string), issuer+"/")
	if _, err := e.request(&logical.Request{Operation: logical.ReadOperation, Path: list}); err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("a status list without what is not known: %v", err)
	}
	e.expect("active", other.token, nil)
	e.write("revoke", data{"token": other.token})
	e.expect("revoked", other.token, nil)
	e.revokeLease(revoked)
	e.expect("revoked", revoked.token, nil)
	e.do(logical.DeleteOperation, "broken/"+pages[0], nil)
	if e.listedAsRevoked(signed.token) {
		t.Error("the JWT is listed")
	}
}

// How far a grant was refreshed is not guessed either.
func TestBrokenGrants(t *testing.T) {
	t.Parallel()
	e := newIssuer(t)
	e.write("roles/refreshed", data{"scopes": "a", "refresh": true, "access_ttl": "5m"})
	first := e.creds("refreshed", nil).data["refresh_token"].(string)
	_, next := e.mustRefresh(first)
	pages := e.keysBelow(ledger.RefreshesPrefix)
	e.spoil(pages[0], "\xff\xff")
	e = e.restart()
	for _, token := range []string{first, next} {
		resp, err := e.request(&logical.Request{
			Operation: logical.UpdateOperation, Path: "oauth/token", Data: data{"grant_type": "refresh_token", "refresh_token": token},
		})
		if err == nil || !strings.Contains(err.Error(), pages[0]) {
			t.Errorf("refreshed: %v, %v", resp, err)
		}
	}
	e.do(logical.DeleteOperation, "broken/"+pages[0], nil)
}

// A token of a service whose entry cannot be read is neither revoked in name only nor in the way of others.
func TestBrokenUpstreamToken(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	e := onShelf(t, s)
	lost, kept := e.creds("reader", nil), e.creds("reader", nil)
	key := upstream.Prefix + lost.id
	entry, err := e.storage.InmemStorage.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	e.b.Flush(t.Context())
	e.spoil(key, `{"id": 5}`)
	e = e.restart()
	if got := e.list("broken/", nil); !slices.Equal(got, []string{key}) {
		t.Errorf("broken/ lists %q", got)
	}
	if got := e.read("tokens/" + lost.id)["state"]; got != "unknown" {
		t.Errorf("it is %v", got)
	}
	if resp, err := e.request(&logical.Request{Operation: logical.RevokeOperation, Path: "creds/x", Secret: lost.secret}); err == nil {
		t.Errorf("revoked, says the engine: %v", resp)
	}
	e.revokeLease(kept)
	e.settled()
	if s.live() != 1 {
		t.Errorf("%d tokens", s.live())
	}
	e.spoil(key, string(entry.Value)) // and so it is good again
	e = e.restart()
	e.revokeLease(lost)
	e.settled()
	if s.live() != 0 {
		t.Errorf("%d tokens", s.live())
	}

	lost = e.creds("reader", nil)
	e.spoil(upstream.Prefix+lost.id, `{"id": 5}`)
	e = e.restart()
	resp := e.do(logical.DeleteOperation, "broken/"+upstream.Prefix+lost.id, nil)
	if resp == nil || len(resp.Warnings) != 1 {
		t.Errorf("no warning: %v", resp)
	}
	e.revokeLease(lost)
}

// A broken entry is overwritten as any other is, and does not revive what it held.
func TestBrokenOverwritten(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	e := onShelf(t, s)
	e.write("roles/bad", data{"scopes": "a"})
	old := e.creds("bad", nil)
	minted := e.creds("reader", nil)
	e.spoil("role/bad", `{"scopes": 5`)
	entry, err := e.storage.Get(t.Context(), "connection/shelf")
	if err != nil {
		t.Fatal(err)
	}
	e.spoil("connection/shelf", strings.Replace(string(entry.Value), `"url":"http`, `"url":"gopher`, 1))
	e = e.restart()
	e.refused(logical.ReadOperation, "creds/reader", nil, "the stored entry connection/shelf cannot be read")

	// What it has to end waits until it can be read again.
	e.revokeLease(minted)
	time.Sleep(50 * time.Millisecond)
	if s.live() != 1 {
		t.Errorf("%d tokens", s.live())
	}
	e.write("connections/shelf", data{"provider": "shelf", "url": s.URL, "credential": data{"password": "open sesame"}})
	e.settled()
	if s.live() != 0 {
		t.Errorf("%d tokens", s.live())
	}
	e.creds("reader", nil)

	e.write("roles/bad", data{"scopes": "a,b"})
	e.expect("role_deleted", old.token, nil)
	e.expect("active", e.creds("bad", nil).token, data{"required_scopes": "b"})
}

// A provider that no longer compiles stops its connections, not the mount; the queue waits for one that does.
func TestBrokenProvider(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	e := onShelf(t, s)
	e.write("roles/native", data{"scopes": "a"})
	native := e.creds("native", nil)
	minted := e.creds("reader", nil)
	definition := e.read("providers/shelf")["definition"].(string)
	e.spoil("provider/shelf", strings.Replace(definition, "expires_at)}'", "expires_at)'", 1))
	e = e.restart()
	e.expect("active", native.token, nil)
	e.refused(logical.ReadOperation, "creds/reader", nil, "the stored entry provider/shelf does not compile")
	e.refused(logical.UpdateOperation, "connections/shelf/check", nil, "the stored entry provider/shelf does not compile")
	e.read("connections/shelf")
	e.revokeLease(minted)
	time.Sleep(50 * time.Millisecond)
	if s.live() != 1 {
		t.Errorf("%d tokens", s.live())
	}
	e.write("providers/shelf", data{"definition": definition})
	e.settled()
	if s.live() != 0 {
		t.Errorf("%d tokens", s.live())
	}
}

// A change is checked against what storage holds, which another process may have written.
func TestProviderIsInUseElsewhere(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	e := onShelf(t, s)
	stale := mountOn(t, e.storage, e.system)
	definition := e.read("providers/shelf")["definition"].(string)
	e.do(logical.DeleteOperation, "roles/reader", nil)
	e.do(logical.DeleteOperation, "connections/shelf", nil)
	e.write("connections/later", data{"provider": "shelf", "url": s.URL, "credential": data{"password": "open sesame"}})

	stale.refused(logical.DeleteOperation, "providers/shelf", nil, `connection "later" uses provider "shelf"`)
	other := strings.NewReplacer("password: {type", "secret: {type", "credential.password", "credential.secret", `credential: '{"password"`, `credential: '{"secret"`).Replace(definition)
	stale.refused(logical.UpdateOperation, "providers/shelf", data{"definition": other}, `connection "later" has another credential`)

	e.do(logical.DeleteOperation, "connections/later", nil)
	stale.do(logical.DeleteOperation, "providers/shelf", nil)
	e.refused(logical.UpdateOperation, "connections/later", data{"provider": "shelf", "url": s.URL, "credential": data{"password": "open sesame"}}, `provider: there is no "shelf"`)
}

// broken/ deletes a provider that does not compile. A provider that another process has mended meanwhile stays.
func TestDropBrokenProvider(t *testing.T) {
	t.Parallel()
	e := onShelf(t, newShelf(t))
	definition := strings.NewReplacer("name: shelf", "name: odd", "EXPIRY", "none").Replace(shelfDefinition)
	e.spoil("provider/odd", "name: odd\nexpiry: never\n")
	stale := mountOn(t, e.storage, e.system)
	e.write("providers/odd", data{"definition": definition})
	stale.do(logical.DeleteOperation, "broken/provider/odd", nil)
	if got := e.restart().read("providers/odd")["definition"]; got != definition {
		t.Errorf("the mended provider is %q", got)
	}
	e.spoil("provider/odd", "name: odd\nexpiry: never\n")
	e = e.restart()
	e.do(logical.DeleteOperation, "broken/provider/odd", nil)
	if got := e.restart().list("providers/", nil); slices.Contains(got, "odd") {
		t.Errorf("providers/ lists %q", got)
	}
}

package detect

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

var ctx = context.Background()

// stored returns the IDs of the stored findings.
func (b *bench) stored() []string {
	b.t.Helper()
	ids, err := b.Storage.List(ctx, findingsPrefix)
	if err != nil {
		b.t.Fatal(err)
	}
	return ids
}

// after returns another process on the same storage.
func (b *bench) after() *bench {
	b.t.Helper()
	next := newBench(b.t)
	next.Storage, next.now = b.Storage, b.now
	if err := next.Load(ctx, next.Storage, next.now); err != nil {
		b.t.Fatal(err)
	}
	return next
}

// copied returns a copy of the storage.
func (b *bench) copied() logical.Storage {
	b.t.Helper()
	keys, err := logical.CollectKeys(ctx, b.Storage)
	if err != nil {
		b.t.Fatal(err)
	}
	other := new(logical.InmemStorage)
	for _, key := range keys {
		entry, err := b.Storage.Get(ctx, key)
		if err == nil {
			err = other.Put(ctx, entry)
		}
		if err != nil {
			b.t.Fatal(err)
		}
	}
	return other
}

// Run writes at most one entry a second: new findings first, and changes after half a minute.
func TestWrites(t *testing.T) {
	b := newBench(t)
	for n := range 3 {
		b.refuse(n, "proof_replayed", 1)
	}
	for want := 1; want <= 3; want++ {
		if wait := b.Run(ctx); wait != writeInterval || len(b.stored()) != want {
			t.Fatalf("after %d runs, %d are stored, and the next is in %s", want, len(b.stored()), wait)
		}
		if b.Run(ctx); len(b.stored()) != want {
			t.Fatal("two writes within a second")
		}
		b.refuse(0, "proof_replayed", 1) // a change gives way to new findings
		b.pass(time.Second)
	}
	wait := b.Run(ctx)
	if wait < writeDelay-4*time.Second || wait > writeDelay {
		t.Errorf("the change waits for %s", wait)
	}
	b.pass(wait)
	b.Run(ctx)
	next := b.after()
	if got, want := fmt.Sprintf("%+v", next.found("")), fmt.Sprintf("%+v", b.found("")); got != want {
		t.Errorf("after a restart:\n%s\nwant\n%s", got, want)
	}
	if next.Run(ctx); next.writes.next.After(next.now) {
		t.Error("a process writes what it has read")
	}
}

// A failed write is retried, and neither logged nor responded to twice.
func TestFailedWrite(t *testing.T) {
	b := newBench(t)
	var log bytes.Buffer
	b.Log = func() hclog.Logger { return hclog.New(&hclog.LoggerOptions{Output: &log}) }
	b.set(Change{Modes: map[Rule]Mode{ProofFailed: Revoke}})
	b.Storage.(*logical.InmemStorage).Underlying().FailPut(true)
	b.refuse(1, "proof_replayed", 1)
	for range 3 {
		if wait := b.Run(ctx); wait != retryDelay {
			t.Fatalf("the next run is in %s", wait)
		}
		b.pass(retryDelay)
	}
	b.Storage.(*logical.InmemStorage).Underlying().FailPut(false)
	b.Run(ctx)
	if len(b.stored()) != 1 || len(b.revoked) != 1 {
		t.Errorf("%d are stored, %d revoked", len(b.stored()), len(b.revoked))
	}
	if text := log.String(); strings.Count(text, "misuse of a token found") != 1 || strings.Count(text, "finding not stored, retried") != 1 ||
		!strings.Contains(text, idOf(1).String()) {
		t.Errorf("logged:\n%s", text)
	}
}

// A revocation that fails is retried until it is done.
func TestFailedRevocation(t *testing.T) {
	b := newBench(t)
	b.set(Change{Modes: map[Rule]Mode{ProofFailed: Revoke}})
	b.fails = errors.New("sealed")
	b.refuse(1, "proof_replayed", 1)
	b.Run(ctx)
	if f := b.found(""); f[0].Response != Failed {
		t.Errorf("the response is %q", f[0].Response)
	}
	b.fails = nil
	for range 40 {
		b.pass(time.Second)
		b.Run(ctx)
	}
	if f := b.after().found(""); f[0].Response != Revoked || len(b.revoked) != 1 || b.revoked[0] != idOf(1) {
		t.Errorf("the response is %q, revoked were %v", f[0].Response, b.revoked)
	}
}

// A revocation that the role asks for, and that failed, is repeated in the next process. A mode that a role cannot have, as a
// later version may have stored, counts as none.
func TestFailedRevocationByRole(t *testing.T) {
	b := newBench(t)
	b.set(Change{Modes: map[Rule]Mode{RefusedBurst: Suspend}})
	role := map[Rule]Mode{ProofFailed: Revoke, RefusedBurst: "quarantine"}
	b.RoleMode = func(name string, r Rule) (Mode, bool) {
		mode, known := role[r]
		return mode, known && name == "r"
	}
	b.fails = errors.New("sealed")
	b.refuse(1, "proof_replayed", 1)
	b.Run(ctx)
	if f := b.found(""); f[0].Response != Failed {
		t.Errorf("the response is %q", f[0].Response)
	}
	b.pass(2 * time.Second)
	b.Run(ctx)
	next := b.after()
	next.RoleMode = b.RoleMode
	next.refuse(2, access.InsufficientScope, 20)
	for range 80 {
		next.pass(time.Second)
		next.Run(ctx)
	}
	if f := next.found(ProofFailed); f[0].Response != Revoked || len(next.revoked) != 1 || next.revoked[0] != idOf(1) {
		t.Errorf("the response is %q, revoked were %v", f[0].Response, next.revoked)
	}
	if f := next.found(RefusedBurst); len(f) != 1 || f[0].Response != Suspended {
		t.Errorf("found %v", f)
	}
}

// A change of a role or of the settings applies to a response that this process repeats.
func TestFailedResponseFollowsTheMode(t *testing.T) {
	for mode, want := range map[Mode]string{On: Failed, Suspend: Suspended, Revoke: Revoked} {
		for _, byRole := range []bool{true, false} {
			b := newBench(t)
			b.set(Change{Modes: map[Rule]Mode{ProofFailed: Revoke}})
			own := Revoke
			b.RoleMode = func(string, Rule) (Mode, bool) { return own, byRole }
			b.fails = errors.New("sealed")
			b.refuse(1, "proof_replayed", 1)
			b.Run(ctx)
			if f := b.found(""); f[0].Response != Failed {
				t.Errorf("the response is %q", f[0].Response)
			}
			if own = mode; !byRole {
				b.set(Change{Modes: map[Rule]Mode{ProofFailed: mode}})
			}
			b.fails = nil
			for range 80 {
				b.pass(time.Second)
				b.Run(ctx)
			}
			if f := b.found(""); f[0].Response != want {
				t.Errorf("%s, by role %v: the response is %q, want %q", mode, byRole, f[0].Response, want)
			}
		}
	}
}

// The findings are bounded: a storm drops what matters least, and costs sorting at most once a minute.
func TestStorm(t *testing.T) {
	b := newBench(t)
	b.refuse(0, "proof_replayed", 1)
	acknowledged := b.found("")[0].ID
	if err := b.Acknowledge(ctx, b.Storage, acknowledged, "a test", "ann"); err != nil {
		t.Fatal(err)
	}
	b.pass(time.Second)
	b.Foreign(ip(berlin)) // of a lower severity
	for n := range 2 * maxFindings {
		b.refuse(n+1, "proof_replayed", 1)
	}
	if n := len(b.found("")); n > maxFindings || n < maxFindings-maxFindings/16 {
		t.Errorf("%d findings are kept", n)
	}
	if _, kept := b.Get(acknowledged); kept {
		t.Error("an acknowledged finding was kept before open ones")
	}
	if len(b.found(WrongEnvironment)) != 0 {
		t.Error("a finding of a lower severity was kept before others")
	}
	if b.findings.left == 0 {
		t.Error("nothing was left out within a minute")
	}
	b.pass(2 * time.Second)
	for range maxFindings + 10 { // one for each finding, and the deletions
		b.pass(time.Second)
		b.Run(ctx)
	}
	if slices.Contains(b.stored(), acknowledged) {
		t.Error("a dropped finding is still stored")
	}
	b.pass(keepFor + time.Hour)
	b.Prune(b.now)
	if n := len(b.found("")); n != 0 {
		t.Errorf("%d old findings are kept", n)
	}
}

// The tables of addresses and baselines are bounded.
func TestTablesAreBounded(t *testing.T) {
	b := newBench(t)
	for i := range maxAddresses + 1000 {
		b.Unknown(ip(fmt.Sprintf("10.%d.%d.1", i>>8, i&255)), 1, 1)
	}
	if n := len(b.addresses.byAddr); n != maxAddresses {
		t.Errorf("%d addresses are kept", n)
	}
	b.pass(25 * time.Hour)
	b.Prune(b.now)
	if n := len(b.addresses.byAddr); n != 0 || b.addresses.count.Load() != 0 {
		t.Errorf("%d old addresses are kept", n)
	}
	for i := range maxBaselines + 1000 {
		b.baselines.of("r", fmt.Sprint(i), 1)
	}
	if n := len(b.baselines.byKey); n != maxBaselines {
		t.Errorf("%d baselines are kept", n)
	}
}

// A broken finding costs only itself; a finding that another process has changed is merged.
func TestStoredFindings(t *testing.T) {
	b := newBench(t)
	b.refuse(1, "proof_replayed", 1)
	b.Run(ctx)
	good := b.stored()[0]
	other := b.after()
	other.refuse(1, "proof_replayed", 5)
	if err := other.Acknowledge(ctx, other.Storage, good, "a test", "ann"); err != nil {
		t.Fatal(err)
	}
	b.refuse(1, "proof_replayed", 1)
	if err := b.Reload(ctx, b.Storage, findingsPrefix+good, b.now); err != nil {
		t.Fatal(err)
	}
	if f, _ := b.Get(good); f.Count != 6 || f.State != Acknowledged || f.Note != "a test" {
		t.Errorf("merged: %+v", f)
	}
	for _, value := range []string{"noise", "", "null", "{}", `{"id": "` + good + `", "rule": "shared", "state": "open"}`,
		`{"id": "00000000000000000000000a", "rule": "x", "state": "open"}`} {
		key := findingsPrefix + "00000000000000000000000a"
		if err := b.Storage.Put(ctx, &logical.StorageEntry{Key: key, Value: []byte(value)}); err != nil {
			t.Fatal(err)
		}
		next := b.after()
		if list := next.found(""); len(list) != 1 || next.Damaged()[key] == nil || len(next.Damaged()) != 1 {
			t.Errorf("%s: %+v, damaged %v", value, list, next.Damaged())
		}
		if err := next.DropDamaged(ctx, next.Storage, key); err != nil || len(next.Damaged()) != 0 || len(next.stored()) != 1 {
			t.Errorf("%s: not deleted: %v", value, err)
		}
	}
	if err := b.Storage.Delete(ctx, findingsPrefix+good); err != nil {
		t.Fatal(err)
	}
	next := b.after()
	if err := next.Reload(ctx, next.Storage, findingsPrefix+good, b.now); err != nil || len(next.found("")) != 0 {
		t.Errorf("a deleted finding is still there: %v", err)
	}
}

// A stored finding stays far below the limit of an entry.
func TestFindingSize(t *testing.T) {
	b := newBench(t)
	for i := range 6 {
		b.use(1, fmt.Sprintf("2001:db8:%d::1", i))
	}
	id := b.found(Shared)[0].ID
	if err := b.Acknowledge(ctx, b.Storage, id, strings.Repeat("x", MaxNote), "ann"); err != nil {
		t.Fatal(err)
	}
	entry, err := b.Storage.Get(ctx, findingsPrefix+id)
	if err != nil || len(entry.Value) > 4<<10 {
		t.Errorf("%d bytes: %v", len(entry.Value), err)
	}
}

// A response that failed is repeated while new findings flood in, and the new findings do not wait for many responses either.
func TestRepeatedResponseInAFlood(t *testing.T) {
	b := newBench(t)
	b.set(Change{Modes: map[Rule]Mode{ProofFailed: Revoke}})
	b.fails = errors.New("storage is sealed")
	const failing = 40 // more than can be repeated within the delay of a response
	for i := range failing {
		b.refuse(i, "proof_replayed", 1)
		b.Run(ctx)
		b.pass(time.Second)
	}
	stored := len(b.stored())
	b.fails = nil
	for i := range 4 * failing {
		b.pass(time.Second)
		for n := range 3 {
			b.refuse(1000+3*i+n, access.InsufficientScope, 20)
		}
		b.Run(ctx)
	}
	if n := len(b.revoked); n != failing {
		t.Errorf("%d of %d responses were repeated", n, failing)
	}
	if fresh := len(b.stored()) - stored; fresh < failing/2 {
		t.Errorf("%d new findings were stored", fresh)
	}
}

// Everything at once: with the race detector.
func TestConcurrentUse(t *testing.T) {
	b := newBench(t)
	var wait sync.WaitGroup
	for worker := range 4 {
		wait.Go(func() {
			var before Before
			for i := range 2000 {
				addr := ip(fmt.Sprintf("10.%d.%d.1", worker, i%200))
				b.Saw(idOf(worker), new(Token), &before, &Seen{
					Uses: 1, At: start, Address: addr, Region: []string{"DE", "FR"}[i%2], Refusals: []Refusals{{Reason: "proof_replayed", Count: 1}},
				})
				b.Unknown(addr, uint32(i), 1)
				before = Before{At: seconds(start), Address: addr}
			}
		})
	}
	wait.Go(func() {
		for range 100 {
			for _, f := range b.found("") {
				_ = f.Advice("apitoken/")
				_ = b.Acknowledge(ctx, b.Storage, f.ID, "a test", "ann")
			}
			b.Run(ctx)
			b.Prune(start)
			b.set(Change{Numbers: map[string]int64{"shared_addresses": 4}})
		}
	})
	wait.Wait()
	if n := len(b.found(ProofFailed)); n != 4 {
		t.Errorf("%d findings of 4 tokens", n)
	}
}

// A token that cannot be suspended is not tried again. A suspension is done once, with the finding in the note.
func TestSuspension(t *testing.T) {
	b := newBench(t)
	b.set(Change{Modes: map[Rule]Mode{ProofFailed: Suspend}})
	b.fails = refusal.New("a token of another service")
	b.refuse(1, "proof_replayed", 1)
	for range 3 {
		b.Run(ctx)
		b.pass(time.Minute)
	}
	if f := b.found(""); f[0].Response != Refused || len(b.suspended) != 0 {
		t.Errorf("the response is %q, %v", f[0].Response, b.suspended)
	}
	b.fails = nil
	b.refuse(2, "proof_replayed", 1)
	for range 3 {
		b.Run(ctx)
		b.pass(time.Minute)
	}
	for _, f := range b.after().found("") {
		if f.TokenID == idOf(2).String() && (f.Response != Suspended || len(b.suspended) != 1 || !strings.Contains(b.suspended[0], f.ID)) {
			t.Errorf("the response is %q, notes %q", f.Response, b.suspended)
		}
	}
}

package native

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// clock is one that a test sets.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func newClock() *clock { return &clock{at: time.Unix(1_767_225_600, 0)} }

func loadSealing(t *testing.T, s logical.Storage, c *clock) *Sealing {
	t.Helper()
	k, err := LoadSealing(context.Background(), s, c.now)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// seal makes a token that lives for lifetime.
func seal(t *testing.T, s logical.Storage, k *Sealing, lifetime time.Duration) (text string) {
	t.Helper()
	if err := k.Seal(context.Background(), s, 1, lifetime, func(ring *token.Ring) (err error) {
		text, err = mint(ring)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return text
}

var lastID struct {
	sync.Mutex
	token.ID
}

func mint(ring *token.Ring) (string, error) {
	lastID.Lock()
	lastID.ID[0]++
	id := lastID.ID
	lastID.Unlock()
	return token.Mint(ring, "apt", &token.Claims{ID: id, Grant: id, IssuedAt: time.Unix(0, 0), ExpiresAt: time.Unix(1, 0)})
}

func opens(k *Sealing, text string) bool {
	_, err := token.Open(k.Ring(), text)
	return err == nil
}

var errBroken = errors.New("the storage is broken")

// crashing fails each write from the n-th on, and may have applied it.
type crashing struct {
	logical.InmemStorage
	left    int
	applied bool
}

func (s *crashing) Put(ctx context.Context, e *logical.StorageEntry) error {
	return s.write(func() error { return s.InmemStorage.Put(ctx, e) })
}

func (s *crashing) Delete(ctx context.Context, key string) error {
	return s.write(func() error { return s.InmemStorage.Delete(ctx, key) })
}

func (s *crashing) write(f func() error) error {
	s.left--
	switch {
	case s.left > 0:
		return f()
	case s.left == 0 && s.applied:
		return errors.Join(f(), errBroken)
	}
	return errBroken
}

// Wherever a change of a ring is cut short, the next process finds a ring that opens what it must, makes what it
// must, and has nothing of a destroyed key.
func TestRingsSurviveACrash(t *testing.T) {
	ctx := context.Background()
	policy := SigningPolicy{Algorithm: "EdDSA", Period: time.Hour, MaxAge: time.Minute}
	sign := func(s logical.Storage, k *Signing, lifetime time.Duration) error {
		return k.Sign(ctx, s, policy.Algorithm, lifetime, func(ring *token.SigningRing) error {
			_, err := ring.Sign(token.TypeStatusList, []byte("{}"))
			return err
		})
	}
	for _, applied := range []bool{false, true} {
		for n := 1; n <= 12; n++ {
			c, s := newClock(), &crashing{left: 1000, applied: applied}
			sealing := loadSealing(t, s, c)
			signing, err := LoadSigning(ctx, s, c.now)
			if err != nil {
				t.Fatal(err)
			}
			text := seal(t, s, sealing, 3*time.Hour)
			if err := sign(s, signing, time.Hour); err != nil {
				t.Fatal(err)
			}
			sealed, signed := sealing.Keys().Current().Name, signing.Keys().Current().Name
			c.pass(2 * time.Hour)
			s.left = n
			_ = sealing.Rotate(ctx, s)
			_, _ = sealing.Maintain(ctx, s, time.Hour)
			_, _ = signing.Maintain(ctx, s, policy)
			errSealing := sealing.Destroy(ctx, s, sealed)
			_, errSigning := signing.Destroy(ctx, s, signed, policy)

			s.left = 1000
			sealing = loadSealing(t, s, c)
			if signing, err = LoadSigning(ctx, s, c.now); err != nil {
				t.Fatal(err)
			}
			if key := sealing.Keys().Find(sealed); key == nil || key.Destroyed == opens(sealing, text) {
				t.Errorf("%d writes, %v: key %+v", n, applied, key)
			} else if errSealing == nil && !key.Destroyed {
				t.Errorf("%d writes, %v: destroyed, and lives on", n, applied)
			}
			if key := signing.Keys().Find(signed); key == nil || (errSigning == nil && !key.Destroyed) {
				t.Errorf("%d writes, %v: key %+v", n, applied, key)
			}
			if !opens(sealing, seal(t, s, sealing, time.Hour)) {
				t.Errorf("%d writes, %v: a new token does not open", n, applied)
			}
			if err := sign(s, signing, time.Hour); err != nil {
				t.Errorf("%d writes, %v: %v", n, applied, err)
			}
			for range 2 {
				if _, err := sealing.Maintain(ctx, s, time.Hour); err != nil {
					t.Error(err)
				}
				if _, err := signing.Maintain(ctx, s, policy); err != nil {
					t.Error(err)
				}
			}
			if signing.Keys().Successor() == nil {
				t.Errorf("%d writes, %v: no successor is published", n, applied)
			}
			for ring, name := range map[*keyring[*token.Ring]]string{sealing.keyring: sealed} {
				entry, err := s.Get(ctx, ring.prefix+name)
				if key := ring.Keys().Find(name); err != nil || key.Destroyed && entry != nil {
					t.Errorf("%d writes, %v: the secret of a destroyed key is stored", n, applied)
				}
			}
		}
	}
}

// Many processes that do not know of each other change one ring: each token that any of them has made opens for as
// long as it lives, wherever.
func TestManyProcesses(t *testing.T) {
	ctx, c, s := context.Background(), newClock(), new(logical.InmemStorage)
	var processes []*Sealing
	for range 4 {
		processes = append(processes, loadSealing(t, s, c))
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	lives := make(map[string]time.Time)
	for round := range 12 {
		for i, k := range processes {
			wg.Go(func() {
				lifetime := time.Duration((round+i)%5+1) * 20 * time.Minute
				text := seal(t, s, k, lifetime)
				mu.Lock()
				lives[text] = c.now().Add(lifetime)
				mu.Unlock()
				if (round+i)%3 == 0 {
					if err := k.Rotate(ctx, s); err != nil {
						t.Error(err)
					}
				}
				if _, err := k.Maintain(ctx, s, time.Hour); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		c.pass(5 * time.Minute)
		fresh := loadSealing(t, s, c)
		for text, end := range lives {
			if c.now().Before(end) && !opens(fresh, text) {
				t.Fatalf("round %d: a token that lives until %s does not open", round, end)
			}
		}
	}
	c.pass(3 * time.Hour)
	last := processes[0]
	for range 2 {
		if _, err := last.Maintain(ctx, s, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	if kept := slices.DeleteFunc(slices.Clone(last.Keys()), func(k token.Key) bool { return k.Secret == nil }); len(kept) > 2 {
		t.Errorf("%d keys are kept", len(kept))
	}
}

// What a process notes of a key is not lost where another one writes over it.
func TestLongestLifetimeIsMerged(t *testing.T) {
	ctx, c, s := context.Background(), newClock(), new(logical.InmemStorage)
	a := loadSealing(t, s, c)
	seal(t, s, a, time.Hour)
	name := a.Keys().Current().Name
	b := loadSealing(t, s, c)
	before, err := s.Get(ctx, a.prefix+name)
	if err != nil {
		t.Fatal(err)
	}
	seal(t, s, a, 9*time.Hour)
	if err := s.Put(ctx, before); err != nil { // of a process that had read it before
		t.Fatal(err)
	}
	seal(t, s, b, 2*time.Hour)
	if _, err := a.Maintain(ctx, s, 24*time.Hour); err != nil {
		t.Fatal(err)
	}
	if lifetime := loadSealing(t, s, c).Keys().Find(name).LongestLifetime; lifetime != 9*time.Hour {
		t.Error(lifetime)
	}
}

// A process with a slower clock rotates, too: the key that it makes is used.
func TestRotationByASlowerClock(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	fast, slow := newClock(), newClock()
	fast.pass(5 * time.Minute)
	a := loadSealing(t, s, fast)
	seal(t, s, a, time.Hour)
	b := loadSealing(t, s, slow)
	before := b.Keys().Current().Name
	if err := b.Rotate(ctx, s); err != nil {
		t.Fatal(err)
	}
	if b.Keys().Current().Name == before || loadSealing(t, s, fast).Keys().Current().Name == before {
		t.Error("the old key is still the current one")
	}
}

// The keys that 768 live signing keys take are each a small entry, and load in a time that a start can take.
func TestManySigningKeys(t *testing.T) {
	ctx, c, s := context.Background(), newClock(), new(logical.InmemStorage)
	k, err := LoadSigning(ctx, s, c.now)
	if err != nil {
		t.Fatal(err)
	}
	k.mu.Lock()
	for i := range 768 {
		key, err := token.NewSigningKey("ES256", c.now())
		if err != nil {
			t.Fatal(err)
		}
		key.UsedFrom, key.LongestLifetime = c.now().Add(time.Duration(i)*time.Second), 1000*time.Hour
		if err := writeKey(ctx, s, k.prefix, &key); err != nil {
			t.Fatal(err)
		}
	}
	k.mu.Unlock()
	begun := time.Now()
	if k, err = LoadSigning(ctx, s, c.now); err != nil || len(k.Ring().PublicKeys().Keys) != 768 {
		t.Error(len(k.Keys()), err)
	}
	t.Logf("loaded in %s", time.Since(begun))
	policy := SigningPolicy{Algorithm: "ES256", Period: time.Hour, MaxAge: time.Minute}
	for range 2 { // the first one publishes a successor
		if _, err := k.Maintain(ctx, s, policy); err != nil {
			t.Error(err)
		}
	}
	ring := k.Ring()
	if _, err := k.Maintain(ctx, s, policy); err != nil || k.Ring() != ring {
		t.Error("made anew with nothing changed", err)
	}
}

// What somebody else wrote is read again alone.
func TestReload(t *testing.T) {
	ctx, c, s := context.Background(), newClock(), new(logical.InmemStorage)
	a, b := loadSealing(t, s, c), loadSealing(t, s, c)
	text := seal(t, s, a, time.Hour)
	name := a.Keys().Current().Name
	for _, key := range []string{a.prefix + name, a.destroyed + name} {
		if !strings.HasPrefix(key, SealingPrefix) {
			t.Errorf("%s is not owned", key)
		}
	}
	if err := b.Reload(ctx, s, a.prefix+name); err != nil || !opens(b, text) {
		t.Error("a key that was told of is not known", err)
	}
	if err := a.Destroy(ctx, s, name); err != nil {
		t.Fatal(err)
	}
	if err := b.Reload(ctx, s, a.destroyed+name); err != nil || opens(b, text) {
		t.Error("a destroyed key opens", err)
	}
}

func BenchmarkReadKeys(b *testing.B) {
	for _, algorithm := range token.Algorithms {
		b.Run(algorithm, func(b *testing.B) {
			key, err := token.NewSigningKey(algorithm, time.Now())
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if n := len(token.NewSigningRing([]token.Key{key}).PublicKeys().Keys); n != 1 {
					b.Fatal(fmt.Sprint(n))
				}
			}
		})
	}
}

// A longest lifetime that was overwritten is repaired, whichever read notices it.
func TestAnOverwrittenLifetimeIsRepaired(t *testing.T) {
	for _, c := range []struct {
		name    string
		retired time.Duration // before the overwriting
		notice  func(k *Sealing, s logical.Storage, name string) error
	}{
		{"Reload of a settled key", time.Hour, func(k *Sealing, s logical.Storage, name string) error {
			return k.Reload(t.Context(), s, SealingPrefix+"/"+name)
		}},
		{"Rotate, and the key settles before tidy", clockSkew - 30*time.Second, func(k *Sealing, s logical.Storage, _ string) error { return k.Rotate(t.Context(), s) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, clk := new(logical.InmemStorage), newClock()
			k := loadSealing(t, s, clk)
			text := seal(t, s, k, 10*24*time.Hour)
			name := k.Keys().Current().Name
			clk.pass(time.Second)
			if err := k.Rotate(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			clk.pass(c.retired)
			stored, err := readKey(t.Context(), s, k.prefix, name)
			if err != nil {
				t.Fatal(err)
			}
			stored.LongestLifetime = time.Minute
			if err := writeKey(t.Context(), s, k.prefix, stored); err != nil {
				t.Fatal(err)
			}
			if err := c.notice(k, s, name); err != nil {
				t.Fatal(err)
			}
			if len(k.overwritten) != 1 {
				t.Fatal("not noticed")
			}
			clk.pass(time.Minute)
			if _, err := k.Maintain(t.Context(), s, 1000*time.Hour); err != nil {
				t.Fatal(err)
			}
			if stored, _ = readKey(t.Context(), s, k.prefix, name); stored.LongestLifetime < 10*24*time.Hour {
				t.Errorf("storage still has %s", stored.LongestLifetime)
			}
			clk.pass(time.Hour)
			k = loadSealing(t, s, clk)
			if _, err := k.Maintain(t.Context(), s, 1000*time.Hour); err != nil {
				t.Fatal(err)
			}
			if !opens(k, text) {
				t.Error("a live token is dead after a restart: its key's secret was dropped")
			}
		})
	}
}

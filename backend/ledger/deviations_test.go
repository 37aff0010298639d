package ledger

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

var (
	now      = time.Unix(1_767_225_600, 0)
	inAnHour = now.Add(time.Hour)
)

// id makes ids that spread over pages.
func id(n int) token.ID {
	var id token.ID
	binary.BigEndian.PutUint64(id[:], uint64(n)*0x9e3779b97f4a7c15)
	id[11] = 1
	return id
}

func loadDeviations(t *testing.T, s logical.Storage) *Deviations {
	t.Helper()
	return deviationsOf(t, s, NewWriter())
}

// deviationsOf loads the deviations in another process.
func deviationsOf(t *testing.T, s logical.Storage, writer string) *Deviations {
	t.Helper()
	d := NewDeviations(writer)
	if err := d.Load(context.Background(), s, now); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestRevoke(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	d := loadDeviations(t, s)
	if _, known := d.Get(id(1)); known {
		t.Error("a token deviates that nothing has happened to")
	}
	for range 2 { // revoking twice is revoking once
		if err := d.Revoke(ctx, s, id(1), token.StatusRef{}, inAnHour, now); err != nil {
			t.Fatal(err)
		}
	}
	want := Deviation{ExpiresAt: inAnHour.Unix(), KeepUntil: inAnHour.Unix(), Revoked: true, Revision: 1}
	for name, d := range map[string]*Deviations{"in memory": d, "after a restart": loadDeviations(t, s)} {
		if got, _ := d.Get(id(1)); got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
		if _, err := d.Renew(ctx, s, id(1), inAnHour, now.Add(2*time.Hour), 0, now); !errors.Is(err, ErrRevoked) {
			t.Errorf("%s: a revoked token was renewed: %v", name, err)
		}
		if n := d.Len(); n != 1 {
			t.Errorf("%s: %d deviations", name, n)
		}
	}
}

func TestRenew(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	d := loadDeviations(t, s)
	for i, step := range []struct {
		end  time.Duration
		keep time.Duration
	}{
		{2 * time.Hour, 2 * time.Hour},
		{3 * time.Hour, 3 * time.Hour},
		{10 * time.Minute, 3 * time.Hour}, // shorter than the token says itself: kept as long as it was
	} {
		if _, err := d.Renew(ctx, s, id(1), inAnHour, now.Add(step.end), 0, now); err != nil {
			t.Fatal(err)
		}
		want := Deviation{ExpiresAt: now.Add(step.end).Unix(), KeepUntil: now.Add(step.keep).Unix(), Revision: uint32(i + 1)}
		if got, _ := loadDeviations(t, s).Get(id(1)); got != want {
			t.Errorf("renewed to %s: %+v, want %+v", step.end, got, want)
		}
	}
	// A renewal that changes nothing writes nothing. Only what the token says itself can make it remembered longer.
	for _, step := range []struct {
		own, end time.Duration
		revision uint32
	}{
		{time.Hour, time.Hour, 1}, {time.Hour, time.Hour, 1}, {time.Hour + time.Second, time.Hour, 2},
	} {
		if _, err := d.Renew(ctx, s, id(2), now.Add(step.own), now.Add(step.end), 0, now); err != nil {
			t.Fatal(err)
		}
		if got, _ := d.Get(id(2)); got.Revision != step.revision || got.KeepUntil != now.Add(step.own).Unix() {
			t.Errorf("%+v: %+v", step, got)
		}
	}
	// A revocation is remembered for as long as anything could make the token look good again.
	if err := d.Revoke(ctx, s, id(1), token.StatusRef{}, inAnHour, now); err != nil {
		t.Fatal(err)
	}
	if got, _ := d.Get(id(1)); !got.Revoked || got.KeepUntil != now.Add(3*time.Hour).Unix() {
		t.Errorf("%+v", got)
	}
}

// The listener learns of each revocation and of each earlier end, whichever process made it.
func TestOnTightened(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	d, other := loadDeviations(t, s), loadDeviations(t, s)
	type told struct {
		id    token.ID
		until time.Time
	}
	var heard []told
	d.OnTightened(func(id token.ID, until time.Time) {
		if _, known := d.Get(id); !known {
			t.Error("it is told before memory shows it")
		}
		heard = append(heard, told{id, until})
	})
	later := now.Add(3 * time.Hour)
	renew := func(d *Deviations, n int, end time.Time) func() error {
		return func() error { _, err := d.Renew(ctx, s, id(n), inAnHour, end, 0, now); return err }
	}
	revoke := func(d *Deviations, n int) func() error {
		return func() error { return d.Revoke(ctx, s, id(n), token.StatusRef{}, inAnHour, now) }
	}
	for _, step := range []struct {
		what string
		do   func() error
		want []told
	}{
		{"a renewal", renew(d, 1, later), nil},
		{"a shortening renewal", renew(d, 1, now.Add(time.Minute)), []told{{id(1), later}}},
		{"a first renewal that shortens", renew(d, 2, now.Add(time.Minute)), []told{{id(2), inAnHour}}},
		{"a revocation of a renewed token", revoke(d, 1), []told{{id(1), later}}},
		{"a second revocation", revoke(d, 1), nil},
		{"a revocation", revoke(d, 3), []told{{id(3), inAnHour}}},
		{"a revocation by another process", revoke(other, 4), nil},
		{"a renewal by another process", renew(other, 5, later), nil},
		{"reading what another process wrote", func() error { return d.Load(ctx, s, now) }, []told{{id(4), inAnHour}}},
		{"reading it again", func() error { return d.Load(ctx, s, now) }, nil},
		{"a revocation that storage refuses", func() error {
			refused := &failing{Storage: s}
			if d.Revoke(ctx, refused, id(6), token.StatusRef{}, inAnHour, now) == nil {
				return errors.New("no error")
			}
			return nil
		}, nil},
	} {
		heard = nil
		if err := step.do(); err != nil {
			t.Fatal(step.what, err)
		}
		if !slices.Equal(heard, step.want) {
			t.Errorf("%s: %v, want %v", step.what, heard, step.want)
		}
	}
}

func TestPruneDropsOnlyWhatHasRunOut(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	d := loadDeviations(t, s)
	const n = 200
	for i := range n {
		if err := d.Revoke(ctx, s, id(i), token.StatusRef{}, now.Add(time.Duration(1+i%2)*time.Hour), now); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		at   time.Time
		left int
	}{{inAnHour.Add(ClockSkew - time.Second), n}, {inAnHour.Add(ClockSkew), n / 2}, {now.Add(2*time.Hour + ClockSkew), 0}} {
		if err := d.Prune(ctx, s, c.at); err != nil {
			t.Fatal(err)
		}
		if got, stored := d.Len(), loadDeviations(t, s).Len(); got != c.left || stored != c.left {
			t.Errorf("%d left, %d stored, want %d", got, stored, c.left)
		}
	}
	if keys, err := logical.CollectKeys(ctx, s); err != nil || len(keys) > 0 {
		t.Errorf("storage still holds %q, %v", keys, err)
	}
}

func TestAFailedWriteIsNotSeen(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	d := loadDeviations(t, s)
	if _, err := d.Renew(ctx, s, id(1), inAnHour, now.Add(2*time.Hour), 0, now); err != nil {
		t.Fatal(err)
	}
	before, _ := d.Get(id(1))

	s.Underlying().FailPut(true)
	if err := d.Revoke(ctx, s, id(1), token.StatusRef{}, inAnHour, now); err == nil {
		t.Error("no error")
	}
	if after, _ := d.Get(id(1)); after != before {
		t.Errorf("%+v is seen and not stored", after)
	}
	s.Underlying().FailPut(false)
	if err := d.Revoke(ctx, s, id(1), token.StatusRef{}, inAnHour, now); err != nil {
		t.Fatal(err)
	}
	if after, _ := loadDeviations(t, s).Get(id(1)); !after.Revoked {
		t.Error("the second try has not revoked")
	}

	s.Underlying().FailDelete(true)
	if err := d.Prune(ctx, s, now.Add(5*time.Hour)); err == nil {
		t.Error("no error of a failed deletion")
	}
	if d.Len() != 1 {
		t.Error("what storage still has is gone from memory")
	}
}

func TestReload(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	standby, active := loadDeviations(t, s), loadDeviations(t, s)
	if err := active.Revoke(ctx, s, id(1), token.StatusRef{}, inAnHour, now); err != nil {
		t.Fatal(err)
	}
	if err := standby.Reload(ctx, s, DeviationsPrefix+active.own(id(1), 1), now); err != nil {
		t.Fatal(err)
	}
	if got, _ := standby.Get(id(1)); !got.Revoked {
		t.Error("the revocation of another node is not seen")
	}
	for _, key := range []string{"", "config", DeviationsPrefix, DeviationsPrefix + "100", DeviationsPrefix + "xyz-0123456789abcdef", DeviationsPrefix + "0a-0123456789abcdef",
		DeviationsPrefix + "00000-0123456789abcdef", DeviationsPrefix + "000-0123456789ABCDEF", DeviationsPrefix + "000-"} {
		if err := standby.Reload(ctx, s, key, now); err == nil {
			t.Errorf("%q was taken for a page", key)
		}
	}
}

// What a damaged page said is not known of its ids, and of no others.
func TestDamagedPage(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	key := DeviationsPrefix + "001-0123456789abcdef"
	if err := s.Put(ctx, &logical.StorageEntry{Key: key, Value: []byte("damaged")}); err != nil {
		t.Fatal(err)
	}
	d := loadDeviations(t, s)
	on, beside := token.ID{0x00, 0x1f}, token.ID{0x00, 0x2f}
	if err := d.Unreadable(on); err == nil || !strings.Contains(err.Error(), key) || d.Damaged()[key] == nil {
		t.Errorf("of a token on the page: %v", err)
	}
	if err := d.Unreadable(beside); err != nil {
		t.Errorf("of a token on another: %v", err)
	}
	if err := d.Revoke(ctx, s, on, token.StatusRef{}, inAnHour, now); err != nil {
		t.Error(err)
	}
	if got, _ := loadDeviations(t, s).Get(on); !got.Revoked {
		t.Error("a revocation beside a damaged page is lost")
	}
	if err := d.Revoke(ctx, s, token.ID{0x00, 0x0f}, token.StatusRef{}, inAnHour, now); err != nil { // on the page before
		t.Error(err)
	}
	if err := d.Prune(ctx, s, inAnHour.Add(-time.Minute)); err != nil || d.Unreadable(on) == nil {
		t.Errorf("the damaged page goes by itself: %v", err)
	}
	s.Underlying().FailDelete(true)
	if err := d.DropDamaged(ctx, s, key); err == nil || d.Unreadable(on) == nil {
		t.Errorf("nobody is told that the damaged page is still there: %v", err)
	}
	s.Underlying().FailDelete(false)
	if err := d.DropDamaged(ctx, s, key); err != nil || d.Unreadable(on) != nil || len(loadDeviations(t, s).Damaged()) != 0 {
		t.Errorf("the damaged page is still there: %v", err)
	}
}

func TestDeviationsConcurrently(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	d := loadDeviations(t, s)
	var wg sync.WaitGroup
	const workers, each = 8, 50
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				same, own := id(i%3), id(1000+w*each+i)
				if _, err := d.Renew(ctx, s, same, inAnHour, now.Add(time.Duration(i)*time.Minute), 0, now); err != nil {
					t.Error(err)
				}
				if err := d.Revoke(ctx, s, own, token.StatusRef{}, inAnHour, now); err != nil {
					t.Error(err)
				}
				d.Get(own)
			}
			if err := d.Prune(ctx, s, now); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got, stored := d.Len(), loadDeviations(t, s).Len(); got != 3+workers*each || stored != got {
		t.Errorf("%d deviations, %d stored", got, stored)
	}
}

// A process that does not know of a renewal takes a revoked token for ended while it would be live by the renewal.
// The revocation is dropped neither when that process prunes, nor when all is read again.
func TestARevocationOutlivesARenewalThatItsWriterDoesNotKnow(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	renewing, revoking := loadDeviations(t, s), loadDeviations(t, s)
	id, other := samePage(1), samePage(2)
	if _, err := renewing.Renew(ctx, s, id, inAnHour, now.Add(24*time.Hour), 0, now); err != nil {
		t.Fatal(err)
	}
	for _, id := range []token.ID{id, other} {
		if err := revoking.Revoke(ctx, s, id, token.StatusRef{}, inAnHour, now); err != nil {
			t.Fatal(err)
		}
	}
	later := inAnHour.Add(time.Hour)
	next := func() *Deviations {
		d := NewDeviations(NewWriter())
		if err := d.Load(ctx, s, later); err != nil {
			t.Fatal(err)
		}
		return d
	}
	check := func(when string, d *Deviations) {
		t.Helper()
		if d, _ := d.Get(id); !d.Revoked {
			t.Errorf("%s: the revocation is forgotten", when)
		}
		if _, known := d.Get(other); known {
			t.Errorf("%s: what has run out is remembered", when)
		}
	}
	check("read anew", next())
	if err := revoking.Prune(ctx, s, later); err != nil {
		t.Fatal(err)
	}
	check("pruned", revoking)
	check("read after pruning", next())
	d := next()
	if err := d.Prune(ctx, s, later); err != nil {
		t.Fatal(err)
	}
	check("pruned by a third", d)
	check("read after that", next())
}

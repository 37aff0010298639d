package insight

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/fxamacker/cbor/v2"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// disk is storage that counts and times what is written.
type disk struct {
	logical.InmemStorage
	mu     sync.Mutex
	broken bool
	writes []time.Time
	most   int // size of the largest entry
}

var errBroken = errors.New("the storage is broken")

func (d *disk) note(size int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.writes = append(d.writes, time.Now())
	d.most = max(d.most, size)
	if d.broken {
		return errBroken
	}
	return nil
}

func (d *disk) fail(broken bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.broken = broken
}

func (d *disk) Put(ctx context.Context, e *logical.StorageEntry) error {
	if err := d.note(len(e.Value)); err != nil {
		return err
	}
	return d.InmemStorage.Put(ctx, e)
}

func (d *disk) Delete(ctx context.Context, key string) error {
	if err := d.note(0); err != nil {
		return err
	}
	return d.InmemStorage.Delete(ctx, key)
}

func (d *disk) names(t *testing.T) []string {
	t.Helper()
	names, err := d.List(context.Background(), Prefix)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func (d *disk) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.writes)
}

// checkPace checks that no two writes are within a second.
func (d *disk) checkPace(t *testing.T) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := 1; i < len(d.writes); i++ {
		if pause := d.writes[i].Sub(d.writes[i-1]); pause < time.Second {
			t.Fatalf("write %d came %s after the one before", i, pause)
		}
	}
}

func id(n int) (id token.ID) {
	binary.BigEndian.PutUint64(id[:], uint64(n)*0x9e3779b97f4a7c15)
	binary.BigEndian.PutUint32(id[8:], uint32(n))
	return id
}

var never = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)

// detector is a Detector of which nothing is stored.
func detector() *detect.Detector {
	return detect.New(detect.Config{
		Storage: new(logical.InmemStorage), Now: time.Now, Log: hclog.NewNullLogger,
		Place:  func(netip.Addr) detect.Place { return detect.Place{} },
		Holder: func(token.ID) (detect.Holder, bool) { return detect.Holder{}, false },
	})
}

// process is a Usage of a process of its own, which knows every token until never.
func process(t testing.TB, d logical.Storage, writer int) *Usage {
	t.Helper()
	u := New(Config{
		Detect:  detector(),
		Storage: d, Now: time.Now, Log: hclog.NewNullLogger, Writer: fmt.Sprintf("%016x", writer),
		End: func(token.ID) (time.Time, bool) { return never, true },
	})
	if err := u.Load(context.Background(), d, time.Now()); err != nil {
		t.Fatal(err)
	}
	return u
}

func running(t testing.TB, d logical.Storage, writer int) *Usage {
	t.Helper()
	u := process(t, d, writer)
	u.Start(u.Run)
	t.Cleanup(u.Close)
	return u
}

func get(t testing.TB, u *Usage, id token.ID) Record {
	t.Helper()
	r, err := u.Get(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func use(u *Usage, n int) { u.Introspected(id(n), never, never, &access.Use{}, access.Good) }

func TestCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := process(t, new(disk), 1)
		begin := time.Now()
		u.Introspected(id(1), never, never, &access.Use{ClientIP: netip.MustParseAddr("192.0.2.1"), Scopes: []string{"b:read", "a:read"}}, access.Good)
		time.Sleep(time.Minute)
		u.Introspected(id(1), never, never, &access.Use{ClientIP: netip.MustParseAddr("2001:db8::1"), Scopes: []string{"b:read"}}, access.Good)
		time.Sleep(time.Minute)
		u.Introspected(id(1), never, never, &access.Use{ClientIP: netip.MustParseAddr("192.0.2.9")}, access.InsufficientScope)
		u.Introspected(id(1), never, never, &access.Use{}, access.HostNotAllowed)
		u.Introspected(id(1), never, never, &access.Use{}, access.HostNotAllowed)
		r := get(t, u, id(1))
		want := Record{
			Uses: 2, FirstUse: begin, LastUse: begin.Add(time.Minute), Address: netip.MustParseAddr("2001:db8::1"),
			Refusals: map[access.Reason]uint32{access.InsufficientScope: 1, access.HostNotAllowed: 2}, Scopes: []string{"a:read", "b:read"},
		}
		if fmt.Sprint(r) != fmt.Sprint(want) && (!r.FirstUse.Equal(want.FirstUse) || !r.LastUse.Equal(want.LastUse) || r.Uses != 2) {
			t.Errorf("got  %+v\nwant %+v", r, want)
		}
		if r.Address != want.Address || !slices.Equal(r.Scopes, want.Scopes) || r.MoreScopes || fmt.Sprint(r.Refusals) != fmt.Sprint(want.Refusals) {
			t.Errorf("got  %+v\nwant %+v", r, want)
		}
		if last, used := u.LastUse(id(1)); !used || !last.Equal(want.LastUse) {
			t.Errorf("last used at %s, %t", last, used)
		}
		if _, used := u.LastUse(id(2)); used {
			t.Error("a token that nobody has used was used")
		}
		u.Introspected(id(3), never, never, &access.Use{}, access.Revoked)
		if _, used := u.LastUse(id(3)); used {
			t.Error("a token was used whose only use was refused")
		}
	})
}

// Each reason for which introspection refuses an opened token has its place, and the places do not move.
func TestReasons(t *testing.T) {
	for i, r := range []access.Reason{
		access.Expired, access.Revoked, access.RoleDeleted, access.SubjectDisabled, access.WrongAudience, access.InsufficientScope,
		access.AddressNotAllowed, access.HostNotAllowed, "region_not_allowed", "proof_required", "proof_invalid", "proof_replayed", "use_dpop_nonce", "rate_limited",
		access.Suspended,
	} {
		if reasonNumber(r) != i {
			t.Errorf("reason %s has place %d, and is stored at %d", r, reasonNumber(r), i)
		}
	}
}

func TestSaturation(t *testing.T) {
	u := process(t, new(disk), 1)
	for range 3 {
		u.add(id(1), never, &Seen{Uses: math.MaxUint64 / 2, At: time.Now(), Refusals: []Refusals{{Reason: access.Revoked, Count: math.MaxUint32 / 2}}})
	}
	if r := get(t, u, id(1)); r.Uses != math.MaxUint64 || r.Refusals[access.Revoked] != math.MaxUint32 {
		t.Errorf("got %+v", r)
	}
}

func TestScopesAreBounded(t *testing.T) {
	u := process(t, new(disk), 1)
	for i := range 100 {
		u.Introspected(id(1), never, never, &access.Use{Scopes: []string{fmt.Sprintf("s%02d:read", i)}}, access.Good)
	}
	if r := get(t, u, id(1)); len(r.Scopes) != maxScopes || !r.MoreScopes {
		t.Errorf("%d scopes are kept, more: %t", len(r.Scopes), r.MoreScopes)
	}
	if len(u.scopes.sets) != 1 {
		t.Errorf("%d sets are kept of one token", len(u.scopes.sets))
	}
	long := strings.Repeat("x", 120)
	for i := range 10_000 {
		var scopes []string
		for j := range 16 {
			scopes = append(scopes, fmt.Sprintf("%s:%d:%d", long, i, j))
		}
		u.Introspected(id(i+2), never, never, &access.Use{Scopes: scopes}, access.Good)
	}
	if u.scopes.bytes > maxSetBytes || u.scopes.bytes < maxSetBytes/2 {
		t.Errorf("all sets have %d bytes", u.scopes.bytes)
	}
	if r := get(t, u, id(10_001)); len(r.Scopes) > 0 || !r.MoreScopes || r.Uses != 1 {
		t.Errorf("of a token beyond the bound: %d scopes, more: %t", len(r.Scopes), r.MoreScopes)
	}
	u.Prune(never, func(token.ID, time.Time) bool { return true })
	if len(u.scopes.sets) != 0 || u.scopes.bytes != 0 {
		t.Errorf("%d sets with %d bytes are left of no token", len(u.scopes.sets), u.scopes.bytes)
	}
}

// A million tokens take at most 300 MB with the state of the rules: each used from one network, or each used from more
// networks than the rules keep.
func TestMemory(t *testing.T) {
	if size := unsafe.Sizeof(entry{}); size > 128 {
		t.Errorf("an entry has %d bytes, want at most 128", size)
	}
	for name, networks := range map[string]int{"one network": 1, "several networks": 8} {
		t.Run(name, func(t *testing.T) {
			const tokens = 200_000
			u := process(t, new(disk), 1)
			if _, err := u.Detect.Change(context.Background(), u.Storage, &detect.Change{Modes: map[detect.Rule]detect.Mode{detect.Shared: detect.Off}}); err != nil {
				t.Fatal(err) // findings are bounded, and not a part of the state of a token
			}
			before := heap()
			for i := range tokens {
				for n := range networks {
					client := netip.AddrFrom4([4]byte{192, 0, byte(n), 1})
					u.Introspected(id(i), never, never, &access.Use{ClientIP: client, Scopes: []string{"invoices:read"}}, access.Good)
				}
			}
			each := (heap() - before) / tokens
			t.Logf("%d bytes for each token", each)
			if each > 300 {
				t.Errorf("a token takes %d bytes, at most 300 are promised", each)
			}
			runtime.KeepAlive(u)
		})
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestUnknownIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := process(t, new(disk), 1)
		guesser := netip.MustParseAddr("198.51.100.7")
		u.Refused(guesser, 0, 500)
		u.Refused(netip.Addr{}, 0, 1)
		for i := range 3 * maxAddresses {
			u.Refused(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 0, 1)
		}
		if n := len(u.unknown.addresses); n > maxAddresses {
			t.Errorf("%d addresses are kept", n)
		}
		if top := u.Unknown(1); len(top) != 1 || top[0].Address != guesser || top[0].Refusals != 500 {
			t.Errorf("the address with the most refusals is %v", top)
		}
		time.Sleep(unknownFor + time.Second)
		u.Refused(netip.MustParseAddr("::ffff:198.51.100.8"), 0, 1)
		u.Prune(time.Now(), func(token.ID, time.Time) bool { return false })
		if left := u.Unknown(10); len(left) != 1 || left[0].Address.String() != "198.51.100.8" {
			t.Errorf("left after a day: %v", left)
		}
	})
}

// What one process has counted, the next one knows, and goes on from.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := new(disk)
		first := running(t, d, 1)
		seen := &Seen{
			Uses: 7, At: time.Now(), Address: netip.MustParseAddr("192.0.2.1"), Region: "DE", Network: 64496,
			Refusals: []Refusals{{Reason: access.HostNotAllowed, Count: 3}}, Scopes: []string{"a:read", "b:read"},
		}
		first.add(id(1), never, seen)
		want := get(t, first, id(1))
		time.Sleep(writeDelay + 2*time.Second)
		first.Close()
		for writer := 2; writer < 5; writer++ {
			next := running(t, d, writer)
			if got := get(t, next, id(1)); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("process %d: got  %+v\nwant %+v", writer, got, want)
			}
			use(next, 1)
			want = get(t, next, id(1))
			if want.Uses != uint64(6+writer) {
				t.Fatalf("process %d counts %d uses", writer, want.Uses)
			}
			time.Sleep(time.Minute)
			next.Prune(time.Now(), func(token.ID, time.Time) bool { return false })
			time.Sleep(time.Minute)
			if names := d.names(t); len(names) != 1 || !strings.HasPrefix(names[0], next.Writer) {
				t.Errorf("process %d leaves %q in storage", writer, names)
			}
			next.Close()
		}
		d.checkPace(t)
	})
}

// At no moment would a crash lose what was stored before: a segment is deleted when its counts are stored elsewhere.
func TestCrashLosesNothingStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const tokens = segmentRows + 100
		d := new(disk)
		first := running(t, d, 1)
		for i := range tokens {
			use(first, i)
		}
		time.Sleep(time.Minute)
		first.Close()
		second := running(t, d, 2)
		second.Prune(time.Now(), func(token.ID, time.Time) bool { return false })
		if second.Len() != tokens {
			t.Fatalf("%d tokens", second.Len())
		}
		for i := range 10 {
			use(second, i)
		}
		time.Sleep(time.Millisecond) // looks are between the writes
		stored := func(seconds int, is func(i int) bool) {
			t.Helper()
			for range seconds {
				time.Sleep(time.Second)
				after := process(t, d, 3)
				for i := range tokens {
					if is(i) && get(t, after, id(i)).Uses == 0 {
						t.Fatalf("%s: token %d is not stored any more; segments %q", time.Now(), i, d.names(t))
					}
				}
			}
		}
		stored(120, func(int) bool { return true })

		// Most tokens end, and those of the full segment that are left move.
		live := func(i int) bool { return i%4 == 0 }
		use(second, 0)
		second.Prune(never, func(one token.ID, _ time.Time) bool { return one[11]%4 != 0 })
		stored(120, live)
		for _, name := range d.names(t) {
			if !strings.HasPrefix(name, second.Writer) {
				t.Errorf("segment %s of the first process is left", name)
			}
		}
		d.checkPace(t)
	})
}

// A process that is replaced and goes on makes no count too high.
func TestReplacedProcess(t *testing.T) {
	t.Run("same token", func(t *testing.T) { testReplacedProcess(t, false) })
	t.Run("another token", func(t *testing.T) { testReplacedProcess(t, true) })
}

func testReplacedProcess(t *testing.T, another bool) {
	synctest.Test(t, func(t *testing.T) {
		d := new(disk)
		old := running(t, d, 1)
		for range 10 {
			use(old, 1)
		}
		time.Sleep(time.Minute)
		next := running(t, d, 2)
		for range 3 {
			use(next, 1)
		}
		for range 5 {
			use(old, 1)
		}
		if another {
			use(old, 2)
		}
		time.Sleep(time.Minute)
		next.Prune(time.Now(), func(token.ID, time.Time) bool { return false })
		time.Sleep(time.Millisecond)
		for range 180 { // the segment of the old process has changed since next read it
			time.Sleep(time.Second)
			if r := get(t, process(t, d, 3), id(1)); r.Uses != 15 {
				t.Fatalf("%s: %d uses are stored; segments %q", time.Now(), r.Uses, d.names(t))
			}
		}
		if r := get(t, process(t, d, 3), id(1)); r.Uses != 15 {
			t.Errorf("of 10 uses, then 5 and 3 at two processes, %d are counted", r.Uses)
		}
		if r := get(t, process(t, d, 3), id(2)); another && r.Uses != 1 {
			t.Errorf("the use at the old process is lost: %d", r.Uses)
		}
	})
}

// Whatever the load is, there is at most one write a second, and everything is stored within a minute.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const tokens = 100_000
		d := new(disk)
		u := running(t, d, 1)
		for round := range 3 {
			for i := range tokens {
				use(u, i)
			}
			time.Sleep(time.Minute)
			after := process(t, d, 100+round)
			if after.Len() != tokens {
				t.Fatalf("%d of %d tokens are stored after a minute", after.Len(), tokens)
			}
			for i := range tokens {
				if r := get(t, after, id(i)); r.Uses != uint64(round+1) {
					t.Fatalf("token %d has %d uses in storage after round %d", i, r.Uses, round)
				}
			}
		}
		d.checkPace(t)
		if d.most > 512<<10 {
			t.Errorf("an entry has %d bytes", d.most)
		}
		t.Logf("%d writes in three minutes, the largest of %d bytes", d.count(), d.most)
		wrote := d.count()
		time.Sleep(time.Hour)
		if more := d.count() - wrote; more != 0 {
			t.Errorf("%d writes in an hour without uses", more)
		}
	})
}

// The largest segment is below the limit of storage.
func TestLargestSegment(t *testing.T) {
	d := new(disk)
	u := process(t, d, 1)
	var all []Refusals
	for _, r := range reasons {
		all = append(all, Refusals{Reason: r, Count: math.MaxUint32})
	}
	for i := range segmentRows {
		seen := &Seen{
			Uses: math.MaxUint64, At: never, Address: netip.MustParseAddr("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"), Region: "DE", Network: math.MaxUint32, Refusals: all,
			Scopes: []string{fmt.Sprintf("%s:%d", strings.Repeat("x", 120), i), strings.Repeat("y", 128)},
		}
		u.add(id(i), never, seen)
	}
	for i := range maxReporters {
		if _, err := u.reporters.begin(fmt.Sprintf("%064d", i), math.MaxInt64, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	u.Flush(context.Background())
	if d.most > 1<<20 || d.most < 512<<10 {
		t.Errorf("the segment has %d bytes", d.most)
	}
	after := process(t, d, 2)
	if r := get(t, after, id(0)); r.Uses != math.MaxUint64 || len(r.Scopes) != 2 {
		t.Errorf("got %+v", r)
	}
	if r := get(t, after, id(segmentRows-1)); r.Uses != math.MaxUint64 || len(r.Scopes) != 0 || !r.MoreScopes {
		t.Errorf("got %+v", r)
	}
}

// A segment that another node has deleted, since it took this process for gone, is written again.
func TestDeletedSegment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := new(disk)
		u := running(t, d, 1)
		use(u, 1)
		time.Sleep(time.Minute)
		if err := d.InmemStorage.Delete(context.Background(), Prefix+d.names(t)[0]); err != nil {
			t.Fatal(err)
		}
		if err := u.Load(context.Background(), d, time.Now()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if r := get(t, process(t, d, 2), id(1)); r.Uses != 1 {
			t.Errorf("%d uses are stored", r.Uses)
		}
	})
}

func TestFailingStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := new(disk)
		u := running(t, d, 1)
		d.fail(true)
		use(u, 1)
		time.Sleep(time.Hour)
		if n := d.count(); n < 100 || n > 400 {
			t.Errorf("%d tries in an hour", n)
		}
		d.fail(false)
		time.Sleep(time.Minute)
		if r := get(t, process(t, d, 2), id(1)); r.Uses != 1 {
			t.Errorf("%d uses are stored when storage works again", r.Uses)
		}
		d.checkPace(t)
	})
}

// Ended tokens leave memory and storage.
func TestEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := new(disk)
		u := running(t, d, 1)
		end := time.Now().Add(time.Hour)
		u.End = func(id token.ID) (time.Time, bool) { return end, id[11]%2 == 0 }
		const tokens = 3 * segmentRows
		for i := range tokens {
			u.Introspected(id(i), end, end, &access.Use{}, access.Good)
		}
		time.Sleep(time.Minute)
		if n := len(d.names(t)); n != 3 {
			t.Fatalf("%d segments", n)
		}
		expired := func(id token.ID, until time.Time) bool {
			if !until.Equal(end) {
				t.Errorf("asked about the end %s", until)
			}
			return id[11] != 0
		}
		u.Prune(time.Now(), expired)
		if u.Len() != tokens {
			t.Fatalf("%d tokens are left before their end", u.Len())
		}
		time.Sleep(time.Hour)
		u.Prune(time.Now(), expired)
		kept := tokens / 256 // were renewed
		if u.Len() != kept {
			t.Errorf("%d tokens are left, want %d", u.Len(), kept)
		}
		time.Sleep(2 * time.Minute)
		if names := d.names(t); len(names) != 1 {
			t.Errorf("segments %q are left", names)
		}
		if after := process(t, d, 2); after.Len() < kept || get(t, after, id(256)).Uses != 1 {
			t.Errorf("%d tokens are stored, want %d", after.Len(), kept)
		}
		u.Prune(time.Now(), func(token.ID, time.Time) bool { return true })
		time.Sleep(2 * time.Minute)
		d.checkPace(t)
	})
}

// A standby reads what the active node has written, when somebody asks.
func TestStandby(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := new(disk)
		active, standby := running(t, d, 1), process(t, d, 2)
		for range 3 {
			use(active, 1)
			time.Sleep(time.Minute)
			for _, name := range d.names(t) {
				if !standby.Invalidate(Prefix + name) {
					t.Error("the key of a segment is not a segment's")
				}
			}
			if got, want := get(t, standby, id(1)).Uses, get(t, active, id(1)).Uses; got != want {
				t.Errorf("the standby shows %d uses, and the active node %d", got, want)
			}
		}
		if standby.Invalidate("config") {
			t.Error("config is a segment")
		}
		name := d.names(t)[0]
		if err := d.InmemStorage.Delete(context.Background(), Prefix+name); err != nil {
			t.Fatal(err)
		}
		standby.Invalidate(Prefix + name)
		if r := get(t, standby, id(1)); r.Uses != 0 || standby.Len() != 0 {
			t.Errorf("after the segment was deleted the standby shows %d uses", r.Uses)
		}
	})
}

// A damaged segment costs only its own rows.
func TestDamage(t *testing.T) {
	ctx := context.Background()
	d := new(disk)
	good, bad := process(t, d, 1), process(t, d, 2)
	use(good, 1)
	use(bad, 2)
	good.Flush(ctx)
	bad.Flush(ctx)
	key := Prefix + bad.Writer + "-0"
	for _, value := range [][]byte{[]byte("noise"), nil, {0x80}, mustMarshal(t, storedSegment{Rows: []storedRow{{ID: id(2), Scopes: 1}}}), mustMarshal(t, storedSegment{Rows: []storedRow{{ID: id(2), Address: []byte{1}}}})} {
		if err := d.Put(ctx, &logical.StorageEntry{Key: key, Value: value}); err != nil {
			t.Fatal(err)
		}
		u := process(t, d, 3)
		if get(t, u, id(1)).Uses != 1 || get(t, u, id(2)).Uses != 0 || u.Len() != 1 {
			t.Errorf("%x: %d tokens are read", value, u.Len())
		}
		if damaged := u.Damaged(); len(damaged) != 1 || damaged[key] == nil {
			t.Errorf("%x: %v is listed", value, damaged)
		}
		if err := u.DropDamaged(ctx, d, Prefix+good.Writer+"-0"); err != nil || len(d.names(t)) != 2 {
			t.Errorf("a good segment was deleted: %v", err)
		}
		if err := u.DropDamaged(ctx, d, key); err != nil || len(u.Damaged()) != 0 || len(d.names(t)) != 1 {
			t.Errorf("the damaged segment was not deleted: %v", err)
		}
	}
}

func mustMarshal(t *testing.T, v any) []byte {
	t.Helper()
	value, err := cbor.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// Everything at once: with the race detector.
func TestConcurrentUse(t *testing.T) {
	d := new(disk)
	u := process(t, d, 1)
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			for i := range 5000 {
				use(u, i%500)
			}
		})
	}
	wait.Go(func() {
		for range 50 {
			u.Flush(context.Background())
			u.nextWriteNow()
			u.Prune(time.Now(), func(token.ID, time.Time) bool { return false })
			_ = u.Load(context.Background(), d, time.Now())
		}
	})
	wait.Wait()
	for range 3 {
		u.nextWriteNow()
		u.Flush(context.Background())
	}
	total := uint64(0)
	after := process(t, d, 2)
	for i := range 500 {
		total += get(t, after, id(i)).Uses
	}
	if total != 20_000 {
		t.Errorf("%d of 20,000 uses are stored", total)
	}
}

func (u *Usage) nextWriteNow() {
	u.writing.Lock()
	defer u.writing.Unlock()
	u.nextWrite = time.Time{}
}

func BenchmarkIntrospected(b *testing.B) {
	u := process(b, new(disk), 1)
	one := &access.Use{ClientIP: netip.MustParseAddr("192.0.2.1"), Scopes: []string{"invoices:read"}}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			u.Introspected(id(i%1000), never, never, one, access.Good)
		}
	})
}

func BenchmarkLoad(b *testing.B) {
	const tokens = 1_000_000
	d := new(disk)
	u := process(b, d, 1)
	one := &access.Use{ClientIP: netip.MustParseAddr("192.0.2.1"), Scopes: []string{"invoices:read"}}
	for i := range tokens {
		u.Introspected(id(i), never, never, one, access.Good)
	}
	for range tokens/segmentRows + 1 {
		u.nextWriteNow()
		u.Flush(context.Background())
	}
	b.ResetTimer()
	for b.Loop() {
		if n := process(b, d, 2).Len(); n != tokens {
			b.Fatalf("%d tokens", n)
		}
	}
}

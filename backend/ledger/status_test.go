package ledger

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

func loadStatus(t *testing.T, s logical.Storage) *StatusIndexes {
	t.Helper()
	x := NewStatusIndexes()
	if err := x.Load(context.Background(), s, now); err != nil {
		t.Fatal(err)
	}
	return x
}

var roleA, roleB = token.RoleID{0xa}, token.RoleID{0xb}

// next hands out a place that nobody had before.
func next(t *testing.T, x *StatusIndexes, s logical.Storage, role token.RoleID, at time.Time, seen map[token.StatusRef]token.RoleID) token.StatusRef {
	t.Helper()
	ref, err := x.Next(context.Background(), s, role, at)
	if err != nil {
		t.Fatal(err)
	}
	if _, again := seen[ref]; again || ref.List == 0 || ref.List >= 1<<31 || ref.Index >= ListSize {
		t.Fatalf("%+v was handed out", ref)
	}
	seen[ref] = role
	return ref
}

func TestPlacesAreHandedOutOnce(t *testing.T) {
	ctx, s := context.Background(), &failing{Storage: new(logical.InmemStorage), after: 1 << 30}
	seen := make(map[token.StatusRef]token.RoleID)
	one, other := loadStatus(t, s), loadStatus(t, s) // which do not know of each other
	ordered := 0
	last := token.StatusRef{}
	for range 3 * blockSize {
		s.after = 2 // one write for a block of each at most
		ref := next(t, one, s, roleA, now, seen)
		next(t, other, s, roleA, now, seen)
		if ref.Index > last.Index {
			ordered++
		}
		last = ref
	}
	if share := float64(ordered) / (3 * blockSize); share < 0.4 || share > 0.6 {
		t.Errorf("%.0f %% of the places come after the one before: they can be foretold", 100*share)
	}
	if lists := loadStatus(t, s).Lists(); len(lists) != 2 {
		t.Errorf("lists %v", lists)
	}
	s.after = 0
	if _, err := loadStatus(t, s).Next(ctx, s, roleA, now); err == nil {
		t.Error("a place of a block that is not stored")
	}
}

// crowded is storage that has an entry of each of the first three keys that are read.
type crowded struct {
	logical.Storage
	keys []string
}

func (c *crowded) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	if len(c.keys) < 3 {
		c.keys = append(c.keys, key)
		return &logical.StorageEntry{Key: key}, nil
	}
	return c.Storage.Get(ctx, key)
}

// A new list never gets the number of a stored list.
func TestNewListHasAnUnusedNumber(t *testing.T) {
	s := &crowded{Storage: new(logical.InmemStorage)}
	ref := next(t, loadStatus(t, s), s, roleA, now, make(map[token.StatusRef]token.RoleID))
	if len(s.keys) != 3 || slices.Contains(s.keys, statusKey(ref.List)) {
		t.Errorf("list %d, although %q are stored", ref.List, s.keys)
	}
}

// A list that is full is followed by another; no entry comes near 1 MiB.
func TestFullList(t *testing.T) {
	s := &measuring{Storage: new(logical.InmemStorage)}
	x := loadStatus(t, s)
	seen := make(map[token.StatusRef]token.RoleID)
	lists := make(map[uint32]int)
	for n := range blockCount + 1 {
		lists[next(t, x, s, token.RoleID{byte(n), byte(n >> 8)}, now, seen).List]++
	}
	if len(lists) != 2 || s.largest > 1<<16 {
		t.Errorf("%v, the largest entry has %d bytes", lists, s.largest)
	}
}

// The places of a role are those of its blocks, and only those, regardless of the writer that took them.
func TestPlacesOfARole(t *testing.T) {
	s := new(logical.InmemStorage)
	seen := make(map[token.StatusRef]token.RoleID)
	for range 3 {
		x := loadStatus(t, s)
		for range blockSize + 10 {
			next(t, x, s, roleA, now, seen)
			next(t, x, s, roleB, now, seen)
		}
	}
	x := loadStatus(t, s)
	places := make(map[uint32][]uint32)
	for _, list := range x.Lists() {
		places[list] = x.PlacesOf(list, func(role token.RoleID) bool { return role == roleA })
		slices.Sort(places[list])
	}
	for ref, role := range seen {
		if _, found := slices.BinarySearch(places[ref.List], ref.Index); found != (role == roleA) {
			t.Fatalf("%+v of role %s: found %v", ref, role, found)
		}
	}
}

// A block is handed out for a day, and its list is there until the last token must have expired.
func TestListsThatAreOver(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	seen := make(map[token.StatusRef]token.RoleID)
	x := loadStatus(t, s)
	first := next(t, x, s, roleA, now, seen)
	if ref := next(t, x, s, roleA, now.Add(blockLife-time.Second), seen); ref.Index/blockSize != first.Index/blockSize {
		t.Error("another block before the first was used for a day")
	}
	if ref := next(t, x, s, roleA, now.Add(blockLife), seen); ref.List != first.List || ref.Index/blockSize == first.Index/blockSize {
		t.Errorf("%+v after %+v", ref, first)
	}
	stale := loadStatus(t, s)
	next(t, x, s, roleA, now.Add(5*blockLife/2), seen)
	end := now.Add(5*blockLife/2 + blockLife + time.Hour + ClockSkew)
	for _, step := range []struct {
		at   time.Time
		want bool
	}{{end.Add(-time.Second), true}, {end, false}} {
		for _, x := range []*StatusIndexes{stale, x} {
			if err := x.Prune(ctx, s, time.Hour, step.at); err != nil || x.Has(first.List) != step.want {
				t.Errorf("%s: there %v, %v", step.at, x.Has(first.List), err)
			}
		}
	}
	next(t, x, s, roleA, end, seen)
}

// Prune keeps the blocks whose places are still handed out, and drops the others.
func TestPruneOfBlocks(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	x := loadStatus(t, s)
	next(t, x, s, roleA, now, make(map[token.StatusRef]token.RoleID))
	for _, step := range []struct {
		after time.Duration
		want  int
	}{{blockLife - time.Second, 1}, {blockLife, 0}} {
		if err := x.Prune(ctx, s, time.Hour, now.Add(step.after)); err != nil || len(x.free) != step.want {
			t.Errorf("after %s: %d blocks, %v", step.after, len(x.free), err)
		}
	}
}

func TestReloadOfAList(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	seen := make(map[token.StatusRef]token.RoleID)
	active, standby := loadStatus(t, s), loadStatus(t, s)
	ref := next(t, active, s, roleA, now, seen)
	if err := standby.Reload(ctx, s, statusKey(ref.List), now); err != nil || !standby.Has(ref.List) {
		t.Error("the list of another node is not seen", err)
	}
	if err := active.Prune(ctx, s, 0, now.Add(100*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := standby.Load(ctx, s, now); err != nil || standby.Has(ref.List) {
		t.Error("a list that is gone is still seen", err)
	}
	for _, name := range []string{"7", "x"} {
		if err := s.Put(ctx, &logical.StorageEntry{Key: StatusPrefix + name, Value: []byte("damaged")}); err != nil {
			t.Fatal(err)
		}
	}
	if x := loadStatus(t, s); x.Has(7) || len(x.Damaged()) != 2 {
		t.Errorf("damaged: %v", x.Damaged())
	}
}

// A process that fills a list reads the lists of others, but never its own: a damaged entry does not take it away.
func TestReloadBesideAnOwnList(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	seen := make(map[token.StatusRef]token.RoleID)
	x, other := loadStatus(t, s), loadStatus(t, s)
	own, theirs := next(t, x, s, roleA, now, seen).List, next(t, other, s, roleA, now, seen).List
	if err := s.Put(ctx, &logical.StorageEntry{Key: statusKey(own), Value: []byte("damaged")}); err != nil {
		t.Fatal(err)
	}
	if err := x.Load(ctx, s, now); err != nil || !x.Has(own) || !x.Has(theirs) {
		t.Errorf("own list %v, the other %v, %v", x.Has(own), x.Has(theirs), err)
	}
}

// Find reads a list that another process has begun. Find needs no storage for a list that memory has.
func TestFind(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	active, standby := loadStatus(t, s), loadStatus(t, s)
	begun := next(t, active, s, roleA, now, make(map[token.StatusRef]token.RoleID)).List
	absent := begun ^ 1
	for _, step := range []struct {
		list         uint32
		down         bool
		found, fails bool
	}{
		{list: begun, down: true, fails: true},
		{list: begun, found: true},
		{list: begun, down: true, found: true},
		{list: absent},
	} {
		s.Underlying().FailGet(step.down)
		if found, err := standby.Find(ctx, s, step.list, now); found != step.found || (err != nil) != step.fails {
			t.Errorf("%+v: found %v, %v", step, found, err)
		}
	}
}

func TestDeletedRoles(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	load := func() *DeletedRoles {
		d := NewDeletedRoles()
		if err := d.Load(ctx, s, now); err != nil {
			t.Fatal(err)
		}
		return d
	}
	d, standby := load(), load()
	before := d.Revision()
	if err := d.Add(ctx, s, roleA, inAnHour); err != nil {
		t.Fatal(err)
	}
	if d.Revision() == before {
		t.Error("the lists that show it are not made anew")
	}
	before = standby.Revision()
	if err := standby.Reload(ctx, s, DeletedRolesPrefix+roleA.String(), now); err != nil || standby.Revision() == before {
		t.Error(err)
	}
	for name, d := range map[string]*DeletedRoles{"in memory": d, "after a restart": load(), "on a standby": standby} {
		if !d.Has(roleA) || d.Has(roleB) {
			t.Errorf("%s: %v", name, d.until)
		}
	}
	if err := d.Prune(ctx, s, inAnHour.Add(ClockSkew-time.Second)); err != nil || !load().Has(roleA) {
		t.Error("forgotten too early", err)
	}
	for name, d := range map[string]*DeletedRoles{"in memory": d, "on a standby": standby} {
		if err := d.Prune(ctx, s, inAnHour.Add(ClockSkew)); err != nil || d.Has(roleA) || load().Has(roleA) {
			t.Errorf("%s: still remembered: %v", name, err)
		}
	}
	for _, role := range []token.RoleID{roleA, roleB} {
		if err := d.Add(ctx, s, role, inAnHour); err != nil {
			t.Fatal(err)
		}
	}
	if d := load(); !d.Has(roleA) || !d.Has(roleB) {
		t.Errorf("after a restart: %v", d.until)
	}
}

// A role whose entry cannot be read was deleted nevertheless. Nobody knows for how long its tokens live.
func TestDamagedDeletedRole(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	for _, name := range []string{roleA.String(), "noise"} {
		if err := s.Put(ctx, &logical.StorageEntry{Key: DeletedRolesPrefix + name, Value: []byte("noise")}); err != nil {
			t.Fatal(err)
		}
	}
	d := NewDeletedRoles()
	if err := d.Load(ctx, s, now); err != nil || len(d.Damaged()) != 2 {
		t.Errorf("%v, %v", err, d.Damaged())
	}
	const year = 365 * 24 * time.Hour
	if err := d.Prune(ctx, s, now.Add(9*year)); err != nil || !d.Has(roleA) {
		t.Error("forgotten too early", err)
	}
	if err := d.Prune(ctx, s, now.Add(11*year)); err != nil || d.Has(roleA) {
		t.Error("still remembered", err)
	}
}

func TestRevokedIn(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	d := loadDeviations(t, s)
	first, second := d.Revision(1), d.Revision(2)
	if err := d.Revoke(ctx, s, id(1), token.StatusRef{}, inAnHour, now); err != nil {
		t.Fatal(err)
	}
	if d.Revision(1) != first {
		t.Error("a revocation that no list shows makes lists anew")
	}
	if err := d.Revoke(ctx, s, id(2), token.StatusRef{List: 1, Index: 7}, inAnHour, now); err != nil {
		t.Fatal(err)
	}
	if d.Revision(1) == first || d.Revision(2) != second {
		t.Error("the list that shows it is not made anew, or another one is")
	}
	if err := d.Revoke(ctx, s, id(3), token.StatusRef{List: 2, Index: 8}, inAnHour, now); err != nil {
		t.Fatal(err)
	}
	for _, d := range []*Deviations{d, loadDeviations(t, s)} {
		if got := d.RevokedIn(1); len(got) != 1 || got[0] != 7 {
			t.Errorf("revoked in list 1: %v", got)
		}
	}
	before := d.Revision(1)
	if err := d.Load(ctx, s, now); err != nil || d.Revision(1) == before {
		t.Error("lists are not made anew when all is read again", err)
	}
	if d.Revision(1) == first {
		t.Error("a revision comes back")
	}
}

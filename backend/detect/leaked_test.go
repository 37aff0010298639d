package detect

import (
	"slices"
	"testing"
	"time"
)

// A finding of a leaked token keeps who reported the token and where it was found, also in storage.
func TestLeaked(t *testing.T) {
	b := newBench(t)
	b.Leaked(&Leak{Grant: idOf(1), Role: "r", Subject: "ann", URL: "https://example.com/x#L5", Source: "content", Client: sydney + ":443"})
	b.Leaked(&Leak{Grant: idOf(2)})
	for range 2 {
		b.Run(ctx)
		b.pass(time.Minute)
	}
	for _, b := range []*bench{b, b.after()} {
		list := b.found(Leaked)
		if len(list) != 2 {
			t.Fatalf("found %+v", list)
		}
		i := slices.IndexFunc(list, func(f Finding) bool { return f.TokenID == idOf(1).String() })
		seen := list[i].Evidence[0].Members()
		if seen["url"] != "https://example.com/x#L5" || seen["source"] != "content" || seen["address"] != sydney || list[i].Response != Revoked {
			t.Errorf("finding %+v, evidence %v", list[i], seen)
		}
	}
	if len(b.revoked) > 0 {
		t.Error("the grant is revoked once more")
	}
	if modes := Leaked.Modes(); slices.Contains(modes, Revoke) || !slices.Contains(modes, Off) {
		t.Errorf("modes %q", modes)
	}
}

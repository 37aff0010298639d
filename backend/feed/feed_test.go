package feed

import (
	"fmt"
	"testing"
)

func ids(events []Event) (all string) {
	for _, e := range events {
		all += e.ID + " "
	}
	return all
}

func TestAfter(t *testing.T) {
	f := New()
	start := f.Position()
	for i := range 5 {
		f.Add(Event{Kind: Grant, ID: fmt.Sprint(i)})
	}
	events, next, more, known := f.After(start, 3)
	if ids(events) != "0 1 2 " || next.Cursor != 3 || !more || !known {
		t.Error(events, next, more, known)
	}
	events, next, more, known = f.After(next, 3)
	if ids(events) != "3 4 " || next != f.Position() || more || !known {
		t.Error(events, next, more, known)
	}
	if events, again, more, known := f.After(next, 3); events != nil || again != next || more || !known {
		t.Error(events, again, more, known)
	}
}

// A verifier that is too far behind, of another epoch, or ahead resyncs from the end of the feed.
func TestAfterUnknown(t *testing.T) {
	f := New()
	start := f.Position()
	for range Capacity {
		f.Add(Event{})
	}
	if events, _, _, known := f.After(start, Capacity); len(events) != Capacity || !known {
		t.Error(len(events), known)
	}
	f.Add(Event{ID: "last"})
	for _, p := range []Position{start, {}, {Epoch: start.Epoch, Cursor: Capacity + 2}, New().Position()} {
		if events, next, more, known := f.After(p, 10); events != nil || next != f.Position() || more || known {
			t.Error(p, len(events), next, more, known)
		}
	}
	if events, _, _, known := f.After(Position{start.Epoch, Capacity}, 10); ids(events) != "last " || !known {
		t.Error(events, known)
	}
	before := f.Position()
	f.Restart()
	if _, next, _, known := f.After(before, 10); known || next.Cursor != 0 || next.Epoch == before.Epoch {
		t.Error(next, known)
	}
}

// A copy knows what the other feed knows from where the copy began, and resyncs whoever is behind.
func TestFollow(t *testing.T) {
	f := New()
	f.Add(Event{ID: "own"})
	from := Position{"another", 7}
	f.Follow(from)
	if f.Position() != from {
		t.Error(f.Position())
	}
	for i := range Capacity + 1 {
		f.Add(Event{ID: fmt.Sprint(i)})
	}
	if _, _, _, known := f.After(from, 1); known {
		t.Error("an event that was dropped counts as known")
	}
	if events, next, _, known := f.After(Position{"another", 8}, 2); ids(events) != "1 2 " || next.Cursor != 10 || !known {
		t.Error(ids(events), next, known)
	}
	if events, next, more, known := f.After(Position{"another", 7 + Capacity}, 2); ids(events) != fmt.Sprint(Capacity, " ") || next != f.Position() || more || !known {
		t.Error(ids(events), next, more, known)
	}
	if _, _, _, known := f.After(Position{"another", 6}, 1); known {
		t.Error("what happened before the copy counts as known")
	}
}

package static

import (
	"testing"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
)

var newYear = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC) // a Tuesday

// A token lives for a day longer than until its rotation and the overlap; where a window may be missed, until the next.
func TestHorizon(t *testing.T) {
	const day = 24 * time.Hour
	for _, c := range []struct {
		entry     Entry
		next, end time.Duration // from now
	}{
		{Entry{Period: time.Hour}, time.Hour, time.Hour + day},
		{Entry{Period: time.Hour, Overlap: time.Minute}, time.Hour, time.Hour + time.Minute + day},
		{Entry{Schedule: "0 3 * * SAT"}, 4*day + 3*time.Hour, 4*day + 3*time.Hour + day},
		{Entry{Schedule: "0 3 * * SAT", Window: 2 * time.Hour}, 4*day + 3*time.Hour, 11*day + 5*time.Hour + day},
	} {
		next, end, err := c.entry.horizon(newYear)
		if err != nil || next.Sub(newYear) != c.next || end.Sub(newYear) != c.end {
			t.Errorf("%+v: next %s, end %s, %v", c.entry, next.Sub(newYear), end.Sub(newYear), err)
		}
	}
}

// A token that expires by itself is replaced while it still works for the overlap, and not before half of its life.
func TestLast(t *testing.T) {
	for _, c := range []struct{ life, overlap, last time.Duration }{
		{100 * time.Hour, 0, 76 * time.Hour},
		{100 * time.Hour, 10 * time.Hour, 66 * time.Hour},
		{time.Hour, 0, 45 * time.Minute},
		{time.Hour, 10 * time.Minute, 35 * time.Minute},
		{time.Hour, time.Hour, 30 * time.Minute},
	} {
		e := &Entry{Overlap: c.overlap, Current: Token{Minted: role.Minted{ExpiresAt: newYear.Add(c.life)}, RotatedAt: newYear}}
		if last := e.last().Sub(newYear); last != c.last {
			t.Errorf("a life of %s, an overlap of %s: %s, not %s", c.life, c.overlap, last, c.last)
		}
	}
}

func TestReschedule(t *testing.T) {
	old := &Entry{
		Period: 24 * time.Hour, Next: newYear.Add(24 * time.Hour),
		Current: Token{Minted: role.Minted{ExpiresAt: newYear.Add(49 * time.Hour)}, RotatedAt: newYear},
	}
	now := newYear.Add(2 * time.Hour)
	for name, c := range map[string]struct {
		change func(*Entry)
		next   time.Duration // from newYear
	}{
		"nothing":            {func(*Entry) {}, 24 * time.Hour},
		"a description":      {func(e *Entry) { e.Description = "x" }, 24 * time.Hour},
		"a shorter period":   {func(e *Entry) { e.Period = time.Hour }, time.Hour},
		"too long a period":  {func(e *Entry) { e.Period = 1000 * time.Hour }, 49*time.Hour - 49*time.Hour/4},
		"another entity":     {func(e *Entry) { e.EntityID = "ann" }, 2 * time.Hour},
		"a schedule instead": {func(e *Entry) { e.Period, e.Schedule = 0, "0 1 * * *" }, 25 * time.Hour},
	} {
		e := *old
		c.change(&e)
		if err := e.reschedule(old, now); err != nil || e.Next.Sub(newYear) != c.next {
			t.Errorf("%s: %s, not %s, %v", name, e.Next.Sub(newYear), c.next, err)
		}
	}
}

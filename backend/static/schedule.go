package static

import (
	"time"

	"github.com/hashicorp/vault/sdk/rotation"
)

// margin is the lifetime of a token beyond its rotation, for a rotation that needs several tries.
const margin = 24 * time.Hour

// after returns the first rotation after a time.
func (e *Entry) after(t time.Time) (time.Time, error) {
	if e.Schedule == "" {
		return t.Add(e.Period), nil
	}
	schedule, err := new(rotation.DefaultSchedule).Parse(e.Schedule)
	if err != nil {
		return time.Time{}, err
	}
	return schedule.Next(t), nil
}

// between returns the time between the next two rotations.
func (e *Entry) between(now time.Time) (time.Duration, error) {
	first, err := e.after(now)
	if err != nil {
		return 0, err
	}
	second, err := e.after(first)
	return second.Sub(first), err
}

// horizon returns the next rotation, and the earliest expiry of the next token. With a window, one rotation may be missed.
func (e *Entry) horizon(now time.Time) (next, end time.Time, err error) {
	if next, err = e.after(now); err != nil {
		return next, end, err
	}
	end = next
	if e.Window > 0 {
		if end, err = e.after(next); err != nil {
			return next, end, err
		}
	}
	return next, end.Add(e.Window + e.Overlap + margin), nil
}

// last returns the latest time to replace the current token: the token must work for the overlap after the rotation, and a
// rotation may need several tries. A token with too short a lifetime for both is replaced after half of its lifetime.
func (e *Entry) last() time.Time {
	life := e.Current.ExpiresAt.Sub(e.Current.RotatedAt)
	last := e.Current.ExpiresAt.Add(-e.Overlap - min(margin, life/4))
	if half := e.Current.RotatedAt.Add(life / 2); last.Before(half) {
		return half
	}
	return last
}

// hasten moves the next rotation to an earlier time, if the current token expires too soon.
func (e *Entry) hasten() {
	if last := e.last(); last.Before(e.Next) {
		e.Next = last
	}
}

// reschedule plans the next rotation after a change of old. No change extends the current token.
func (e *Entry) reschedule(old *Entry, now time.Time) error {
	if e.Period != old.Period || e.Schedule != old.Schedule {
		next, err := e.after(e.countsFrom(now))
		if err != nil {
			return err
		}
		e.Next = next
	}
	e.hasten()
	if e.EntityID != old.EntityID {
		e.Next = now // the current token is for another entity
	}
	return nil
}

// countsFrom returns the time from which the next rotation counts.
func (e *Entry) countsFrom(now time.Time) time.Time {
	if e.Schedule != "" {
		return now
	}
	return e.Current.RotatedAt
}

// hastened reports whether the next rotation is at least a minute before the requested rotation, since the current token
// expires too soon.
func (e *Entry) hastened(now time.Time) (bool, error) {
	if !e.Next.Equal(e.last()) {
		return false, nil
	}
	asked, err := e.after(e.countsFrom(now))
	return asked.Sub(e.Next) >= time.Minute, err
}

package mount

import (
	"sync"
	"time"
)

// restOfCount is the pause between two counts, as a multiple of the time that a count takes.
const restOfCount = 20

// counted is a value that takes long to count on a large mount. At most a twentieth of the time is spent on counting.
type counted[T any] struct {
	mu    sync.Mutex
	value T
	at    time.Time // when the last count began; zero: not counted yet
	again time.Time // when to count again
}

// get returns the value, as of at most restOfCount times as long ago as a count takes. count must read the clock only by now.
func (c *counted[T]) get(now func() time.Time, count func() T) T {
	c.mu.Lock()
	defer c.mu.Unlock()
	began := now()
	if !c.at.IsZero() && began.Before(c.again) && !began.Before(c.at) {
		return c.value
	}
	c.value, c.at = count(), began
	ended := now()
	c.again = ended.Add(restOfCount * ended.Sub(began))
	return c.value
}

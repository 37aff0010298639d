package static

import "time"

// Stats returns the number of static roles whose last rotation failed, and how long the rotation of the most overdue static
// role has been due.
func (k *Keeper) Stats() (failing int, overdue time.Duration) {
	k.mu.Lock()
	failing = len(k.failing)
	k.mu.Unlock()
	st := k.mount.Loaded()
	if st == nil {
		return failing, 0
	}
	now := k.now()
	for _, e := range st.Entries.All() {
		overdue = max(overdue, now.Sub(e.Next))
	}
	return failing, overdue
}

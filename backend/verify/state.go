package verify

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

func (v *impl) state() State {
	now := v.config.Now()
	s := State{
		Keys: len(*v.keys.known.Load()), Fetched: v.keys.reads.Load(), Asked: v.asked.Load(), Limited: v.limited.Load(),
		Tokens: v.tokens.EstimatedSize(), Unknown: v.refusals.EstimatedSize(), Revoked: v.events.revoked(), Reporter: v.usage.name,
	}
	if v.vault != nil {
		epoch, end := v.events.where()
		s.Epoch, s.Cursor = epoch, end.cursor
		s.FeedAt = time.Unix(0, v.events.polled.Load())
		s.FeedAge = now.Sub(s.FeedAt)
		if v.feedIsOut(now) {
			s.Problems = append(s.Problems, fmt.Sprintf(
				"the feed was last read %s ago: opaque tokens are asked about again after %s", s.FeedAge.Round(time.Second), outMaxAge))
		}
	}
	if v.issuer.get() != "" {
		s.KeysAt = time.Unix(0, v.keys.readAt.Load())
		s.KeysAge = now.Sub(s.KeysAt)
		if s.KeysAge > maxKeysAge {
			s.Problems = append(s.Problems, fmt.Sprintf(
				"the keys of JWTs were last read %s ago: JWTs are refused", s.KeysAge.Round(time.Second)))
		}
	}
	for _, l := range v.lists.all() {
		list := ListState{URI: l.uri}
		if b := l.bits.Load(); b != nil {
			list.ReadAt, list.ExpiresAt = b.readAt, time.Unix(b.expires, 0)
		}
		if !now.Before(list.ExpiresAt) {
			s.Problems = append(s.Problems, "the status list "+l.uri+" has expired: its tokens are refused")
		}
		s.Lists = append(s.Lists, list)
	}
	slices.SortFunc(s.Lists, func(a, b ListState) int { return strings.Compare(a.URI, b.URI) })
	s.Ready = len(s.Problems) == 0
	return s
}

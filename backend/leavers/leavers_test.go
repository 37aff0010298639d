package leavers

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

// people are entities that hold tokens.
type people struct {
	all     []string
	revoked map[string]bool
	broken  error
}

func (p *people) Entities(context.Context) ([]string, error) {
	var left []string
	for _, one := range p.all {
		if !p.revoked[one] {
			left = append(left, one)
		}
	}
	return left, nil
}

func (p *people) Revoke(_ context.Context, entities map[string]bool) (int, error) {
	if p.broken != nil {
		return 0, p.broken
	}
	for one := range entities {
		p.revoked[one] = true
	}
	return len(entities), nil
}

// Everybody is looked at once in a round, which is a minute or as long as the pace needs.
func TestLeaversPace(t *testing.T) {
	for _, c := range []struct {
		entities, inLook int
		round            time.Duration
	}{
		{1, 1, time.Minute}, {60, 1, time.Minute}, {61, 2, time.Minute}, {15_000, 250, time.Minute}, {100_000, 250, 400 * time.Second},
	} {
		at := time.Unix(1_000_000_000, 0)
		p := &people{revoked: make(map[string]bool)}
		for i := range c.entities {
			p.all = append(p.all, fmt.Sprintf("%06d", i))
		}
		gone, failing := p.all[c.entities/2], p.all[c.entities-1]
		asked, most := make(map[string]int), 0
		inLook := 0
		l := New(Config{Now: func() time.Time { return at }, Log: hclog.NewNullLogger, Holdings: p, Disabled: func(_ context.Context, one string) (bool, error) {
			asked[one]++
			inLook++
			if one == failing && c.entities > 1 {
				return true, errors.New("cannot say")
			}
			return one == gone, nil
		}})
		p.broken = errors.New("storage is broken")
		for end := at.Add(2 * c.round); at.Before(end); {
			inLook = 0
			wait := l.Run(t.Context())
			most = max(most, inLook)
			if wait <= 0 {
				t.Fatal("it stops")
			}
			at = at.Add(wait)
			if !at.Before(end.Add(-c.round)) {
				p.broken = nil
			}
		}
		if most != c.inLook {
			t.Errorf("%d entities: %d in a look, want %d", c.entities, most, c.inLook)
		}
		for one, n := range asked {
			if n < 2 || n > 3 {
				t.Errorf("%d entities: %s is looked at %d times in two rounds", c.entities, one, n)
				break
			}
		}
		if len(asked) != c.entities || len(p.revoked) != 1 || !p.revoked[gone] {
			t.Errorf("%d entities: %d asked about, %v revoked", c.entities, len(asked), p.revoked)
		}
	}
}

package verify

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
)

const (
	maxReportRows  = 10_000  // the engine takes no more in a batch
	maxMoved       = 1000    // tokens of an early report; further tokens wait for the next report
	maxReportBytes = 3 << 20 // likewise
	maxActive      = 1 << 20 // tokens of the next reports; uses of further tokens are not counted
	maxAddresses   = 10_000  // addresses of unknown tokens
)

// usage collects what is reported to the engine (path usage).
type usage struct {
	name      string        // of this process, new at each start
	most      int           // number of tokens in active
	reporters atomic.Int64  // number of processes that report, this one included
	movement  chan struct{} // wakes reportMoves

	mu      sync.Mutex
	active  []active          // of the next report
	moved   []active          // of the next early report; all are in active, too
	due     []active          // of the report that is being sent
	dead    map[string]*meter // refused tokens that are not kept, by name
	unknown map[netip.Addr]uint64

	sending  sync.Mutex
	sequence int64
	pending  *batch // not yet answered; nil: none
}

// active is a token that was used since the last report.
type active struct {
	id    string
	meter *meter
	early bool // the token is reported because it has moved
}

func newUsage(c *Config) *usage {
	u := &usage{
		name: "verify-" + rand.Text(), most: maxActive, movement: make(chan struct{}, 1),
		dead: make(map[string]*meter), unknown: make(map[netip.Addr]uint64),
	}
	if c.silent {
		u.most = 0
	}
	u.reporters.Store(1)
	return u
}

// list has the next report contain a meter.
func (u *usage) list(id string, m *meter) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.active)+len(u.due) >= u.most {
		m.mu.Lock()
		m.listed = false
		m.mu.Unlock()
		return
	}
	u.active = append(u.active, active{id: id, meter: m})
}

// move has the next early report contain a listed meter.
func (u *usage) move(id string, m *meter) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.moved) < maxMoved {
		u.moved = append(u.moved, active{id: id, meter: m, early: true})
	}
	select {
	case u.movement <- struct{}{}:
	default:
	}
}

// reported are the reasons that a report has, besides those of a use.
var reported = []access.Reason{access.Expired, access.Revoked, access.RoleDeleted, access.SubjectDisabled, access.WrongAudience,
	access.Suspended}

// refused counts a text that is no good token: by its name if it has one, or else by the address that shows it.
func (u *usage) refused(r *refusal, client netip.Addr) {
	if u.most == 0 {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case r.id == "" && client.IsValid():
		if _, known := u.unknown[client]; known || len(u.unknown) < maxAddresses {
			u.unknown[client]++
		}
	case r.id != "" && slices.Contains(reported, r.reason):
		m := u.dead[r.id]
		if m == nil {
			if len(u.dead) >= maxReportRows {
				return
			}
			m = &meter{listed: true}
			u.dead[r.id] = m
			u.active = append(u.active, active{id: r.id, meter: m})
		}
		m.mu.Lock()
		m.refuse(r.reason)
		m.mu.Unlock()
	}
}

// batch is a request of the path usage.
type batch struct {
	Reporter string       `json:"reporter"`
	Sequence int64        `json:"sequence"`
	Tokens   []tokenRow   `json:"tokens"`
	Unknown  []unknownRow `json:"unknown"`
}

type tokenRow struct {
	ID       string                   `json:"token_id"`
	Uses     uint64                   `json:"uses"`
	LastUse  string                   `json:"last_used_at,omitempty"`
	LastIP   string                   `json:"last_ip,omitempty"`
	Region   string                   `json:"last_region,omitempty"`
	Refusals map[access.Reason]uint64 `json:"refusals,omitempty"`
	Scopes   []string                 `json:"scopes,omitempty"`
}

type unknownRow struct {
	IP       string `json:"ip"`
	Refusals uint64 `json:"refusals"`
}

// report sends what was counted before report was called: what is counted meanwhile waits for the next report, or a report
// would have no end while tokens are used. A batch that was not answered is sent again with its number, so that it counts once.
func (v *impl) report(ctx context.Context) error {
	v.usage.sending.Lock()
	defer v.usage.sending.Unlock()
	v.usage.begin()
	return v.send(ctx)
}

// reportMoves reports tokens that are used in another network than before, without a wait for the next report: the engine may
// find that a token was stolen. There is at most one such report in each PollInterval.
func (v *impl) reportMoves(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-v.usage.movement:
		}
		_ = v.reportMoved(ctx) // the next report sends the batch again, and logs an error
		select {
		case <-ctx.Done():
			return
		case <-time.After(v.config.PollInterval):
		}
	}
}

func (v *impl) reportMoved(ctx context.Context) error {
	v.usage.sending.Lock()
	defer v.usage.sending.Unlock()
	if !v.usage.beginMoved() {
		return nil
	}
	return v.send(ctx)
}

// send sends what is due. The caller holds sending.
func (v *impl) send(ctx context.Context) error {
	u := v.usage
	for more := true; more || u.pending != nil; {
		if u.pending == nil {
			u.pending, more = u.next(v.config.GeoIP)
		}
		if u.pending == nil {
			return nil
		}
		var done struct {
			Reporters int64 `json:"reporters"`
		}
		err := v.vault.retrying(ctx, func() error {
			return v.vault.write(ctx, "usage", u.pending, &done)
		})
		answered, ok := errors.AsType[*vaultError](err)
		if ok && (answered.status == http.StatusBadRequest || answered.status == http.StatusForbidden) {
			u.pending = nil // the engine will not take the batch
		}
		if err != nil {
			return fmt.Errorf("reporting uses: %w", err)
		}
		u.pending = nil
		u.reporters.Store(max(1, done.Reporters))
	}
	return nil
}

// begin has the report contain what is active by now. The caller holds sending.
func (u *usage) begin() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.due, u.active, u.moved = append(u.due, u.active...), nil, nil
}

// beginMoved has the report contain the tokens that have moved, and reports whether there are any. The caller holds sending.
func (u *usage) beginMoved() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.moved) == 0 {
		return false
	}
	u.due, u.moved = append(u.due, u.moved...), nil
	return true
}

// next returns the next batch, and whether the report has more; nil: there is nothing to report. The caller holds sending.
func (u *usage) next(region func(netip.Addr) string) (b *batch, more bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.due) == 0 && len(u.unknown) == 0 {
		return nil, false
	}
	u.sequence++
	b = &batch{Reporter: u.name, Sequence: u.sequence, Tokens: []tokenRow{}, Unknown: []unknownRow{}}
	size := 0
	for len(u.due) > 0 && len(b.Tokens) <= maxReportRows-maxVisits && size < maxReportBytes {
		one := u.due[len(u.due)-1]
		u.due = u.due[:len(u.due)-1]
		delete(u.dead, one.id)
		for _, row := range one.meter.take(&one, region) {
			size += 200
			for _, scope := range row.Scopes {
				size += len(scope)
			}
			b.Tokens = append(b.Tokens, row)
		}
	}
	if len(u.due) == 0 {
		u.due = nil // the list may have been long
	}
	for addr, n := range u.unknown {
		b.Unknown = append(b.Unknown, unknownRow{addr.String(), n})
	}
	clear(u.unknown)
	if len(b.Tokens) == 0 && len(b.Unknown) == 0 {
		u.sequence--
		return nil, false
	}
	return b, len(u.due) > 0
}

// take returns the counts of a meter, and sets them to zero: a row for each network, the oldest first, and none if nothing was
// counted. The meter of an early report stays in the next report.
func (m *meter) take(of *active, region func(netip.Addr) string) (rows []tokenRow) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, v := range append(m.left, visit{m.uses, m.last, m.addr, m.region}) {
		if v.uses > 0 {
			rows = append(rows, v.row(of.id, region))
		}
	}
	if len(rows) == 0 && len(m.refusals) > 0 {
		rows = []tokenRow{{ID: of.id}}
	}
	if len(rows) > 0 {
		last := &rows[len(rows)-1]
		last.Refusals, last.Scopes = maps.Clone(m.refusals), m.scopes
	}
	m.uses, m.scopes, m.refusals, m.left, m.listed, m.early = 0, nil, nil, nil, of.early && m.listed, false
	return rows
}

func (v *visit) row(id string, region func(netip.Addr) string) tokenRow {
	row := tokenRow{ID: id, Uses: v.uses, LastUse: v.last.UTC().Format(time.RFC3339), Region: v.region}
	if v.addr.IsValid() {
		row.LastIP = v.addr.String()
		if row.Region == "" && region != nil {
			row.Region = region(v.addr)
		}
	}
	if !isRegion(row.Region) {
		row.Region = ""
	}
	return row
}

// isRegion reports whether the engine takes a region in a report.
func isRegion(s string) bool {
	return len(s) == 2 && s[0] >= 'A' && s[0] <= 'Z' && s[1] >= 'A' && s[1] <= 'Z'
}

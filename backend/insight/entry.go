package insight

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
)

// reasons are the reasons for which a known token is refused: those of access.Decide, and those of verifiers. Stored
// counts are in this order: new reasons come last.
var reasons = [...]access.Reason{
	access.Expired, access.Revoked, access.RoleDeleted, access.SubjectDisabled, access.WrongAudience, access.InsufficientScope,
	access.AddressNotAllowed, access.HostNotAllowed, access.RegionNotAllowed,
	"proof_required", "proof_invalid", "proof_replayed", "use_dpop_nonce", "rate_limited",
	access.Suspended,
}

// Reasons returns the reasons for which a known token is refused.
func Reasons() []access.Reason { return slices.Clone(reasons[:]) }

// reasonNumber returns the place of a reason in reasons; -1 if a known token is not refused for the reason.
func reasonNumber(reason access.Reason) int { return slices.Index(reasons[:], reason) }

// entry has the counts of a token in memory: 128 bytes, and 16 for each reason of its refusals. The lock of its shard guards
// an entry.
type entry struct {
	uses     uint64
	scopes   *scopeSet    // that uses needed; nil: none
	segment  *segment     // where the counts are stored; nil: nowhere yet
	refusals *refusals    // nil: none
	state    detect.Token // of the rules of misuse, since the start
	address  [16]byte     // of the last use, as IPv6; zero: not known
	first    uint32       // time of the first use, in seconds since 1970; 0: none
	last     uint32       // time of the last use, in seconds since 1970; 0: none
	end      uint32       // when the token expires, without renewals, in seconds since 1970
	network  uint32       // of the last use; 0: not known
	region   [2]byte      // of the last use; zero: not known
	more     bool         // uses needed more scopes than are kept
}

// refusals is how often a token was refused for a reason, and the next reason: a list, since few tokens are refused, and these
// for few reasons.
type refusals struct {
	next   *refusals
	count  uint32
	reason uint8 // place in reasons
}

// refused returns the refusals of an entry for a reason, which it adds if there are none.
func (e *entry) refused(reason int) *refusals {
	for r := e.refusals; r != nil; r = r.next {
		if int(r.reason) == reason {
			return r
		}
	}
	e.refusals = &refusals{next: e.refusals, reason: uint8(reason)} //nolint:gosec // one of a few
	return e.refusals
}

// counts returns the refusals of an entry in the order of reasons.
func (e *entry) counts() (counts [len(reasons)]uint32) {
	for r := e.refusals; r != nil; r = r.next {
		counts[r.reason] = r.count
	}
	return counts
}

// add adds what was seen to an entry.
func (e *entry) add(seen *Seen, sets *scopeSets) {
	for _, r := range seen.Refusals {
		if i := reasonNumber(r.Reason); i >= 0 && r.Count > 0 {
			refused := e.refused(i)
			refused.count = saturating(refused.count, r.Count)
		}
	}
	if seen.Uses == 0 {
		return
	}
	e.uses += min(seen.Uses, math.MaxUint64-e.uses)
	at := seconds(seen.At)
	if e.first == 0 || at < e.first {
		e.first = at
	}
	if at >= e.last {
		e.last, e.address, e.network, e.region = at, as16(seen.Address), seen.Network, regionOf(seen.Region)
	}
	if !e.scopes.has(seen.Scopes) {
		var all bool
		e.scopes, all = sets.with(e.scopes, seen.Scopes)
		e.more = e.more || !all
	}
}

// merge combines an entry with another process's counts of the same token, and reports whether the entry has changed. A
// process that writes counts has read the counts before it, so the higher count has the lower one in it. Of two
// processes that count at the same time, one's counts are lost: no count becomes too high.
func (e *entry) merge(o *entry, sets *scopeSets) (changed bool) {
	before := *e
	e.uses, e.end, e.more = max(e.uses, o.uses), max(e.end, o.end), e.more || o.more
	for r := o.refusals; r != nil; r = r.next {
		if refused := e.refused(int(r.reason)); r.count > refused.count {
			refused.count, changed = r.count, true
		}
	}
	if e.first == 0 || o.first != 0 && o.first < e.first {
		e.first = o.first
	}
	if o.last > e.last {
		e.last, e.address, e.network, e.region = o.last, o.address, o.network, o.region
	}
	if o.scopes != nil && !e.scopes.has(o.scopes.list) {
		var all bool
		e.scopes, all = sets.with(e.scopes, o.scopes.list)
		e.more = e.more || !all
	}
	return changed || *e != before
}

func saturating(a, b uint32) uint32 { return a + min(b, math.MaxUint32-a) }

// as16 returns an address as IPv6; zero if the address is invalid.
func as16(a netip.Addr) [16]byte {
	if !a.IsValid() {
		return [16]byte{}
	}
	return a.As16()
}

func regionOf(code string) (region [2]byte) {
	copy(region[:], code)
	return region
}

// Record is what is known of the use of a token. The zero value of a field means that nothing is known.
type Record struct {
	Uses       uint64
	FirstUse   time.Time // to the second
	LastUse    time.Time // to the second
	Address    netip.Addr
	Region     string
	Network    uint32
	Refusals   map[access.Reason]uint32 // without zeros; nil if there are none
	Scopes     []string                 // that uses needed, sorted; not to be changed
	MoreScopes bool                     // uses needed more scopes than Scopes has
}

func (e *entry) record() Record {
	r := Record{Uses: e.uses, Network: e.network, MoreScopes: e.more}
	if e.last != 0 {
		r.FirstUse, r.LastUse = fromSeconds(e.first), fromSeconds(e.last)
	}
	if e.address != [16]byte{} {
		r.Address = netip.AddrFrom16(e.address).Unmap()
	}
	if e.region != [2]byte{} {
		r.Region = string(e.region[:])
	}
	for i, n := range e.counts() {
		if n > 0 {
			if r.Refusals == nil {
				r.Refusals = make(map[access.Reason]uint32)
			}
			r.Refusals[reasons[i]] = n
		}
	}
	if e.scopes != nil {
		r.Scopes = e.scopes.list
	}
	return r
}

// Members returns what answers show of a record. Unknown values are absent.
func (r *Record) Members() map[string]any {
	data := map[string]any{"uses": r.Uses}
	if !r.LastUse.IsZero() {
		data["first_used_at"], data["last_used_at"] = shown(r.FirstUse), shown(r.LastUse)
	}
	if r.Address.IsValid() {
		data["last_ip"] = r.Address.String()
	}
	if r.Region != "" {
		data["last_region"] = r.Region
	}
	if r.Network != 0 {
		data["last_network"] = fmt.Sprintf("AS%d", r.Network)
	}
	if len(r.Scopes) > 0 {
		data["scopes"] = r.Scopes
	}
	if r.MoreScopes {
		data["more_scopes"] = true
	}
	if len(r.Refusals) > 0 {
		refusals := make(map[string]any, len(r.Refusals))
		for reason, n := range r.Refusals {
			refusals[string(reason)] = n
		}
		data["refusals"] = refusals
	}
	return data
}

func shown(t time.Time) string { return t.UTC().Format(time.RFC3339) }

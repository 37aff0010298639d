// Package detect finds misuse of tokens: rules over the uses and refusals that package insight is told. A rule that fires
// makes a finding. A finding says which rule fired, with which numbers, on which evidence, and what to do.
//
// Evaluation is streaming: nothing is scanned again. The state of a token has at most 168 bytes (token.go). The state of a
// role and subject (baseline.go), the state of an address (addresses.go) and the findings (findings.go) are bounded too.
package detect

import (
	"context"
	"errors"
	"math"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/store"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/worker"
)

// Config has the dependencies of a Detector. All fields but RoleMode and Notify are required.
type Config struct {
	Storage logical.Storage // of the mount, for background work
	Now     func() time.Time
	Log     func() hclog.Logger
	Place   func(netip.Addr) Place                // where an address is, as far as a database says
	Holder  func(token.ID) (_ Holder, known bool) // who holds a token
	Respond Responder

	// RoleMode returns the mode that a role has for a rule; known is false if the role has none. RoleMode must not call the
	// Detector. nil: no role has modes.
	RoleMode func(role string, r Rule) (_ Mode, known bool)

	// Notify takes a notice about a finding. If Notify returns an error, the Detector tries again. nil: nobody wants notices.
	Notify func(context.Context, *Notice) error
}

// Responder acts on the grant of a token, because of a finding.
type Responder interface {
	// Suspend suspends a grant until an operator resumes the grant. note says why. Suspend returns a refusal.Error if the
	// grant cannot be suspended, and ErrRevoked if the grant was revoked.
	Suspend(ctx context.Context, grant token.ID, note string) error

	Revoke(ctx context.Context, grant token.ID) error
}

// ErrRevoked says that a grant was revoked before, which outweighs a suspension.
var ErrRevoked = errors.New("the grant was revoked")

// Holder is the holder of a token.
type Holder struct {
	Role     string
	Subject  string // Vault entity ID; empty if there is none
	IssuedAt time.Time
}

// Place is where an address is. The zero value of a field means that nothing is known.
type Place struct {
	Region    string // ISO 3166-1 alpha-2
	City      uint32 // GeoNames ID
	Network   uint32 // number of the autonomous system
	Located   bool   // whether the coordinates are known
	Latitude  float64
	Longitude float64
	Radius    float64 // accuracy of the coordinates, in kilometres
}

// Seen is what was seen of a token: uses and refusals, and the circumstances of the last use. The zero value of a field
// means that nothing is known.
type Seen struct {
	Uses     uint64
	At       time.Time
	Address  netip.Addr // if there are no uses, the address of the refused client
	Region   string     // ISO 3166-1 alpha-2
	Network  uint32     // number of the autonomous system
	Refusals []Refusals
	Scopes   []string  // that the uses needed
	EndedAt  time.Time // when the token expired, if refused as expired
}

// Refusals is how often uses were refused for a reason.
type Refusals struct {
	Reason access.Reason
	Count  uint32
}

// Before is the last use of a token before what was seen now. The zero value of a field means that nothing is known.
type Before struct {
	At      uint32 // in seconds since 1970
	Address netip.Addr
	Region  [2]byte // ISO 3166-1 alpha-2
	Network uint32
}

func (b *Before) region() string {
	if b.Region == [2]byte{} {
		return ""
	}
	return string(b.Region[:])
}

// at returns where the last use was.
func (d *Detector) at(b *Before) Place { return d.place(b.Address, b.region(), b.Network) }

// moved reports whether the circumstances of a use differ from those of the last use.
func (s *sight) moved() bool {
	return s.seen.Address != s.before.Address || s.seen.Network != s.before.Network ||
		s.seen.Region != string(s.before.Region[:]) &&
			(s.seen.Region != "" || s.before.Region != [2]byte{})
}

// Detector evaluates the rules, and keeps the settings and the findings. Evaluation changes memory only. Run writes what
// has changed, at most one entry a second.
//
// A Detector is safe for concurrent use. The caller of Saw serializes the calls about one token.
type Detector struct {
	*worker.Worker
	Config
	store.Damage
	settings  atomic.Pointer[Settings]
	baselines baselines
	addresses addresses
	ends      ends
	findings  findings
	writes    writes
}

// New returns a Detector with the default settings and without findings. Load reads both from storage. The caller starts
// the worker with Run.
func New(c Config) *Detector {
	d := &Detector{Worker: worker.New(), Config: c}
	d.settings.Store(DefaultSettings())
	return d
}

// Settings returns the settings in force. They do not change.
func (d *Detector) Settings() *Settings { return d.settings.Load() }

// sight is what was seen of a token, with what the rules need to judge it.
type sight struct {
	*Settings
	id     token.ID
	token  *Token
	before *Before
	seen   *Seen
	at     uint32 // in seconds since 1970
}

// Saw evaluates what was seen of a token. state is the state of the token, and before is the token's last use.
func (d *Detector) Saw(id token.ID, state *Token, before *Before, seen *Seen) {
	s := sight{d.settings.Load(), id, state, before, seen, seconds(seen.At)}
	if len(seen.Refusals) > 0 {
		d.refused(&s)
	}
	if seen.Uses > 0 {
		d.used(&s)
	}
}

// used evaluates the rules about uses.
func (d *Detector) used(s *sight) {
	first := s.token.base == nil
	if first {
		d.meet(s)
	}
	d.dormant(s)
	d.surge(s)
	if !s.seen.Address.IsValid() {
		return
	}
	d.addresses.used(s.seen.Address, s.seen.Uses, s.at, s.Settings)
	moved := s.moved()
	if !moved && !first && s.at/learnEvery == s.before.At/learnEvery && s.token.window == nil {
		return
	}
	here := d.place(s.seen.Address, s.seen.Region, s.seen.Network)
	if moved && s.before.Address.IsValid() && s.seen.Address != s.before.Address {
		d.travel(s, &here)
	}
	if s.within(s.seen.Address) {
		return
	}
	if moved || s.token.window != nil {
		d.spread(s, &here)
	}
	d.familiar(s, &here)
}

// meet prepares the state of a token at its first use in this process.
func (d *Detector) meet(s *sight) {
	holder, _ := d.Holder(s.id)
	s.token.base = d.baselines.of(holder.Role, holder.Subject, s.at)
	if s.before.At == 0 {
		if holder.IssuedAt.Unix() > 0 {
			s.token.issued = seconds(holder.IssuedAt)
		}
		return
	}
	if s.before.Address.IsValid() && !s.within(s.before.Address) {
		was := d.at(s.before)
		s.token.base.add(was.Region, was.Network, s.before.At)
	}
}

// place returns where an address is. What a verifier states counts more than a database.
func (d *Detector) place(addr netip.Addr, region string, network uint32) Place {
	p := d.Place(addr)
	if region != "" && region != p.Region {
		p = Place{Region: region, Network: p.Network}
	}
	if network != 0 {
		p.Network = network
	}
	return p
}

// seconds returns a time in seconds since 1970, within 32 bits.
func seconds(t time.Time) uint32 { return uint32(min(max(t.Unix(), 0), math.MaxUint32)) }

func fromSeconds(s uint32) time.Time { return time.Unix(int64(s), 0).UTC() }

// since returns the seconds from one time to another; 0 if the second is earlier.
func since(from, to uint32) uint32 { return to - min(from, to) }

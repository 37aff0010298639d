package verify

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// facts are what is known of one good token, whatever its use. Facts do not change, except for seen.
type facts struct {
	names string // the token's name, which begins with the grant's, and the subject: one allocation
	idLen uint8  // of the token's name in names
	terms *terms
	bound *token.Confirmation   // nil: to no key
	meter atomic.Pointer[meter] // nil: nothing was counted. Later facts about the token have the same meter

	expires int64 // seconds since 1970
	learned int64 // nanoseconds since 1970: when Vault was asked. Of a JWT that Vault was not asked about: when it was issued

	// Of a JWT that Vault was not asked about. key is nil otherwise.
	key   *key
	list  *statusList // nil: the token has no place in a list
	place uint32

	epoch  uint32        // in which cursor counts, see events
	cursor int64         // up to which the facts know all events
	seen   atomic.Uint64 // state of events that did not concern the facts
}

// local reports whether the facts come from the token itself, a JWT.
func (f *facts) local() bool { return f.key != nil }

func (f *facts) setNames(id, subject string) {
	if subject == "" {
		id = strings.Clone(id) // without the payload around the name
	}
	f.names, f.idLen = id+subject, uint8(len(id)) //nolint:gosec // at most 49, see token.ParseName
}

// id returns the token's public name.
func (f *facts) id() string { return f.names[:f.idLen] }

// subject returns the Vault entity; empty: none.
func (f *facts) subject() string { return f.names[f.idLen:] }

// grant returns the grant's public name.
func (f *facts) grant() string { return f.names[:grantLen] }

const grantLen = 2 * len(token.ID{})

// terms are the facts that many tokens share. Terms do not change.
type terms struct {
	role        string
	permissions access.Permissions
	metadata    map[string]string
	environment string
	rate        access.Rate
	hosts       bool // whether the token is bound to hosts
	regions     bool // whether the token is bound to regions
}

// rawTerms are terms as an introspection answer and a JWT state them.
type rawTerms struct {
	Role        string
	Scopes      string
	Audience    []string
	CIDRs       []string
	Regions     []string
	Hosts       []string
	Metadata    map[string]string
	Environment string
	Rate        string
}

// errNothingLeft says that a set of addresses, regions or hosts is stated and empty.
var errNothingLeft = errors.New("the token may be used nowhere")

func (r *rawTerms) parse() (*terms, error) {
	t := &terms{role: r.Role, metadata: r.Metadata, environment: r.Environment}
	t.permissions.Scopes = strings.Fields(r.Scopes)
	t.permissions.Audience = r.Audience
	for _, set := range [][]string{r.CIDRs, r.Regions, r.Hosts} {
		if set != nil && len(set) == 0 {
			return nil, errNothingLeft
		}
	}
	if r.CIDRs != nil {
		addresses, err := access.ParseAddresses(r.CIDRs)
		if err != nil {
			return nil, err
		}
		t.permissions.Addresses = []access.Addresses{addresses}
	}
	if r.Regions != nil {
		regions, err := access.ParseRegions(r.Regions)
		if err != nil {
			return nil, err
		}
		t.permissions.Regions, t.regions = []access.Regions{regions}, true
	}
	if r.Hosts != nil {
		hosts, err := access.ParseHosts(r.Hosts)
		if err != nil {
			return nil, err
		}
		t.permissions.Hosts, t.hosts = []access.Hosts{hosts}, true
	}
	var err error
	t.rate, err = access.ParseRate(r.Rate)
	return t, err
}

// name appends text that equal terms have in common, and no others: each part with its length.
func (r *rawTerms) name(b []byte) []byte {
	part := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	for _, s := range [...]string{r.Role, r.Scopes, r.Environment, r.Rate} {
		part(s)
	}
	for _, list := range [...][]string{r.Audience, r.CIDRs, r.Regions, r.Hosts} {
		if list == nil { // any
			b = append(b, 0)
			continue
		}
		b = binary.AppendUvarint(b, uint64(len(list))+1)
		for _, s := range list {
			part(s)
		}
	}
	if len(r.Metadata) > 0 {
		for _, key := range slices.Sorted(maps.Keys(r.Metadata)) {
			part(key)
			part(r.Metadata[key])
		}
	}
	return b
}

// maxTerms is how many different terms are shared. Tokens with metadata of their own have terms of their own.
const maxTerms = 10_000

// interner makes equal terms one.
type interner struct {
	mu    sync.RWMutex
	known map[string]*terms
}

func (i *interner) terms(r *rawTerms) (*terms, error) {
	name := r.name(make([]byte, 0, 512))
	i.mu.RLock()
	t := i.known[string(name)]
	i.mu.RUnlock()
	if t != nil {
		return t, nil
	}
	t, err := r.parse()
	if err != nil {
		return nil, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.known == nil || len(i.known) >= maxTerms {
		i.known = make(map[string]*terms)
	}
	i.known[string(name)] = t
	return t, nil
}

// refusal is what is known of a text that is no good token, whatever the use.
type refusal struct {
	reason access.Reason
	detail string
	id     string // the token's name; empty: not known
	role   string
	until  int64 // nanoseconds since 1970: until when the refusal is kept
}

// holds reports whether the refusal still counts. A refusal of before the clock stepped back does not.
func (r *refusal) holds(now time.Time) bool {
	left := time.Duration(r.until - now.UnixNano())
	return left > 0 && left <= refusalAge+clockSlack
}

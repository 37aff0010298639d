package detect

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// Severities of findings.
const (
	High   = "high"
	Medium = "medium"
	Low    = "low"
)

// States of findings.
const (
	Open         = "open"
	Acknowledged = "acknowledged"
)

// Responses to findings.
const (
	Revoked   = "revoked"   // the grant of the token was revoked
	Suspended = "suspended" // the grant of the token was suspended
	Refused   = "refused"   // the grant cannot be suspended: a token of another service
	Failed    = "failed"    // the grant could not be revoked or suspended; the engine retries
)

// Finding says that a rule fired. Later events of the same rule about the same token, address, or role and entity count in
// the same finding. A published finding does not change.
type Finding struct {
	ID       string    `json:"id"`
	Rule     Rule      `json:"rule"`
	Severity string    `json:"severity"`
	Count    uint64    `json:"count"` // of events
	First    time.Time `json:"first_seen_at"`
	Last     time.Time `json:"last_seen_at"`
	TokenID  string    `json:"token_id,omitempty"` // of the grant
	Role     string    `json:"role,omitempty"`
	EntityID string    `json:"entity_id,omitempty"`
	Address  string    `json:"address,omitempty"`
	Summary  string    `json:"summary"` // what was seen, and what is allowed
	Numbers  numbers   `json:"numbers"`
	Evidence []Sight   `json:"evidence"` // uses, the oldest first
	Response string    `json:"response,omitempty"`
	Acknowledgement
	Announced announced `json:"announced,omitzero"` // what notices have said
}

// Acknowledgement is the state of a finding, and what an operator wrote about the finding.
type Acknowledgement struct {
	State string    `json:"state"`
	Note  string    `json:"note,omitempty"`
	At    time.Time `json:"acknowledged_at,omitzero"`
	By    string    `json:"acknowledged_by,omitempty"`
}

// numbers are what a rule measured, and the thresholds.
type numbers map[string]float64

// Sight is a use or a refusal. The zero value of a field means that nothing is known.
type Sight struct {
	At      time.Time `json:"at"`
	Address string    `json:"address,omitempty"` // or a range
	Region  string    `json:"region,omitempty"`
	Network string    `json:"network,omitempty"`

	// Of a report of a leaked token: where the token was found, and by whom, as the report says. Nobody has checked either.
	URL    string `json:"url,omitempty"`
	Source string `json:"source,omitempty"`
}

// Members returns a piece of evidence as answers show it.
func (s *Sight) Members() map[string]any {
	data := map[string]any{"at": s.At.UTC().Format(time.RFC3339)}
	for name, value := range map[string]string{
		"address": s.Address, "region": s.Region, "network": s.Network, "url": s.URL, "source": s.Source,
	} {
		if value != "" {
			data[name] = value
		}
	}
	return data
}

// Members returns the members of a finding that answers show otherwise than the Finding holds them. mount is the path of the
// mount with a slash at the end.
func (f *Finding) Members(mount string) map[string]any {
	numbers, evidence := make(map[string]any, len(f.Numbers)), make([]any, len(f.Evidence))
	for name, n := range f.Numbers {
		numbers[name] = n
	}
	for i := range f.Evidence {
		evidence[i] = f.Evidence[i].Members()
	}
	return map[string]any{
		"count": int64(min(f.Count, 1<<62)), "numbers": numbers, "evidence": evidence, "commands": f.Advice(mount),
	}
}

// key is the identity of a finding.
type key struct {
	rule    Rule
	token   token.ID
	address netip.Addr
	extra   string
}

// id returns the ID of a finding: 24 hexadecimal digits.
func (k *key) id() string {
	sum := sha256.Sum256([]byte(strings.Join([]string{string(k.rule), k.token.String(), k.address.String(), k.extra}, "\x00")))
	return hex.EncodeToString(sum[:12])
}

// Advice returns what an operator can do about a finding: each a command to paste, with the reason behind #. mount is the
// path of the mount with a slash at the end.
func (f *Finding) Advice(mount string) []string {
	var commands []string
	add := func(format string, args ...any) { commands = append(commands, fmt.Sprintf(format, args...)) }
	switch f.Rule {
	case UsedAfterEnd:
		add("vault read %stokens/%s # who holds the token: mend the client at %s, or treat it as a thief", mount, f.TokenID,
			orUnknown(f.Address))
	case Guessing:
		add("iptables -I INPUT -s %s -j DROP # on the gateway: stop the address", f.Address)
		add("vault write %sconfig/detection known_ranges=%s # instead, if the address is your own proxy: name the ranges that are "+
			"set, too", mount, f.Address)
	case WrongEnvironment:
		add("vault read %sconfig # the environment of this mount: give the client at %s a token of this environment", mount,
			orUnknown(f.Address))
	case RefreshReuse:
		add("vault list -detailed %stokens # the grant was revoked: have the holder, entity %s, request a new token", mount,
			orUnknown(f.EntityID))
	case Leaked:
		add("vault read %stokens/%s # the token was revoked: have the holder, entity %s, request a new token, and remove the old "+
			"token from where it was found", mount, f.TokenID, orUnknown(f.EntityID))
	default:
		add("vault read %stokens/%s # who holds the token", mount, f.TokenID)
		if f.Response == Revoked {
			break
		}
		add("vault write %srevoke token_id=%s # revoke the token", mount, f.TokenID)
		switch f.Response {
		case Refused: // a token of another service: revoke alone stops the token
		case Suspended:
			add("vault write %sresume token_id=%s # instead, if the use was right: undo the suspension", mount, f.TokenID)
		default:
			add("vault write %ssuspend token_id=%s # instead, until you know more: stop the token", mount, f.TokenID)
		}
	}
	if f.State == Open {
		add("vault write %sfindings/%s note=\"expected\" # instead, if this is as it should be", mount, f.ID)
	}
	return commands
}

func orUnknown(s string) string {
	if s == "" {
		return "(unknown)"
	}
	return s
}

package scan

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// States of a token beside those of the mount: access.Reason and active.
const (
	stateUnknown = ""        // the mount was not asked
	stateActive  = "active"  // as lookup says
	stateRevoked = "revoked" // as lookup says, or by this scan
	stateForeign = "wrong_environment"
)

// finding is a token at a place. Findings of one token share what is known of the token.
type finding struct {
	*secret
	file   string
	line   int
	commit string // empty: not of a git history
}

// secret is a token that was found. No output has the text.
type secret struct {
	text    string
	kind    string // ruleOpaque or ruleJWT
	state   string
	role    string
	tokenID string
	ended   bool // by this scan
}

// dead are the states of tokens that are good for nothing, now and later.
var dead = map[string]bool{"expired": true, stateRevoked: true, "role_deleted": true, "malformed": true, "unknown": true}

// counts reports whether somebody has to act: the token may be alive, or was alive until this scan.
func (f *finding) counts() bool { return !dead[f.state] || f.ended }

// shown returns a name of the token for people: no part of it helps to guess the token.
func (s *secret) shown() string {
	last := s.text[max(len(s.text)-4, 0):]
	if s.kind == ruleJWT {
		return "JWT..." + last
	}
	return s.text[:strings.LastIndexByte(s.text, '_')+1] + "..." + last
}

// fingerprint returns a name of the token for programs.
func (s *secret) fingerprint() string {
	sum := sha256.Sum256([]byte(s.text))
	return hex.EncodeToString(sum[:])
}

// describe returns what is known of the token.
func (s *secret) describe() string {
	state := s.state
	switch {
	case s.ended:
		state = "revoked by this scan"
	case state == stateUnknown && s.kind == ruleJWT:
		state = "not verified: the mount was not asked"
	case state == stateUnknown:
		state = "not verified: the checksum is right, and the mount was not asked"
	case state == stateForeign:
		state = "of another mount"
	}
	if s.role != "" {
		state += ", role " + s.role
	}
	if s.tokenID != "" {
		state += ", token_id " + s.tokenID
	}
	return state
}

// place returns where a finding is.
func (f *finding) place() string {
	place := fmt.Sprintf("%s:%d", printable(f.file), f.line)
	if f.commit != "" {
		place += " in commit " + f.commit
	}
	return place
}

package detect

import (
	"maps"
	"slices"
	"strings"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

// Rule is the name of a rule.
type Rule string

// The rules.
const (
	ImpossibleTravel Rule = "impossible_travel"
	NewRegion        Rule = "new_region"
	NewNetwork       Rule = "new_network"
	SeveralNetworks  Rule = "several_networks"
	RefusedBurst     Rule = "refused_burst"
	Guessing         Rule = "guessing"
	Shared           Rule = "shared"
	DormantAwake     Rule = "dormant_awake"
	UsedAfterEnd     Rule = "used_after_end"
	Surge            Rule = "surge"
	RefreshReuse     Rule = "refresh_reuse"
	ProofFailed      Rule = "proof_failed"
	WrongEnvironment Rule = "wrong_environment"
	Leaked           Rule = "leaked"
)

// Rules are all rules, with what each finds.
var Rules = []struct {
	Rule  Rule
	About string
}{
	{ImpossibleTravel, "two uses of a token that are too far apart for the time between them"},
	{NewRegion, "a country that is new for the role and the entity"},
	{NewNetwork, "an autonomous system that is new for the role and the entity"},
	{SeveralNetworks, "a token used from several networks or cities at the same time"},
	{RefusedBurst, "many refusals of a token in a short time"},
	{Guessing, "an address from which many unknown or refused tokens come"},
	{Shared, "a token used from many networks"},
	{DormantAwake, "a use of a token after a long time without a use"},
	{UsedAfterEnd, "a token that is still shown long after its end"},
	{Surge, "many more uses of a token than usual"},
	{RefreshReuse, "a refresh token that was used before"},
	{ProofFailed, "a token shown without a good proof of its key"},
	{WrongEnvironment, "a token of another mount"},
	{Leaked, "a token that somebody has reported as leaked; the engine revokes the token in any case"},
}

// RuleNames returns the names of all rules, for an error.
func RuleNames() string {
	names := make([]string, len(Rules))
	for i := range Rules {
		names[i] = string(Rules[i].Rule)
	}
	return strings.Join(names, ", ")
}

// number returns the place of a rule in Rules; -1 if there is no such rule.
func (r Rule) number() int {
	for i := range Rules {
		if Rules[i].Rule == r {
			return i
		}
	}
	return -1
}

// Valid reports whether a rule of this name exists.
func (r Rule) Valid() bool { return r.number() >= 0 }

// ofAddress are the rules whose findings concern an address, and no token that could be revoked.
func (r Rule) ofAddress() bool { return r == Guessing || r == WrongEnvironment }

// responds reports whether a rule can act on the token of a finding. The engine has revoked a leaked token before the rule
// fires.
func (r Rule) responds() bool { return !r.ofAddress() && r != Leaked }

// Mode is what a rule does.
type Mode string

// The modes.
const (
	Off     Mode = "off"
	On      Mode = "on"      // makes findings
	Suspend Mode = "suspend" // makes findings, and suspends the grant of the token
	Revoke  Mode = "revoke"  // makes findings, and revokes the grant of the token
)

// Modes returns the modes that a rule can have.
func (r Rule) Modes() []Mode {
	if !r.responds() {
		return []Mode{Off, On}
	}
	return []Mode{Off, On, Suspend, Revoke}
}

func (r Rule) takes(m Mode) bool { return slices.Contains(r.Modes(), m) }

// roleModes returns the modes that a role can set for a rule. A role cannot turn a rule off. The services of connections cannot
// suspend tokens.
func (r Rule) roleModes(connected bool) []Mode {
	switch {
	case !r.responds():
		return nil
	case connected:
		return []Mode{On, Revoke}
	}
	return []Mode{On, Suspend, Revoke}
}

// CheckRoleModes refuses modes that a role cannot set. connected says that the role has a connection.
func CheckRoleModes(modes map[string]string, connected bool) error {
	const field = "detection"
	for _, name := range slices.Sorted(maps.Keys(modes)) {
		r, mode := Rule(name), Mode(modes[name])
		if !r.Valid() {
			return refusal.Field(field, "%q is no rule of config/detection, which has %s", refusal.Clip(name), RuleNames())
		}
		allowed := r.roleModes(connected)
		switch {
		case len(allowed) == 0:
			return refusal.Field(field, "%s takes no mode from a role: set %s in config/detection", name, name)
		case connected && mode == Suspend:
			return refusal.Field(field, "%s: %q is for native tokens, since services cannot suspend tokens; a role with a "+
				"connection has %s", name, string(mode), list(allowed))
		case strings.Contains(string(mode), ","):
			return refusal.Field(field, "%s: %q has a comma: give each pair by itself, such as detection=%s=%s detection=...", name,
				refusal.Clip(string(mode)), name, On)
		case !slices.Contains(allowed, mode):
			return refusal.Field(field, "%s: %q is not one of: %s", name, refusal.Clip(string(mode)), list(allowed))
		}
	}
	return nil
}

// modeOf returns what a rule does about tokens of a role. A rule that is off in the settings is off for every role.
func (d *Detector) modeOf(r Rule, role string) Mode {
	mode := d.Settings().mode(r)
	if mode == Off || role == "" || d.RoleMode == nil {
		return mode
	}
	if own, known := d.RoleMode(role, r); known && slices.Contains(r.roleModes(false), own) {
		return own
	}
	return mode
}

// Threshold is a number that a rule compares with.
type Threshold struct {
	Name     string // of the field in the settings
	Rule     Rule
	Duration bool // in seconds; otherwise a plain number
	Default  int64
	Min, Max int64
	About    string
}

const (
	minute = 60
	hour   = 60 * minute
	day    = 24 * hour
)

// Places of thresholds in Thresholds.
const (
	travelSpeed = iota
	travelDistance
	travelInterval
	learnFor
	learnUses
	severalWindow
	severalFidelity
	burstRefusals
	burstWindow
	stuffingRefusals
	stuffingTokens
	stuffingFailed
	stuffingWindow
	sprayingRefusals
	sprayingTokens
	sprayingFailed
	sprayingWindow
	sharedNetworks
	sharedWindow
	dormantAfter
	endedFor
	surgeFactor
	surgeFloor
	surgeLearn
	thresholds
)

// Thresholds are all thresholds.
var Thresholds = [thresholds]Threshold{
	travelSpeed: {"impossible_travel_speed", ImpossibleTravel, false, 900, 100, 100_000,
		"speed in km/h beyond which two uses are impossible travel"},
	travelDistance: {"impossible_travel_distance", ImpossibleTravel, false, 50, 1, 20_000,
		"distance in km below which two uses are no travel"},
	travelInterval: {"impossible_travel_interval", ImpossibleTravel, true, 10 * minute, 0, day,
		"two uses that are closer in time count as this far " +
			"apart, since clocks and reports are inexact"},
	learnFor: {"learn_for", NewRegion, true, 14 * day, hour, 60 * day, "how long new_region and new_network learn " +
		"the places of a role and entity"},
	learnUses: {"learn_uses", NewRegion, false, 10, 1, 10_000, "uses after which learning ends earlier; at most one " +
		"use a day counts"},
	severalWindow: {"several_networks_window", SeveralNetworks, true, 30 * minute, minute, day,
		"uses within this time count as at the same time"},
	severalFidelity: {"several_networks_fidelity", SeveralNetworks, false, 1, 1, 2,
		"1: another network or another city; 2: another network and another city"},
	burstRefusals: {"refused_burst_refusals", RefusedBurst, false, 20, 2, 60_000, "refusals of a token within the window"},
	burstWindow:   {"refused_burst_window", RefusedBurst, true, 5 * minute, minute, day, "window of refused_burst_refusals"},
	stuffingRefusals: {"guessing_stuffing_refusals", Guessing, false, 25, 2, 60_000,
		"stuffing: refusals from an address within the window"},
	stuffingTokens: {"guessing_stuffing_tokens", Guessing, false, 15, 1, maxRefusedTokens,
		"stuffing: different tokens among them, each refused twice at most on average"},
	stuffingFailed: {"guessing_stuffing_failed", Guessing, false, 80, 1, 100, "stuffing: percentage of refusals among the " +
		"address's uses"},
	stuffingWindow: {"guessing_stuffing_window", Guessing, true, 15 * minute, minute, day, "stuffing: window"},
	sprayingRefusals: {"guessing_spraying_refusals", Guessing, false, 15, 2, 60_000,
		"spraying: refusals from an address within the window"},
	sprayingTokens: {"guessing_spraying_tokens", Guessing, false, 5, 1, maxRefusedTokens,
		"spraying: different tokens among them, each refused 2 to 6 times on average"},
	sprayingFailed: {"guessing_spraying_failed", Guessing, false, 60, 1, 100, "spraying: percentage of refusals among the " +
		"address's uses"},
	sprayingWindow: {"guessing_spraying_window", Guessing, true, hour, minute, day, "spraying: window"},
	sharedNetworks: {"shared_addresses", Shared, false, 5, 1, windowSlots - 1,
		"addresses from which a token may be used within the window; a network counts once in each city"},
	sharedWindow: {"shared_window", Shared, true, hour, minute, day, "window of shared_addresses"},
	dormantAfter: {"dormant_awake_after", DormantAwake, true, 30 * day, hour, 3650 * day,
		"time without a use after which a use is a finding"},
	endedFor: {"used_after_end_after", UsedAfterEnd, true, 10 * minute, 0, 30 * day,
		"time after the first refusal from which showing the token is a finding"},
	surgeFactor: {"surge_factor", Surge, false, 10, 2, 1000, "uses a minute, as a multiple of the token's usual number"},
	surgeFloor:  {"surge_floor", Surge, false, 30, 1, 1_000_000, "uses a minute below which nothing is a surge"},
	surgeLearn:  {"surge_learn", Surge, false, 20, 1, 10_000, "minutes with uses from which the usual number is learned"},
}

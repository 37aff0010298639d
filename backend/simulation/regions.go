package simulation

import (
	"math/rand/v2"
	"slices"
	"strings"
)

// allRegions are the regions of the world. A role or a token that has all of them is not restricted.
var allRegions = []string{"DE", "FR", "JP", "US"}

// reach is from where a token may be used: from most at the most, and from sure in any case. They differ where an answer
// does not say what the engine has made of a role that was changed meanwhile.
type reach struct{ sure, most []string }

// regionsField is the value of bound_regions in a request.
func regionsField(regions []string) string {
	if unrestricted(regions) {
		return ""
	}
	return strings.Join(regions, ",")
}

// regionsOf is what an answer says of regions.
func regionsOf(d map[string]any) []string {
	if regions, _ := d["bound_regions"].([]string); len(regions) > 0 {
		return regions
	}
	return allRegions
}

func unrestricted(regions []string) bool { return len(regions) == len(allRegions) }

// mayUse reports whether a set of regions allows a use that states a region; "": the use states none.
func mayUse(regions []string, region string) bool {
	return unrestricted(regions) || slices.Contains(regions, region)
}

// askedRegions are the regions that a request narrows to; nil: it does not.
func askedRegions(r *rand.Rand, from []string) []string {
	if some := someScopes(r, from); r.IntN(3) == 0 && !unrestricted(some) {
		return some
	}
	return nil
}

// of gives the states in which the role of a grant may be as it was issued from.
func (g *grant) of(states []roleState) []roleState {
	var alive []roleState
	for _, s := range states {
		if s.exists && (s.life == g.life || g.life == 0) {
			alive = append(alive, s)
		}
	}
	return alive
}

// narrowed is the reach of a token that came of another by a request, while the role was in one of some states. asked
// nil: the request does not narrow the regions.
func (g *grant) narrowed(from reach, asked []string, states []roleState) reach {
	if asked != nil {
		from = reach{common(from.sure, asked), common(from.most, asked)}
	}
	var union []string
	for _, s := range states {
		from.sure = common(from.sure, s.regions)
	}
	for _, s := range g.of(states) {
		union = append(union, s.regions...)
	}
	from.most = common(from.most, union)
	return from
}

// nextRegion gives the region from which a token is looked at: every other time one from which it should be good, and
// else any, or none. The caller holds mu.
func (tok *issued) nextRegion() string {
	tok.looks++
	if len(tok.reach.sure) > 0 && tok.looks%2 == 1 {
		return tok.reach.sure[tok.looks/2%len(tok.reach.sure)]
	}
	return append(slices.Clone(allRegions), "")[tok.looks/2%(len(allRegions)+1)]
}

// surelyFrom reports whether a token must be good from a region by all states that its role may have.
func (w *world) surelyFrom(n *node, tok *issued, region string) bool {
	ok := mayUse(tok.reach.sure, region)
	for _, s := range tok.grant.role.states.possible(n) {
		ok = ok && mayUse(s.regions, region)
	}
	return ok
}

// maybeFrom reports whether the role of a grant may allow uses from a region.
func (w *world) maybeFrom(n *node, g *grant, region string) bool {
	return slices.ContainsFunc(g.of(g.role.states.possible(n)), func(s roleState) bool { return mayUse(s.regions, region) })
}

// checkRegion holds against the model that a token is good from a region: invariant 1.
func (w *world) checkRegion(n *node, tok *issued, region string, d map[string]any, what func() string) {
	switch {
	case !mayUse(tok.reach.most, region):
		w.broken(1, "active from %q, and was issued for %q: %s", region, tok.reach.most, what())
	case !w.maybeFrom(n, tok.grant, region):
		w.broken(1, "active from %q, which its role does not allow: %s", region, what())
	case !within(regionsOf(d), tok.reach.most):
		w.broken(1, "says that it is for %q, and was issued for %q: %s", regionsOf(d), tok.reach.most, what())
	}
}

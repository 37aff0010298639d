package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const (
	early = 5 * minute // an attack may seem to begin so much earlier: clocks are off
	late  = 12 * hour  // the holder's next use may show an attack, and a report may be late
)

// concerns reports whether a finding is about the token or the address of an attack.
func (a *attack) concerns(f *detect.Finding) bool {
	if f.TokenID != "" {
		id, err := token.ParseID(f.TokenID)
		return err == nil && a.tokens[id]
	}
	for from := range a.addresses {
		if from.String() == f.Address {
			return true
		}
	}
	return false
}

// look notes which rules have found an attack: a finding about its token or address has an event since the attack began.
func (w *world) look(a *attack) {
	w.harvest()
	for _, f := range w.findings {
		if f.Last.Unix() >= a.from-early && a.concerns(&f) {
			a.found[f.Rule] = true
		}
	}
}

// right reports whether a finding began with an attack.
func (w *world) right(f *detect.Finding) bool {
	return slices.ContainsFunc(w.attacks, func(a *attack) bool {
		return a.concerns(f) && f.First.Unix() >= a.from-early && f.First.Unix() <= a.until+late
	})
}

// tally is what was measured of a rule.
type tally struct {
	rule           detect.Rule
	attacks, found int            // that the rule promises to find
	right, wrong   int            // findings after the first week
	early          int            // wrong findings in the first week
	of             map[string]int // wrong findings by the role of the token
}

// outcome is what was measured of a kind of attack.
type outcome struct {
	kind           string
	attacks, found int // by any rule
	by             map[detect.Rule]int
}

type result struct {
	days     float64
	first    float64 // days of the first week
	rules    []tally
	outcomes []outcome
}

func (w *world) result() *result {
	r := &result{days: w.days, first: w.first}
	for i := range detect.Rules {
		t := tally{rule: detect.Rules[i].Rule, of: make(map[string]int)}
		for _, f := range w.findings {
			switch {
			case f.Rule != t.rule:
			case w.right(&f):
				t.right++
			case f.First.Unix() < begin+learning:
				t.early++
			default:
				t.wrong++
				t.of[f.Role]++
			}
		}
		r.rules = append(r.rules, t)
	}
	for _, s := range scenarios {
		o := outcome{kind: s.kind, by: make(map[detect.Rule]int)}
		for _, a := range w.attacks {
			if a.kind != s.kind {
				continue
			}
			o.attacks++
			if len(a.found) > 0 {
				o.found++
			}
			for rule := range a.found {
				o.by[rule]++
			}
		}
		for i := range r.rules {
			if t := &r.rules[i]; slices.Contains(s.rules, t.rule) {
				t.attacks += o.attacks
				t.found += o.by[t.rule]
			}
		}
		r.outcomes = append(r.outcomes, o)
	}
	return r
}

// share returns a share in percent with its 95 % interval (Wilson).
func share(n, of int) string {
	if of == 0 {
		return "-"
	}
	const z = 1.96
	p, m := float64(n)/float64(of), float64(of)
	middle := (p + z*z/(2*m)) / (1 + z*z/m)
	half := z / (1 + z*z/m) * math.Sqrt(p*(1-p)/m+z*z/(4*m*m))
	return fmt.Sprintf("%.0f %% (%.0f to %.0f)", 100*p, 100*max(middle-half, 0), 100*min(middle+half, 1))
}

// rate returns a number of events per thousand tokens and day with its 95 % interval (Byar's approximation).
func rate(n int, days float64) string {
	low, high := 0., 0.
	if n > 0 {
		low = float64(n) * math.Pow(1-1/(9*float64(n))-1.96/(3*math.Sqrt(float64(n))), 3)
	}
	m := float64(n + 1)
	high = m * math.Pow(1-1/(9*m)+1.96/(3*math.Sqrt(m)), 3)
	per := 1000 / days
	return fmt.Sprintf("%s (%s to %s)", figure(float64(n)*per), figure(low*per), figure(high*per))
}

// figure returns a number with two digits that count, or more if the number is 100 or more.
func figure(x float64) string {
	if x >= 99.5 {
		return fmt.Sprintf("%.0f", x)
	}
	return fmt.Sprintf("%.2g", x)
}

// rare returns the precision if one token of 10,000 were attacked a day, in percent.
func (t *tally) rare(days float64) string {
	if t.attacks == 0 || t.found == 0 {
		return "-"
	}
	right := float64(t.found) / float64(t.attacks) / 10_000
	return fmt.Sprintf("%.0f %%", 100*right/(right+float64(t.wrong)/days))
}

// print prints the tables of docs/insight.md.
func (r *result) print(out io.Writer) {
	var b strings.Builder
	b.WriteString("| rule | attacks found | recall | findings | precision | false findings per 1,000 tokens and day | " +
		"in the first week | precision if rare |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for i := range r.rules {
		t := &r.rules[i]
		fmt.Fprintf(&b, "| `%s` | %d of %d | %s | %d | %s | %s | %s | %s |\n", t.rule, t.found, t.attacks, share(t.found, t.attacks),
			t.right+t.wrong, share(t.right, t.right+t.wrong), rate(t.wrong, r.days), figure(1000*float64(t.early)/r.first), t.rare(r.days))
	}
	b.WriteString("\n| rule | false findings about tokens of |\n| --- | --- |\n")
	for i := range r.rules {
		t := &r.rules[i]
		roles := slices.SortedFunc(maps.Keys(t.of), func(a, b string) int { return cmp.Or(cmp.Compare(t.of[b], t.of[a]), cmp.Compare(a, b)) })
		for i, role := range roles {
			roles[i] = fmt.Sprintf("%s %d", cmp.Or(role, "nobody known"), t.of[role])
		}
		if len(roles) > 0 {
			fmt.Fprintf(&b, "| `%s` | %s |\n", t.rule, strings.Join(roles, ", "))
		}
	}
	b.WriteString("\n| attack | found by any rule | by |\n| --- | --- | --- |\n")
	for _, o := range r.outcomes {
		var by []string
		for i := range detect.Rules {
			if n := o.by[detect.Rules[i].Rule]; n > 0 {
				by = append(by, fmt.Sprintf("`%s` %d", detect.Rules[i].Rule, n))
			}
		}
		fmt.Fprintf(&b, "| %s | %d of %d | %s |\n", o.kind, o.found, o.attacks, strings.Join(by, ", "))
	}
	_, _ = io.WriteString(out, b.String())
}

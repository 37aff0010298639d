package main

import (
	"strings"
	"testing"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
)

// reported are the rules that fire whenever somebody reports something: there is nothing to measure.
var reported = map[detect.Rule]bool{"leaked": true}

// Every rule finds attacks that it promises to find. The bounds are far below what a longer run measures.
func TestEveryRuleFindsItsAttacks(t *testing.T) {
	w, err := settings{weeks: 2, clients: 200, each: 12, seed: 7}.simulate()
	if err != nil {
		t.Fatal(err)
	}
	r := w.result()
	var table strings.Builder
	r.print(&table)
	t.Log("\n" + table.String())
	certain := map[detect.Rule]bool{
		detect.DormantAwake: true, detect.RefreshReuse: true, detect.ProofFailed: true, detect.WrongEnvironment: true,
	}
	for _, rule := range r.rules {
		switch {
		case reported[rule.rule]:
		case rule.attacks == 0:
			t.Errorf("%s: no scenario has an attack for the rule", rule.rule)
		case rule.found == 0:
			t.Errorf("%s finds none of %d attacks", rule.rule, rule.attacks)
		case certain[rule.rule] && 10*rule.found < 7*rule.attacks:
			t.Errorf("%s finds only %d of %d attacks", rule.rule, rule.found, rule.attacks)
		case rule.wrong > 0 && float64(rule.wrong)/r.days > 1:
			t.Errorf("%s has %d false findings in %.0f tokens and days", rule.rule, rule.wrong, r.days)
		}
	}
}

// A seed decides everything.
func TestSeed(t *testing.T) {
	table := func() string {
		w, err := settings{weeks: 2, clients: 100, each: 1, seed: 3}.simulate()
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		w.result().print(&b)
		return b.String()
	}
	if first, second := table(), table(); first != second {
		t.Errorf("the same seed has two results:\n%s\n%s", first, second)
	}
}

func TestIntervals(t *testing.T) {
	for got, want := range map[string]string{
		share(40, 40): "100 % (91 to 100)", share(0, 40): "0 % (0 to 9)", share(20, 40): "50 % (35 to 65)", share(0, 0): "-",
		rate(0, 1000): "0 (0 to 3.7)", rate(10, 1000): "10 (4.8 to 18)",
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

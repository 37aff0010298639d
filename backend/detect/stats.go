package detect

import "time"

// Grade is a rule and a severity.
type Grade struct {
	Rule     Rule
	Severity string
}

// Severities are all severities, the highest first.
var Severities = []string{High, Medium, Low}

// Stats are numbers of findings.
type Stats struct {
	Findings int           // all in memory
	Open     map[Grade]int // that nobody has acknowledged
	Due      int           // whose response is not done
	DueSince time.Time     // first event of the oldest of these; zero: there are none
	Failed   int           // whose last response failed
}

// Stats counts the findings in memory.
func (d *Detector) Stats() Stats {
	fs := &d.findings
	fs.mu.Lock()
	defer fs.mu.Unlock()
	st := Stats{Findings: len(fs.byID), Open: make(map[Grade]int)}
	for _, it := range fs.byID {
		if it.State == Open {
			st.Open[Grade{it.Rule, it.Severity}]++
		}
		if it.respond != "" {
			st.Due++
			if st.DueSince.IsZero() || it.First.Before(st.DueSince) {
				st.DueSince = it.First
			}
		}
		if it.Response == Failed {
			st.Failed++
		}
	}
	return st
}

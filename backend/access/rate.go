package access

import (
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// Limits of a Rate.
const (
	maxRateCount  = 1_000_000
	maxRateWindow = 24 * time.Hour
)

// Rate is how often a token may be used: a bucket of Burst uses that is refilled by Count uses in each Window. The zero
// value is no limit. The engine does not count uses: each verifier enforces the rate by itself, per token and process.
type Rate struct {
	Count  int           // uses in a window, 1 to 1,000,000
	Window time.Duration // whole seconds, up to 24h
	Burst  int           // uses at once, 1 to 1,000,000
}

var ratePattern = regexp.MustCompile(`^([1-9][0-9]{0,6})/([1-9][0-9]{0,4})([smh])(?: burst ([1-9][0-9]{0,6}))?$`)

var rateUnits = map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour}

// ParseRate parses a rate such as "100/1m" or "100/1m burst 20": a count, a window in seconds, minutes or hours, and a
// burst, which is the count unless given. The empty string is no limit.
func ParseRate(s string) (Rate, error) {
	if s == "" {
		return Rate{}, nil
	}
	parts := ratePattern.FindStringSubmatch(s)
	if parts == nil {
		return Rate{}, fmt.Errorf("%q is not a rate: want <count>/<window>, such as 100/1m or 10/1s burst 50, "+
			"the window in s, m or h", clip(s))
	}
	count, _ := strconv.Atoi(parts[1]) // the pattern leaves no errors
	units, _ := strconv.Atoi(parts[2])
	burst := count
	if parts[4] != "" {
		burst, _ = strconv.Atoi(parts[4])
	}
	r := Rate{Count: count, Window: time.Duration(units) * rateUnits[parts[3]], Burst: burst}
	switch {
	case r.Count > maxRateCount:
		return Rate{}, fmt.Errorf("%d uses in a window, at most %d are allowed", r.Count, maxRateCount)
	case r.Burst > maxRateCount:
		return Rate{}, fmt.Errorf("a burst of %d uses, at most %d are allowed", r.Burst, maxRateCount)
	case r.Window > maxRateWindow:
		return Rate{}, fmt.Errorf("a window of %s%s, at most 24h are allowed", parts[2], parts[3])
	}
	return r, nil
}

// IsZero reports whether r is no limit.
func (r Rate) IsZero() bool { return r == Rate{} }

// String returns the rate as ParseRate reads it, in the largest unit that divides the window: "100/1m", not "100/60s".
func (r Rate) String() string {
	if r.IsZero() {
		return ""
	}
	n, unit := r.Window/time.Second, "s"
	switch {
	case r.Window%time.Hour == 0:
		n, unit = r.Window/time.Hour, "h"
	case r.Window%time.Minute == 0:
		n, unit = r.Window/time.Minute, "m"
	}
	s := fmt.Sprintf("%d/%d%s", r.Count, n, unit)
	if r.Burst != r.Count {
		s += fmt.Sprintf(" burst %d", r.Burst)
	}
	return s
}

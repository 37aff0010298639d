package insight

import (
	"net/netip"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// Report is a batch of what a reporter has seen.
type Report struct {
	Reporter string
	Sequence uint64 // rises with each batch of the reporter
	Tokens   []TokenUse
	Unknown  []AddressUse
}

// TokenUse is what a reporter has seen of a token.
type TokenUse struct {
	ID token.ID // of the grant
	Seen
}

// AddressUse is how many unknown tokens from an address a reporter has refused.
type AddressUse struct {
	Address  netip.Addr
	Refusals uint64
}

// Outcome is what came of a report.
type Outcome struct {
	Accepted  int  `json:"accepted"`  // number of rows that were counted
	Ignored   int  `json:"ignored"`   // number of rows about unknown tokens
	Duplicate bool `json:"duplicate"` // the batch was counted before: nothing was counted now
	Reporters int  `json:"reporters"` // number of reporters that have reported lately
}

// Count counts a batch, once. Times after now count as now.
func (u *Usage) Count(r *Report) (Outcome, error) {
	u.merging.RLock()
	defer u.merging.RUnlock()
	now := u.Now()
	duplicate, err := u.reporters.begin(r.Reporter, r.Sequence, now)
	if err != nil {
		return Outcome{}, err
	}
	done := Outcome{Duplicate: duplicate, Reporters: u.reporters.live(now)}
	if duplicate {
		return done, nil
	}
	for i := range r.Tokens {
		row := &r.Tokens[i]
		if row.At.IsZero() || row.At.After(now) {
			row.At = now
		}
		if u.add(row.ID, time.Time{}, &row.Seen) {
			done.Accepted++
		} else {
			done.Ignored++
		}
	}
	for _, a := range r.Unknown {
		u.Refused(a.Address, 0, a.Refusals)
		done.Accepted++
	}
	return done, nil
}

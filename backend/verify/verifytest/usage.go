package verifytest

import (
	"encoding/json"
	"net/http"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
)

// usage is what verifiers have reported.
type usage struct {
	sequences map[string]int64 // by reporter
	others    int
	uses      map[string]Usage
	unknown   map[string]uint64
}

// Usage is what verifiers have reported of a token.
type Usage struct {
	Uses     uint64
	LastIP   string
	IPs      []string // the last_ip of each row
	Region   string
	Scopes   []string
	Refusals map[access.Reason]uint64
}

// report answers as the engine does: backend/path_usage.go.
func (i *Issuer) report(r *http.Request) map[string]any {
	var in struct {
		Reporter string
		Sequence int64
		Tokens   []struct {
			ID       string `json:"token_id"`
			Uses     uint64
			LastIP   string `json:"last_ip"`
			Region   string `json:"last_region"`
			Scopes   []string
			Refusals map[access.Reason]uint64
		}
		Unknown []struct {
			IP       string
			Refusals uint64
		}
	}
	_ = json.NewDecoder(r.Body).Decode(&in)
	u := &i.usage
	if u.sequences == nil {
		u.sequences, u.uses, u.unknown = make(map[string]int64), make(map[string]Usage), make(map[string]uint64)
	}
	duplicate := in.Sequence <= u.sequences[in.Reporter]
	if !duplicate {
		u.sequences[in.Reporter] = in.Sequence
		for _, row := range in.Tokens {
			one := u.uses[row.ID]
			one.Uses += row.Uses
			one.LastIP, one.Region, one.Scopes = row.LastIP, row.Region, row.Scopes
			one.IPs = append(one.IPs, row.LastIP)
			if one.Refusals == nil {
				one.Refusals = make(map[access.Reason]uint64)
			}
			for reason, n := range row.Refusals {
				one.Refusals[reason] += n
			}
			u.uses[row.ID] = one
		}
		for _, row := range in.Unknown {
			u.unknown[row.IP] += row.Refusals
		}
	}
	return map[string]any{"accepted": len(in.Tokens), "ignored": 0, "duplicate": duplicate, "reporters": len(u.sequences) + u.others}
}

// Reported returns what verifiers have reported of a token.
func (i *Issuer) Reported(text string) Usage {
	id := i.ID(text)
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.usage.uses[id]
}

// ReportedUnknown returns how many unknown tokens verifiers have reported of an address.
func (i *Issuer) ReportedUnknown(ip string) uint64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.usage.unknown[ip]
}

// AddReporters has the answers to reports count n more processes that report.
func (i *Issuer) AddReporters(n int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.usage.others += n
}

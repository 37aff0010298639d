package main

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/insight"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// Assumptions about verifiers. A third of the API servers introspects, and the others verify tokens and report: every 30
// seconds, with clocks that are up to 30 seconds off, two of twelve up to four minutes. Once a week a verifier cannot report
// for ten minutes to six hours, and its backlog then comes in one batch.
const (
	reportEvery  = 30 * second
	clockOff     = 30
	badClockOff  = 240
	cutOffEvery  = 7 * day
	cutOffLeast  = 10 * minute
	cutOffMost   = 6 * hour
	introspected = 1. / 3
)

// verifier is an API server that verifies tokens, and reports in batches.
type verifier struct {
	w        *world
	name     string
	skew     int64
	sequence uint64
	index    map[token.ID]int // place in rows
	rows     []insight.TokenUse
	unknown  map[netip.Addr]uint64
	unknowns []netip.Addr // in the order of their first refusal
	waiting  bool         // a report is due
	cutOff   int64        // until when no report arrives
}

func (w *world) newVerifier(i int) *verifier {
	off := clockOff
	if i%6 == 5 {
		off = badClockOff
	}
	v := &verifier{w: w, name: fmt.Sprintf("api-%d", i), skew: int64(w.between(-off, off))}
	v.clear()
	w.at(begin+w.about(cutOffEvery), v.lose)
	return v
}

// server returns an API server for a new client; nil: one that introspects.
func (w *world) server() *verifier {
	if w.chance(introspected) {
		return nil
	}
	return w.verifiers[w.rand.IntN(len(w.verifiers))]
}

func (v *verifier) clear() {
	v.index, v.unknown, v.rows, v.unknowns = make(map[token.ID]int), make(map[netip.Addr]uint64), nil, nil
}

// lose cuts the verifier off for some time.
func (v *verifier) lose() {
	v.cutOff = v.w.now + v.w.lasting(cutOffLeast, cutOffMost)
	v.w.in(v.w.about(cutOffEvery), v.lose)
}

// row returns the row of a token in the next report.
func (v *verifier) row(id token.ID) *insight.TokenUse {
	at, known := v.index[id]
	if !known {
		at = len(v.rows)
		v.index[id] = at
		v.rows = append(v.rows, insight.TokenUse{ID: id})
	}
	v.wait()
	return &v.rows[at]
}

// used counts uses, and keeps the circumstances of the last one, as package verify does.
func (v *verifier) used(id token.ID, n int, from netip.Addr) {
	row := v.row(id)
	row.Uses += uint64(n)
	row.At, row.Address = time.Unix(v.w.now+v.skew, 0), from
}

func (v *verifier) refused(id token.ID, reason access.Reason, n int) {
	row := v.row(id)
	for i := range row.Refusals {
		if row.Refusals[i].Reason == reason {
			row.Refusals[i].Count += uint32(n)
			return
		}
	}
	row.Refusals = append(row.Refusals, insight.Refusals{Reason: reason, Count: uint32(n)})
}

// reject counts unknown tokens, which a verifier does not tell apart.
func (v *verifier) reject(from netip.Addr) {
	if v.unknown[from]++; v.unknown[from] == 1 {
		v.unknowns = append(v.unknowns, from)
	}
	v.wait()
}

func (v *verifier) wait() {
	if !v.waiting {
		v.waiting = true
		v.w.in(reportEvery, v.report)
	}
}

// report sends what was gathered, or waits until reports arrive again.
func (v *verifier) report() {
	if v.w.now < v.cutOff {
		v.w.at(v.cutOff, v.report)
		return
	}
	v.waiting = false
	unknown := make([]insight.AddressUse, len(v.unknowns))
	for i, from := range v.unknowns {
		unknown[i] = insight.AddressUse{Address: from, Refusals: v.unknown[from]}
	}
	v.sequence++
	batch := &insight.Report{Reporter: v.name, Sequence: v.sequence, Tokens: v.rows, Unknown: unknown}
	if _, err := v.w.usage.Count(batch); err != nil {
		panic(err) // twelve reporters have room
	}
	v.clear()
}

package verify

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// refusalAge is how long the refusal of a text is kept.
const refusalAge = 10 * time.Second

// found is what is known of a text: facts, or a refusal, or nothing since too many unknown texts were shown.
type found struct {
	facts   *facts
	refusal *refusal
	retry   time.Duration // when to ask again
}

// question is a question to Vault about a text.
type question struct {
	sum    digest
	text   string
	before *facts     // facts that may be out of date; nil: there are none
	proven bool       // whether the text is known to be a token, so that the question is not noise
	client netip.Addr // who shows the text
}

var errPosition = errors.New("the answer of introspect has no position in the feed that was read: " +
	"it may be older than a revocation")

// ask asks Vault about a token. Callers that ask about one text at once share one request, which no caller's ctx ends.
func (v *impl) ask(ctx context.Context, q *question) (found, error) {
	flight := v.flights.DoChan(string(q.sum[:]), func() (any, error) {
		if q.proven {
			return v.askNow(ctx, q)
		}
		giveBack, retry, ok := v.gate.enter(q.client, v.config.Now())
		if !ok {
			v.limited.Add(1)
			return found{retry: max(retry, time.Millisecond)}, nil
		}
		is, err := v.askNow(ctx, q)
		if is.facts != nil {
			giveBack()
		}
		return is, err
	})
	select {
	case <-ctx.Done():
		return found{}, ctx.Err()
	case result := <-flight:
		f, _ := result.Val.(found)
		return f, result.Err
	}
}

func (v *impl) askNow(ctx context.Context, q *question) (found, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), v.config.RequestTimeout)
	defer cancel()
	began := v.config.Now()
	_, end := v.events.where()
	v.asked.Add(1)
	a, err := v.vault.introspect(ctx, q.text, end.cursor)
	if err != nil {
		return found{}, fmt.Errorf("introspecting a token: %w", err)
	}
	at, ok := v.events.of(a.Epoch, a.Cursor)
	if !ok { // the feed may have a new epoch
		if err := v.poll(ctx); err != nil {
			return found{}, err
		}
		if at, ok = v.events.of(a.Epoch, a.Cursor); !ok {
			return found{}, errPosition
		}
	}
	f, r, err := v.read(a, at, began)
	switch {
	case err != nil:
		return found{}, err
	case r != nil:
		v.tokens.Invalidate(q.sum)
		return v.refused(q.sum, r, began), nil
	}
	f.meter.Store(v.meterOf(f, q.before))
	v.tokens.Set(q.sum, f)
	return found{facts: f}, nil
}

// read returns the facts of an answer, or the refusal of the token whatever its use.
func (v *impl) read(a *answer, at position, asked time.Time) (*facts, *refusal, error) {
	no := &refusal{reason: a.Reason, detail: a.Detail, id: a.TokenID, role: a.Role}
	if !a.Active {
		switch { // the answer was made without a use: these reasons say that the token needs one
		case a.Reason == access.AddressNotAllowed && len(a.CIDRs) > 0:
		case a.Reason == access.RegionNotAllowed && len(a.Regions) > 0:
		case a.Reason == access.HostNotAllowed && len(a.Hosts) > 0:
		case a.Reason == access.Good:
			return nil, nil, errors.New("the answer of introspect has neither active nor a reason")
		default:
			return nil, no, nil
		}
	}
	t, err := v.interned.terms(&rawTerms{
		Role: a.Role, Scopes: a.Scope, Audience: a.Audience, CIDRs: a.CIDRs, Regions: a.Regions, Hosts: a.Hosts,
		Metadata: a.Metadata, Environment: a.Environment, Rate: a.Rate,
	})
	if errors.Is(err, errNothingLeft) {
		no.reason, no.detail = access.AddressNotAllowed, err.Error()
		return nil, no, nil
	}
	if _, _, nameErr := token.ParseName(a.TokenID); err == nil {
		err = nameErr
	}
	if err != nil {
		return nil, nil, fmt.Errorf("the answer of introspect: %w", err)
	}
	f := &facts{
		terms: t, expires: a.Expires, learned: asked.UnixNano(), epoch: at.epoch, cursor: at.cursor,
	}
	f.setNames(a.TokenID, a.Subject)
	if a.Bound.JKT != "" || a.Bound.X5T != "" {
		f.bound = &token.Confirmation{JKT: a.Bound.JKT, X5T: a.Bound.X5T}
	}
	return f, nil, nil
}

// gate limits questions about tokens that are not known to be good, so that noise does not reach Vault. Half of the questions
// is reserved for addresses that have shown a good token, so that noise of strangers does not keep new tokens out.
type gate struct {
	all, strangers     access.Bucket
	rate, strange, one access.Rate // of all addresses, of strangers together, and of an address
	addrs              *otter.Cache[netip.Prefix, *visitor]
}

// visitor is an address that shows tokens.
type visitor struct {
	asked access.Bucket
	known atomic.Bool // whether the address has shown a good token
}

// maxGateAddresses is the number of addresses that are counted. An address that is forgotten begins anew, within rate.
const maxGateAddresses = 50_000

func newGate(perSecond int) *gate {
	each := func(n int) access.Rate { return access.Rate{Count: max(1, n), Burst: max(1, n), Window: time.Second} }
	return &gate{
		rate: each(perSecond), strange: each(perSecond / 2), one: each(perSecond / 5),
		addrs: otter.Must(&otter.Options[netip.Prefix, *visitor]{MaximumSize: maxGateAddresses, InitialCapacity: 64}),
	}
}

// enter counts a question for an address, and reports whether it may be asked. giveBack takes a question back that was
// about a good token.
func (g *gate) enter(addr netip.Addr, now time.Time) (giveBack func(), retry time.Duration, ok bool) {
	v, _ := g.addrs.SetIfAbsent(access.ClientRange(addr), new(visitor)) // all uses without an address share one visitor
	if _, retry, ok = v.asked.Take(g.one, now); !ok {
		return nil, retry, false
	}
	stranger := !v.known.Load()
	if stranger {
		if _, retry, ok = g.strangers.Take(g.strange, now); !ok {
			v.asked.GiveBack(g.one)
			return nil, retry, false
		}
	}
	if _, retry, ok = g.all.Take(g.rate, now); !ok {
		v.asked.GiveBack(g.one)
		if stranger {
			g.strangers.GiveBack(g.strange)
		}
		return nil, retry, false
	}
	return func() {
		v.known.Store(true)
		v.asked.GiveBack(g.one)
		g.all.GiveBack(g.rate)
		if stranger {
			g.strangers.GiveBack(g.strange)
		}
	}, 0, true
}

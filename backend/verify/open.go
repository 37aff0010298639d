package verify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/singleflight"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/feed"
)

// impl is a Verifier.
type impl struct {
	config  Config
	hosts   access.Hosts
	proxies []netip.Prefix
	public  *http.Client // for public documents
	base    string       // URL of the mount
	issuer  issuer       // "iss" of JWTs

	vault  *vault  // nil: only JWTs
	source *source // of the feed; nil: vault
	relay  atomic.Pointer[feed.Feed]
	events *events
	keys   *keySet
	lists  *listSet

	recent   *recent
	digests  *digester
	tokens   *otter.Cache[digest, *facts]
	refusals *otter.Cache[digest, *refusal]
	interned interner
	flights  singleflight.Group
	gate     *gate
	proofs   *proofs
	usage    *usage

	polling sync.Mutex
	relist  atomic.Bool // the status lists must be read again
	asked   atomic.Uint64
	limited atomic.Uint64
	stop    context.CancelFunc
	work    sync.WaitGroup
}

// open checks the configuration, and reads keys and feed.
func open(ctx context.Context, c Config) (*Verifier, error) {
	v := &Verifier{}
	i := &v.impl
	if err := i.configure(c); err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	if err := i.start(ctx); err != nil {
		i.public.CloseIdleConnections()
		return nil, fmt.Errorf("verify: %w", err)
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	i.stop = stop
	i.work.Go(func() { i.every(background, i.config.PollInterval, i.tick) })
	i.work.Go(func() { i.every(background, time.Second, i.refresh) })
	i.work.Go(func() { i.every(background, sweepInterval, i.sweep) })
	if !i.config.silent {
		i.work.Go(func() { i.every(background, i.config.ReportInterval, i.report) })
		i.work.Go(func() { i.reportMoves(background) })
	}
	return v, nil
}

func (v *impl) configure(c Config) error {
	if err := c.defaults(); err != nil {
		return err
	}
	v.config = c
	var err error
	if v.hosts, err = access.ParseHosts(c.Hosts); err != nil {
		return wrong("Hosts", "%w", err)
	}
	if v.proxies, err = ParseProxies(c.TrustedProxies); err != nil {
		return wrong("TrustedProxies", "%w", err)
	}
	v.issuer.set(c.Issuer)
	v.base = v.issuer.get()
	client := c.HTTPClient
	if c.Vault != nil {
		if v.vault, err = newVault(&c); err != nil {
			return err
		}
		v.base = v.vault.base()
		if client == nil {
			client = v.vault.client.CloneConfig().HttpClient // trusts the certificates that Vault is trusted by
		}
	}
	if c.FeedFrom != nil {
		if v.source, err = newSource(&c); err != nil {
			return err
		}
	}
	v.public = publicClient(client)
	v.events, v.recent, v.digests, v.gate = newEvents(), newRecent(), newDigester(), newGate(c.UnknownPerSecond)
	v.keys = &keySet{now: c.Now, fetch: func(ctx context.Context) ([]byte, time.Duration, error) {
		return v.fetch(ctx, "/oauth/jwks", "application/jwk-set+json", maxJWKS)
	}}
	v.keys.known.Store(&map[string]*key{})
	v.lists = &listSet{fetch: v.fetch, keys: v.keys, issuer: &v.issuer, now: c.Now, lists: make(map[string]*statusList)}
	// To wake another thread for the upkeep of the cache would take longer than the upkeep.
	here := func(upkeep func()) { upkeep() }
	v.tokens = otter.Must(&otter.Options[digest, *facts]{MaximumSize: c.MaxTokens, Executor: here})
	v.refusals = otter.Must(&otter.Options[digest, *refusal]{MaximumSize: c.MaxUnknown, Executor: here})
	v.proofs, v.usage = newProofs(&c), newUsage(&c)
	return nil
}

// start reads what the Verifier needs before its first decision.
func (v *impl) start(ctx context.Context) error {
	if v.vault != nil {
		if err := v.vault.login(ctx); err != nil {
			return err
		}
		if err := v.poll(ctx); err != nil {
			return err
		}
	}
	v.relist.Store(false) // no list was read yet
	if v.config.Issuer == "" {
		return v.discover(ctx)
	}
	return v.refreshKeys(ctx)
}

func (v *impl) refreshKeys(ctx context.Context) error {
	if err := v.keys.refresh(ctx); err != nil {
		return fmt.Errorf("reading the keys of JWTs: %w", err)
	}
	return nil
}

// every calls work at an interval until ctx ends.
func (v *impl) every(ctx context.Context, interval time.Duration, work func(context.Context) error) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		err := work(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			v.config.Logger.Warn("what is known of tokens is not fresh", slog.Any("error", err))
		case err == nil && failing:
			v.config.Logger.Info("what is known of tokens is fresh again")
		}
		failing = err != nil
	}
}

// tick keeps the Vault token and the feed up to date.
func (v *impl) tick(ctx context.Context) error {
	if v.vault == nil {
		return nil
	}
	return errors.Join(v.vault.keepUp(ctx), v.poll(ctx))
}

// refresh keeps the issuer, keys and status lists up to date.
func (v *impl) refresh(ctx context.Context) error {
	issuerErr := v.rediscover(ctx)
	if v.issuer.get() == "" {
		return issuerErr
	}
	err := v.keys.refreshDue(ctx)
	if err != nil {
		err = fmt.Errorf("reading the keys of JWTs: %w", err)
	}
	return errors.Join(issuerErr, err, v.lists.refreshDue(ctx, v.relist.Swap(false)))
}

// poll reads the feed up to its end.
func (v *impl) poll(ctx context.Context) error {
	v.polling.Lock()
	defer v.polling.Unlock()
	for {
		began := v.config.Now()
		asked, from := v.events.where()
		ctx, cancel := context.WithTimeout(ctx, v.config.RequestTimeout)
		a, err := v.readFeed(ctx, asked, from.cursor)
		cancel()
		if err != nil {
			return fmt.Errorf("reading the feed: %w", err)
		}
		resync, destroyed := v.events.apply(a, asked, from, v.config.Now())
		v.mirror(a, resync)
		v.keys.destroy(destroyed)
		if resync || len(destroyed) > 0 {
			v.keys.again()
			v.relist.Store(true)
		}
		if resync {
			v.issuer.dueAt.Store(0)
		}
		if !a.More {
			began = began.Add(-time.Duration(a.Age) * time.Millisecond)
			v.events.polled.Store(began.UnixNano())
			return nil
		}
	}
}

// readFeed reads a page of the feed, from Vault or from another verifier.
func (v *impl) readFeed(ctx context.Context, epoch string, cursor int64) (*feedAnswer, error) {
	if v.source != nil {
		return v.source.feed(ctx, epoch, cursor)
	}
	return v.vault.feed(ctx, epoch, cursor)
}

// sweepInterval is how often memory is freed of what is no longer needed.
const sweepInterval = time.Minute

// sweep forgets expired tokens, the meters of tokens that nobody uses, and status lists that nobody needs.
func (v *impl) sweep(context.Context) error {
	v.lists.drop()
	now := v.config.Now().Unix()
	for sum, f := range v.tokens.All() {
		if now >= f.expires {
			v.tokens.Invalidate(sum)
		} else if m := f.meter.Load(); m != nil && f.terms.rate.IsZero() && !m.isListed() {
			f.meter.CompareAndSwap(m, nil)
		}
	}
	return nil
}

func (v *impl) close() error {
	v.stop()
	v.work.Wait()
	var err error
	if v.vault != nil {
		ctx, cancel := context.WithTimeout(context.Background(), v.config.RequestTimeout)
		defer cancel()
		if !v.config.silent {
			err = v.report(ctx)
		}
		err = errors.Join(err, v.vault.logout(ctx))
	}
	v.recent.forget()
	v.tokens.InvalidateAll()
	v.refusals.InvalidateAll()
	v.public.CloseIdleConnections()
	return err
}

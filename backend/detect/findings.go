package detect

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/schema"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/store"
)

const (
	// MaxPage is the maximum number of findings on a page.
	MaxPage = 1000

	// maxFindings is the maximum number of findings: about 8 MB.
	maxFindings = 4096

	// keepFor is how long a finding is kept after its last event.
	keepFor = 90 * 24 * time.Hour

	// refreshEvery is how often the summary and the evidence of a finding follow its events, in seconds.
	refreshEvery = minute
)

// findings are the findings in memory.
type findings struct {
	mu       sync.Mutex
	byID     map[string]*item
	gone     map[string]bool // IDs of stored findings to be deleted
	roomMade time.Time       // when makeRoom dropped findings
	left     int             // number of findings for which there was no room, since the last log line
}

// item is a finding with what is still to be done about the finding.
type item struct {
	Finding
	stored  bool      // an entry exists in storage
	dirty   time.Time // since when changes wait for storage; zero: none wait
	notice  *Notice   // that Notify has not taken yet; nil: none
	respond Mode      // the response that is due; empty: none
}

// raise notes n events of a rule. fill sets the severity, the summary, the numbers and the evidence of a finding; raise calls
// fill for a new finding, and once a minute for a finding that goes on.
func (d *Detector) raise(k key, at uint32, n uint64, fill func(*Finding)) {
	id, now := k.id(), fromSeconds(at)
	fs := &d.findings
	fs.mu.Lock()
	defer fs.mu.Unlock()
	it := fs.byID[id]
	if it == nil {
		it = &item{Finding: Finding{ID: id, Rule: k.rule, First: now, Acknowledgement: Acknowledgement{State: Open}}}
		if !fs.place(it, d.Now()) {
			return
		}
		it.fill(&k, fill)
		if mode := d.modeOf(k.rule, it.Role); (mode == Revoke || mode == Suspend) && it.TokenID != "" && it.Response == "" {
			it.respond = mode
		}
	} else if now.Sub(it.Last) >= refreshEvery*time.Second {
		it.fill(&k, fill)
	}
	it.Count += n
	if now.After(it.Last) {
		it.Last = now
	}
	if now.Before(it.First) {
		it.First = now
	}
	news, _ := it.news()
	if it.dirty.IsZero() {
		it.dirty = d.Now()
	} else if news == "" {
		return
	}
	d.Wake()
}

func (it *item) fill(k *key, fill func(*Finding)) {
	it.Evidence = nil
	response := it.Response
	fill(&it.Finding)
	it.Response = cmp.Or(it.Response, response)
	if k.address.IsValid() {
		it.Address = k.address.String()
	}
}

// place adds a finding, and reports whether there is room. The caller holds mu.
func (fs *findings) place(it *item, now time.Time) bool {
	if fs.byID == nil {
		fs.byID, fs.gone = make(map[string]*item), make(map[string]bool)
	}
	if len(fs.byID) >= maxFindings && !fs.makeRoom(now) {
		fs.left++
		return false
	}
	fs.byID[it.ID] = it
	delete(fs.gone, it.ID)
	return true
}

// makeRoom drops the findings that matter least: acknowledged ones before open ones, then those of the lowest severity, then
// the oldest. Sorting costs some milliseconds: makeRoom runs at most once a minute, and otherwise reports false.
func (fs *findings) makeRoom(now time.Time) bool {
	if age := now.Sub(fs.roomMade); age >= 0 && age < time.Minute {
		return false
	}
	fs.roomMade = now
	list := make([]*item, 0, len(fs.byID))
	for _, it := range fs.byID {
		list = append(list, it)
	}
	slices.SortFunc(list, func(a, b *item) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), a.Last.Compare(b.Last))
	})
	for _, least := range list[:maxFindings/16] {
		fs.drop(least)
	}
	return true
}

func rank(it *item) int {
	n := SeverityRank(it.Severity)
	if it.State == Open {
		n += 10
	}
	return n
}

// drop drops a finding from memory, and has Run delete it from storage. The caller holds mu.
func (fs *findings) drop(it *item) {
	delete(fs.byID, it.ID)
	if it.stored {
		fs.gone[it.ID] = true
	}
}

// waits returns how long the changes of a stored finding are still gathered.
func waits(it *item, now time.Time) time.Duration {
	if wait := writeDelay - now.Sub(it.dirty); wait > 0 && wait <= writeDelay {
		return wait
	}
	return 0
}

// retry makes a response due that failed, in this process or in another, as the mode of the rule is now. The caller holds
// findings.mu.
func (d *Detector) retry(it *item, now time.Time) {
	if it.Response != Failed {
		return
	}
	mode := d.modeOf(it.Rule, it.Role)
	switch {
	case mode != Revoke && mode != Suspend:
		it.respond = ""
	case it.respond != "":
		it.respond = mode
	case it.dirty.IsZero():
		it.respond, it.dirty = mode, now
	}
}

// merge combines a finding in memory with what another process has stored.
func (it *item) merge(stored *Finding) {
	own, count, first := it.Finding, max(it.Count, stored.Count), stored.First
	if own.First.Before(first) {
		first = own.First
	}
	if stored.Last.After(own.Last) || it.dirty.IsZero() {
		it.Finding = *stored
	}
	it.Acknowledgement = own.Acknowledgement
	if stored.State == Acknowledged && (own.State != Acknowledged || stored.At.After(own.At)) {
		it.Acknowledgement = stored.Acknowledgement
	}
	it.Response = own.Response
	if own.Response == "" || own.Response == Failed || stored.Response == Revoked {
		it.Response = cmp.Or(stored.Response, own.Response)
	}
	if it.Response == Revoked || it.Response == Suspended {
		it.respond = ""
	}
	if it.Announced = own.Announced; stored.Announced.At.After(own.Announced.At) {
		it.Announced = stored.Announced
	}
	it.Count, it.First, it.stored = count, first, true
}

// Get returns a finding.
func (d *Detector) Get(id string) (Finding, bool) {
	d.findings.mu.Lock()
	defer d.findings.mu.Unlock()
	it := d.findings.byID[id]
	if it == nil {
		return Finding{}, false
	}
	return it.copy(), true
}

// copy returns a finding that does not change. fill replaces the evidence and the numbers as a whole.
func (it *item) copy() Finding { return it.Finding }

// Filter selects findings. The zero value of a field selects all.
type Filter struct {
	Rule  Rule
	Role  string
	State string
	Since time.Time // of the last event
}

// Query asks for a page of findings. A nil field has its default.
type Query struct {
	After *string    `json:"after"` // ID of a finding; nil: from the newest finding on
	Limit *int       `json:"limit"` // nil: MaxPage
	Rule  *string    `json:"rule"`  // only findings of this rule; nil: all
	Role  *string    `json:"role"`  // only findings about tokens of this role; nil: all
	State *string    `json:"state"` // only findings in this state; nil: all
	Since *time.Time `json:"since"` // only findings with an event at this time or later; nil: all
}

// filter returns which findings the query selects.
func (q *Query) filter() (*Filter, error) {
	f := new(Filter)
	if q.Rule != nil {
		f.Rule = Rule(*q.Rule)
	}
	store.Set(&f.Role, q.Role)
	store.Set(&f.State, q.State)
	store.Set(&f.Since, q.Since)
	if f.Rule != "" && !f.Rule.Valid() {
		return nil, refusal.Field("rule", "%q is no rule of config/detection, which has %s", refusal.Clip(string(f.Rule)), RuleNames())
	}
	if f.State != "" && f.State != Open && f.State != Acknowledged {
		return nil, refusal.Field("state", "%q is not one of: %s, %s", refusal.Clip(f.State), Open, Acknowledged)
	}
	return f, nil
}

// Page returns the findings of a page, the newest first, and whether there are more.
func (d *Detector) Page(q *Query) (page []Finding, more bool, _ error) {
	limit, err := schema.Limit(q.Limit, MaxPage)
	if err != nil {
		return nil, false, err
	}
	return d.page(q, limit)
}

// Lines is Page for an answer in JSON Lines.
func (d *Detector) Lines(q *Query) (page []Finding, more bool, _ error) {
	limit, err := schema.LinesLimit(q.Limit)
	if err != nil {
		return nil, false, err
	}
	return d.page(q, limit)
}

func (d *Detector) page(q *Query, limit int) (page []Finding, more bool, _ error) {
	filter, err := q.filter()
	if err != nil {
		return nil, false, err
	}
	after := ""
	store.Set(&after, q.After)
	page, more, known := d.List(filter, after, limit)
	if !known {
		return nil, false, refusal.Field("after", "%q is not the id of a finding: list from the start", refusal.Clip(after))
	}
	return page, more, nil
}

func (f *Filter) takes(it *item) bool {
	return (f.Rule == "" || f.Rule == it.Rule) && (f.Role == "" || f.Role == it.Role) && (f.State == "" || f.State == it.State) &&
		!it.Last.Before(f.Since)
}

// List returns at most limit findings that a filter selects, the newest first, after the finding with an ID; the empty ID
// stands for the first page. more reports whether there are more. known is false if there is no finding with the ID.
func (d *Detector) List(filter *Filter, after string, limit int) (list []Finding, more, known bool) {
	fs := &d.findings
	fs.mu.Lock()
	defer fs.mu.Unlock()
	last := fs.byID[after]
	if after != "" && last == nil {
		return nil, false, false
	}
	for _, it := range fs.byID {
		if filter.takes(it) && (last == nil || newestFirst(&last.Finding, &it.Finding) < 0) {
			list = append(list, it.copy())
		}
	}
	slices.SortFunc(list, func(a, b Finding) int { return newestFirst(&a, &b) })
	if len(list) > limit {
		return list[:limit], true, true
	}
	return list, false, true
}

// newestFirst compares findings by their first event, which seldom changes: pages do not overlap.
func newestFirst(a, b *Finding) int { return cmp.Or(b.First.Compare(a.First), cmp.Compare(a.ID, b.ID)) }

// Prune drops what is kept of addresses and findings that are long past.
func (d *Detector) Prune(now time.Time) {
	d.addresses.prune(seconds(now))
	d.ends.prune(seconds(now))
	fs := &d.findings
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.left > 0 {
		d.Log().Warn("findings of misuse left out: there is no room for more", "left_out", fs.left, "kept", maxFindings)
		fs.left = 0
	}
	for _, it := range fs.byID {
		if now.Sub(it.Last) > keepFor {
			fs.drop(it)
		}
	}
	if len(fs.gone) > 0 {
		d.Wake()
	}
}

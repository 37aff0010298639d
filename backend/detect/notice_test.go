package detect

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/go-hclog"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
)

// listen has the detector note its notices.
func (b *bench) listen() (notices *[]Notice, log *bytes.Buffer) {
	notices, log = new([]Notice), new(bytes.Buffer)
	b.Notify = func(_ context.Context, n *Notice) error {
		*notices = append(*notices, *n)
		return nil
	}
	b.Log = func() hclog.Logger { return hclog.New(&hclog.LoggerOptions{Output: log}) }
	return notices, log
}

// work has the detector run for a while.
func (b *bench) work(seconds int) {
	for range seconds {
		b.Run(ctx)
		b.pass(time.Second)
	}
}

func kinds(notices []Notice) (list []Kind) {
	for i := range notices {
		list = append(list, notices[i].Kind)
	}
	return list
}

// A new finding makes a notice; further events make one only if there are ten times as many, and not within an hour.
func TestNotices(t *testing.T) {
	b := newBench(t)
	b.set(Change{Modes: map[Rule]Mode{RefusedBurst: Off}})
	notices, log := b.listen()
	b.refuse(1, "proof_replayed", 1)
	b.work(2)
	for range 100 {
		b.refuse(1, "proof_replayed", 1)
		b.work(1)
	}
	if got := kinds(*notices); !slices.Equal(got, []Kind{KindOpened}) {
		t.Fatalf("within an hour: %v", got)
	}
	n := (*notices)[0]
	if !idForm.MatchString(n.ID) || n.ID == n.Finding.ID || n.Finding.Rule != ProofFailed || n.Finding.TokenID != idOf(1).String() || !n.At.Equal(start) {
		t.Errorf("the notice is %+v", n)
	}
	b.pass(escalateAfter)
	b.refuse(1, "proof_replayed", 1)
	b.work(2)
	b.refuse(1, "proof_replayed", 1)
	b.pass(escalateAfter)
	b.work(2)
	if got := kinds(*notices); !slices.Equal(got, []Kind{KindOpened, KindEscalated}) {
		t.Fatalf("after an hour: %v", got)
	}
	if e := (*notices)[1]; e.ID == n.ID || e.Change != "102 events, before 1" || e.Finding.ID != n.Finding.ID {
		t.Errorf("the escalation is %+v", e)
	}
	next := b.after()
	again, _ := next.listen()
	next.pass(escalateAfter)
	next.work(3)
	if len(*again) != 0 {
		t.Errorf("after a restart: %v", kinds(*again))
	}
	if text := log.String(); strings.Count(text, "findings: misuse of a token found") != 1 || strings.Count(text, "findings: finding escalated") != 1 {
		t.Errorf("logged:\n%s", text)
	}
}

// A higher severity is news at once, a severity that falls and rises again is none.
func TestNoticeOfASeverity(t *testing.T) {
	b := newBench(t)
	notices, _ := b.listen()
	raise := func(severity string) {
		b.raise(key{rule: Shared, token: idOf(1)}, seconds(b.now), 1, func(f *Finding) { f.Severity = severity })
		b.work(120)
	}
	for _, severity := range []string{Medium, Medium, High, Medium, High, High} {
		raise(severity)
	}
	if got := kinds(*notices); !slices.Equal(got, []Kind{KindOpened, KindEscalated}) {
		t.Fatalf("got %v", got)
	}
	if n := (*notices)[1]; n.Change != "severity high, before medium" || n.Finding.Severity != High {
		t.Errorf("the escalation is %+v", n)
	}
}

// The notice of a finding has the response. A response that succeeds later is news.
func TestNoticeOfAResponse(t *testing.T) {
	b := newBench(t)
	notices, _ := b.listen()
	b.set(Change{Modes: map[Rule]Mode{ProofFailed: Suspend}})
	b.refuse(1, "proof_replayed", 1)
	b.work(3)
	b.fails = errors.New("sealed")
	b.refuse(2, "proof_replayed", 1)
	b.work(3)
	b.fails = nil
	b.work(60)
	var got []string
	for _, n := range *notices {
		got = append(got, string(n.Kind)+" "+n.Finding.Response+" "+n.Change)
	}
	if want := []string{"opened suspended ", "opened failed ", "escalated suspended response suspended"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// An acknowledgement is news, also of a finding that was not stored yet, and after a crash.
func TestNoticeOfAnAcknowledgement(t *testing.T) {
	b := newBench(t)
	b.set(Change{Modes: map[Rule]Mode{RefusedBurst: Off}})
	notices, log := b.listen()
	b.refuse(1, "proof_replayed", 1)
	id := b.found("")[0].ID
	if err := b.Acknowledge(ctx, b.Storage, id, "a test of mine", "ann"); err != nil {
		t.Fatal(err)
	}
	next := b.after() // the process has crashed
	next.Storage = b.copied()
	again, _ := next.listen()
	next.work(3)
	b.work(3)
	for _, got := range [][]Notice{*notices, *again} {
		if !slices.Equal(kinds(got), []Kind{KindOpened, KindAcknowledged}) || got[1].Finding.Note != "a test of mine" || got[1].Finding.By != "ann" {
			t.Errorf("got %+v", got)
		}
	}
	if (*notices)[0].ID != (*again)[0].ID {
		t.Error("the same notice has another ID after a crash")
	}
	if err := b.Acknowledge(ctx, b.Storage, id, "the same", "bob"); err != nil {
		t.Fatal(err)
	}
	b.pass(2 * escalateAfter)
	for range 100 { // an acknowledged finding does not escalate by its count
		b.refuse(1, "proof_replayed", 1)
	}
	b.work(100)
	if got := kinds(*notices); !slices.Equal(got, []Kind{KindOpened, KindAcknowledged, KindAcknowledged}) {
		t.Errorf("got %v", got)
	}
	if text := log.String(); strings.Contains(text, "a test of mine") || strings.Count(text, "finding acknowledged") != 2 {
		t.Errorf("logged:\n%s", text)
	}
}

// The name of who acknowledges, which may come from another identity system, is bounded and one line.
func TestAcknowledgedBy(t *testing.T) {
	b := newBench(t)
	notices, _ := b.listen()
	b.refuse(1, "proof_replayed", 1)
	b.work(2)
	id := b.found("")[0].ID
	if err := b.Acknowledge(ctx, b.Storage, id, "a test", "ann\n*alert*\x1b"+strings.Repeat("ä", 1<<19)); err != nil {
		t.Fatal(err)
	}
	b.work(2)
	for _, f := range []Finding{b.found("")[0], (*notices)[len(*notices)-1].Finding} {
		if len(f.By) > MaxNote || !utf8.ValidString(f.By) || strings.ContainsFunc(f.By, unicode.IsControl) || !strings.HasPrefix(f.By, "ann *alert* ä") {
			t.Errorf("%d bytes: %.40q", len(f.By), f.By)
		}
	}
}

// A notice that nobody takes is tried again, with the same ID and without another log line, before the finding is stored.
func TestNoticeIsRetried(t *testing.T) {
	b := newBench(t)
	notices, log := b.listen()
	take, fails, tried := b.Notify, true, []string{}
	b.Notify = func(ctx context.Context, n *Notice) error {
		tried = append(tried, n.ID)
		if fails {
			return errors.New("no storage")
		}
		return take(ctx, n)
	}
	b.refuse(1, access.Reason("proof_replayed"), 1)
	b.work(25)
	if len(tried) != 3 || len(b.stored()) != 0 {
		t.Errorf("tried %v, stored %v", tried, b.stored())
	}
	fails = false
	b.work(25)
	if len(tried) != 4 || tried[3] != tried[0] || len(*notices) != 1 || len(b.stored()) != 1 {
		t.Errorf("tried %v, taken %v, stored %v", tried, kinds(*notices), b.stored())
	}
	if n := strings.Count(log.String(), "misuse of a token found"); n != 1 {
		t.Errorf("%d log lines", n)
	}
}

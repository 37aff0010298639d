package access

import (
	"strings"
	"testing"
	"time"
)

func TestParseRate(t *testing.T) {
	for _, c := range []struct {
		text, want string // as String returns it; "!": part of the error
		rate       Rate
	}{
		{"", "", Rate{}},
		{"100/1m", "100/1m", Rate{100, time.Minute, 100}},
		{"100/60s", "100/1m", Rate{100, time.Minute, 100}},
		{"100/60m", "100/1h", Rate{100, time.Hour, 100}},
		{"100/90s", "100/90s", Rate{100, 90 * time.Second, 100}},
		{"5/90m", "5/90m", Rate{5, 90 * time.Minute, 5}},
		{"100/1m burst 20", "100/1m burst 20", Rate{100, time.Minute, 20}},
		{"10/1s burst 50", "10/1s burst 50", Rate{10, time.Second, 50}},
		{"10/1s burst 10", "10/1s", Rate{10, time.Second, 10}},
		{"1000000/24h burst 1000000", "1000000/24h", Rate{1_000_000, 24 * time.Hour, 1_000_000}},
		{"1/86400s", "1/24h", Rate{1, 24 * time.Hour, 1}},
		{"1000001/1s", "!1000001 uses in a window, at most 1000000", Rate{}},
		{"1/1s burst 1000001", "!a burst of 1000001 uses, at most 1000000", Rate{}},
		{"1/25h", "!a window of 25h, at most 24h", Rate{}},
		{"1/86401s", "!a window of 86401s, at most 24h", Rate{}},
		{"100", `!"100" is not a rate: want <count>/<window>, such as 100/1m or 10/1s burst 50`, Rate{}},
		{"0/1m", "!is not a rate", Rate{}},
		{"-1/1m", "!is not a rate", Rate{}},
		{"1/0s", "!is not a rate", Rate{}},
		{"1/1d", "!is not a rate", Rate{}},
		{"100/m", "!is not a rate", Rate{}},
		{"0100/1m", "!is not a rate", Rate{}},
		{"100/1m burst 0", "!is not a rate", Rate{}},
		{"100/1m  burst 5", "!is not a rate", Rate{}},
		{"100/1m burst", "!is not a rate", Rate{}},
		{" 100/1m", "!is not a rate", Rate{}},
		{"100/1m\n", "!is not a rate", Rate{}},
		{"1.5/1m", "!is not a rate", Rate{}},
		{strings.Repeat("9", 1000) + "/1m", "!9999...", Rate{}},
	} {
		got, err := ParseRate(c.text)
		if want, bad := strings.CutPrefix(c.want, "!"); bad {
			if err == nil || !strings.Contains(err.Error(), want) || !got.IsZero() {
				t.Errorf("%.30q: %v, %v; want %q", c.text, got, err, want)
			}
			continue
		}
		if err != nil || got != c.rate || got.String() != c.want || got.IsZero() != (c.text == "") {
			t.Errorf("%q: %+v (%s), %v", c.text, got, got, err)
		}
	}
}

// FuzzRate holds the parser to its printer: a rate is read as it is printed.
func FuzzRate(f *testing.F) {
	f.Add("100/1m")
	f.Add("100/90s burst 20")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRate(s)
		if err != nil {
			return
		}
		if again, err := ParseRate(r.String()); err != nil || again != r {
			t.Errorf("%q is printed as %q, which reads as %+v (%v)", s, r, again, err)
		}
	})
}

// A bucket allows the burst at once, then one use in each share of the window. A refused use does not count.
func TestBucket(t *testing.T) {
	r, now := Rate{Count: 2, Window: 10 * time.Second, Burst: 3}, time.Unix(1_000_000, 0)
	var b Bucket
	for left := 2; left >= 0; left-- {
		if got, _, ok := b.Take(r, now); !ok || got != left {
			t.Fatalf("%d left, %t, want %d", got, ok, left)
		}
	}
	for range 3 {
		if _, retry, ok := b.Take(r, now); ok || retry != 5*time.Second {
			t.Fatalf("over the burst: %t, retry %s", ok, retry)
		}
	}
	if got := b.Reset(now); got != 15*time.Second {
		t.Errorf("free again after %s", got)
	}
	if _, _, ok := b.Take(r, now.Add(5*time.Second)); !ok {
		t.Error("a use was not free after its share of the window")
	}
	b.GiveBack(r)
	if _, _, ok := b.Take(r, now.Add(5*time.Second)); !ok {
		t.Error("a use that was given back is not free")
	}
	if _, _, ok := b.Take(r, now.Add(-time.Hour)); !ok {
		t.Error("uses of before a step of the clock count")
	}
}

package insight

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// rows are the rows of a JSON text, as Vault decodes them.
func rows(t testing.TB, text string) []any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var list []any
	if err := d.Decode(&list); err != nil {
		t.Fatal(err)
	}
	return list
}

func parsed(t testing.TB, reporter string, sequence int64, tokens, unknown string) *Report {
	t.Helper()
	r, err := ParseReport(reporter, sequence, rows(t, tokens), rows(t, unknown))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const full = `{"token_id": "%s", "uses": 5, "last_used_at": "%s", "last_ip": "192.0.2.1", "last_region": "DE", "last_network": "AS64496",
	"refusals": {"host_not_allowed": 2, "rate_limited": 3}, "scopes": ["b:read", "a:read"]}`

func TestReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := process(t, new(disk), 1)
		u.End = func(id token.ID) (time.Time, bool) { return never, !id.IsZero() && id[11] < 100 }
		time.Sleep(time.Hour)
		at := time.Now().Add(-time.Minute).Truncate(time.Second)
		member := id(1).String() + "." + id(200).String()
		text := fmt.Sprintf("["+full+","+full+","+full+"]", id(1), at.Format(time.RFC3339), member, at.Add(time.Second).Format(time.RFC3339), id(200), "2026-01-02T15:04:05Z")
		r := parsed(t, "api-1", 1, text, `[{"ip": "198.51.100.7", "refusals": 9}, {"ip": "[2001:db8::7]:443", "refusals": 1.0}]`)
		done, err := u.Count(r)
		if err != nil || done != (Outcome{Accepted: 4, Ignored: 1, Reporters: 1}) {
			t.Fatalf("%+v, %v", done, err)
		}
		got := get(t, u, id(1))
		if got.Uses != 10 || !got.LastUse.Equal(at.Add(time.Second)) || !got.FirstUse.Equal(at) || got.Address.String() != "192.0.2.1" || got.Region != "DE" || got.Network != 64496 ||
			got.Refusals[access.HostNotAllowed] != 4 || got.Refusals["rate_limited"] != 6 || fmt.Sprint(got.Scopes) != "[a:read b:read]" {
			t.Errorf("got %+v", got)
		}
		if top := u.Unknown(5); len(top) != 2 || top[0].Refusals != 9 || top[1].Address.String() != "2001:db8::7" {
			t.Errorf("unknown tokens came from %v", top)
		}

		// The retry counts once; so does a late one.
		for _, sequence := range []int64{1, 2, 2, 1} {
			r.Sequence = uint64(sequence)
			before := get(t, u, id(1)).Uses
			done, err := u.Count(r)
			if err != nil || done.Duplicate != (get(t, u, id(1)).Uses == before) {
				t.Errorf("sequence %d: %+v, %v", sequence, done, err)
			}
		}
		if uses := get(t, u, id(1)).Uses; uses != 20 {
			t.Errorf("two batches of 10 uses count as %d", uses)
		}
		other := *r
		other.Reporter, other.Sequence = "api-2", 1
		if done, err := u.Count(&other); err != nil || done.Duplicate || done.Reporters != 2 {
			t.Errorf("%+v, %v", done, err)
		}
		time.Sleep(liveFor + time.Second)
		other.Sequence = 2
		if done, err := u.Count(&other); err != nil || done.Reporters != 1 {
			t.Errorf("%+v, %v", done, err)
		}

		// An older report does not move the last use back, and a clock that is ahead does not move it into the future.
		last := get(t, u, id(1)).LastUse
		if _, err := u.Count(parsed(t, "api-3", 1, fmt.Sprintf(`[{"token_id": "%s", "uses": 1, "last_used_at": "2026-01-02T15:04:05Z", "last_ip": "192.0.2.77"}]`, id(1)), "[]")); err != nil {
			t.Fatal(err)
		}
		if got := get(t, u, id(1)); !got.LastUse.Equal(time.Now().Truncate(time.Second)) || got.Address.String() != "192.0.2.77" {
			t.Errorf("last used at %s, before at %s, now is %s", got.LastUse, last, time.Now())
		}
		if _, err := u.Count(parsed(t, "api-3", 2, fmt.Sprintf(`[{"token_id": "%s", "uses": 1, "last_used_at": "1999-01-02T15:04:05+01:00", "last_ip": "192.0.2.78"}]`, id(1)), "[]")); err != nil {
			t.Fatal(err)
		}
		if got := get(t, u, id(1)); got.Address.String() != "192.0.2.77" || got.FirstUse.Year() != 1999 {
			t.Errorf("got %+v", got)
		}
	})
}

func TestReportersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := process(t, new(disk), 1)
		send := func(n int) error {
			_, err := u.Count(&Report{Reporter: fmt.Sprintf("api-%d", n), Sequence: 1})
			return err
		}
		for i := range maxReporters {
			if err := send(i); err != nil {
				t.Fatal(err)
			}
		}
		if err := send(maxReporters); refusal.As(err) == nil || refusal.As(err).Field != "reporter" {
			t.Errorf("one more reporter: %v", err)
		}
		if err := send(0); err != nil {
			t.Errorf("a known reporter: %v", err)
		}
		time.Sleep(liveFor + time.Second)
		if err := send(maxReporters); err != nil || len(u.reporters.last) != maxReporters {
			t.Errorf("another reporter, when the others are silent: %v, %d are kept", err, len(u.reporters.last))
		}
		time.Sleep(rememberFor + time.Second)
		u.Prune(time.Now(), func(token.ID, time.Time) bool { return false })
		if n := len(u.reporters.last); n != 0 {
			t.Errorf("%d silent reporters are kept", n)
		}
	})
}

// A batch whose counts are stored is a duplicate in the next process, too. A batch whose counts are lost is not.
func TestRetryAtAnotherProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := new(disk)
		batch := func(sequence int64) *Report {
			return parsed(t, "api-1", sequence, fmt.Sprintf(`[{"token_id": "%s", "uses": 1}]`, id(1)), "[]")
		}
		first := running(t, d, 1)
		if _, err := first.Count(batch(1)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if _, err := first.Count(batch(2)); err != nil { // is not stored
			t.Fatal(err)
		}
		next := process(t, d, 2)
		for sequence, duplicate := range []bool{1: true, 2: false} {
			if sequence == 0 {
				continue
			}
			if done, err := next.Count(batch(int64(sequence))); err != nil || done.Duplicate != duplicate {
				t.Errorf("batch %d: %+v, %v", sequence, done, err)
			}
		}
		if uses := get(t, next, id(1)).Uses; uses != 2 {
			t.Errorf("two batches with a use each count as %d uses", uses)
		}
	})
}

func TestReportErrors(t *testing.T) {
	known := `"token_id": "` + id(1).String() + `"`
	for _, c := range []struct {
		reporter        string
		sequence        int64
		tokens, unknown string
		want            string
	}{
		{"", 1, "[]", "[]", "reporter: takes 1 to 64 letters"},
		{strings.Repeat("a", 65), 1, "[]", "[]", "reporter: takes 1 to 64 letters"},
		{"a b", 1, "[]", "[]", "reporter: takes 1 to 64 letters"},
		{"a", 0, "[]", "[]", "sequence: must be at least 1"},
		{"a", 1, `[7]`, "[]", "tokens[0]: takes an object"},
		{"a", 1, `[{` + known + `}, {}]`, "[]", "tokens[1]: token_id is missing"},
		{"a", 1, `[{"token_id": "apt_secret"}]`, "[]", "tokens[0].token_id: must be 24 hexadecimal digits"},
		{"a", 1, `[{"token_id": 5}]`, "[]", "tokens[0].token_id: takes a string"},
		{"a", 1, `[{` + known + `, "uses": -1}]`, "[]", "tokens[0].uses: takes a whole number from 0 to"},
		{"a", 1, `[{` + known + `, "uses": 1.5}]`, "[]", "tokens[0].uses: takes a whole number"},
		{"a", 1, `[{` + known + `, "uses": 1e10}]`, "[]", "tokens[0].uses: takes a whole number"},
		{"a", 1, `[{` + known + `, "uses": "1"}]`, "[]", "tokens[0].uses: takes a whole number"},
		{"a", 1, `[{` + known + `, "uses": null}]`, "[]", "tokens[0].uses: takes a whole number"},
		{"a", 1, `[{` + known + `, "last_used_at": "yesterday"}]`, "[]", "tokens[0].last_used_at: takes a time of RFC 3339"},
		{"a", 1, `[{` + known + `, "last_used_at": "1969-01-02T15:04:05Z"}]`, "[]", "tokens[0].last_used_at: takes a time of RFC 3339"},
		{"a", 1, `[{` + known + `, "last_ip": "host"}]`, "[]", "tokens[0].last_ip: takes an IP address"},
		{"a", 1, `[{` + known + `, "last_region": "de"}]`, "[]", "tokens[0].last_region: must be a code of ISO 3166-1"},
		{"a", 1, `[{` + known + `, "last_region": "DEU"}]`, "[]", "tokens[0].last_region: must be a code of ISO 3166-1"},
		{"a", 1, `[{` + known + `, "last_network": "64496"}]`, "[]", "tokens[0].last_network: takes the number"},
		{"a", 1, `[{` + known + `, "last_network": "AS0"}]`, "[]", "tokens[0].last_network: takes the number"},
		{"a", 1, `[{` + known + `, "refusals": [1]}]`, "[]", "tokens[0].refusals: takes an object"},
		{"a", 1, `[{` + known + `, "refusals": {"malformed": 1}}]`, "[]", `tokens[0].refusals: "malformed" is not a reason to refuse a known token, which are expired,`},
		{"a", 1, `[{` + known + `, "refusals": {"revoked": -1}}]`, "[]", "tokens[0].refusals: revoked takes a whole number"},
		{"a", 1, `[{` + known + `, "scopes": "a"}]`, "[]", "tokens[0].scopes: takes a list"},
		{"a", 1, `[{` + known + `, "scopes": ["a b"]}]`, "[]", `tokens[0].scopes: scope "a b" contains a space`},
		{"a", 1, `[{` + known + `, "scopes": ["a", 1]}]`, "[]", `tokens[0].scopes: [1] takes a string`},
		{"a", 1, `[{` + known + `, "count": 1}]`, "[]", "tokens[0].count: is not a field of a row, which has token_id, uses"},
		{"a", 1, "[]", `[{"ip": "192.0.2.1", "refusals": 1}, {"ip": "x", "refusals": 1}]`, "unknown[1].ip: takes an IP address"},
		{"a", 1, "[]", `[{"refusals": 1}]`, "unknown[0]: takes ip and refusals"},
		{"a", 1, "[]", `[{"ip": "192.0.2.1", "refusals": 0}]`, "unknown[0]: takes ip and refusals"},
		{"a", 1, "[]", `[{"address": "192.0.2.1"}]`, "unknown[0].address: is not a field of a row, which has ip"},
		{"a", 1, "[" + strings.Repeat("{},", MaxRows) + "{}]", "[]", "tokens: has 10001 rows, at most 10000 are allowed"},
		{"a", 1, "[]", "[" + strings.Repeat("{},", MaxRows) + "{}]", "unknown: has 10001 rows, at most 10000 are allowed"},
		{"a", 1, "[" + strings.Repeat(`{`+known+`, "scopes": ["`+strings.Repeat(strings.Repeat("x", 120)+`","`, 99)+`a"]},`, 1000) + "{}]", "[]", "tokens: the report has more than 4194304 bytes"},
	} {
		_, err := ParseReport(c.reporter, c.sequence, rows(t, c.tokens), rows(t, c.unknown))
		if refusal.As(err) == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("the error %q does not say %q", err, c.want)
		} else if strings.Contains(err.Error(), "apt_secret") {
			t.Errorf("the error shows a secret: %s", err)
		}
	}
}

// batch is a report of 10,000 tokens with all fields.
func batch(t testing.TB, u *Usage) []any {
	var text strings.Builder
	text.WriteString("[")
	for i := range MaxRows {
		fmt.Fprintf(&text, full+",", id(i+1), "2026-01-02T15:04:05Z")
	}
	list := rows(t, strings.TrimSuffix(text.String(), ",")+"]")
	if _, err := u.Count(&Report{Reporter: "warm", Sequence: 1}); err != nil {
		t.Fatal(err)
	}
	return list
}

// Each row of BenchmarkReport comes from the address of the use before. Each row of BenchmarkReportMoved comes from another
// address, and each row of BenchmarkReportFindings makes a finding.
func BenchmarkReport(b *testing.B)         { report(b, detect.RefusedBurst, detect.Off, false) }
func BenchmarkReportMoved(b *testing.B)    { report(b, detect.RefusedBurst, detect.Off, true) }
func BenchmarkReportFindings(b *testing.B) { report(b, detect.RefusedBurst, detect.On, false) }

func report(b *testing.B, rule detect.Rule, mode detect.Mode, moves bool) {
	u := process(b, new(disk), 1)
	change := detect.Change{Modes: map[detect.Rule]detect.Mode{rule: mode}}
	if _, err := u.Detect.Change(context.Background(), u.Storage, &change); err != nil {
		b.Fatal(err)
	}
	list := batch(b, u)
	b.ReportAllocs()
	sequence := int64(0)
	for b.Loop() {
		sequence++
		r, err := ParseReport("api-1", sequence, list, nil)
		if err != nil {
			b.Fatal(err)
		}
		if moves {
			for i := range r.Tokens {
				r.Tokens[i].Address = netip.AddrFrom4([4]byte{10, byte(sequence), byte(sequence >> 8), 1})
			}
		}
		if done, err := u.Count(r); err != nil || done.Accepted != MaxRows {
			b.Fatal(done, err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/report")
	u.Flush(context.Background())
}

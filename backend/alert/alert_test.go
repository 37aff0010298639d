package alert

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
)

// in runs a test in a bubble where no real time passes.
func in(t *testing.T, test func(t *testing.T, b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newBench(t)) })
}

// A notice arrives at once, as a signed CloudEvent, and leaves storage.
func TestDelivery(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		secret := b.alert("ops", Change{})
		b.notify(1)
		synctest.Wait()
		got := b.take()
		b.expect(got, 1)
		b.verify(&got[0], secret)
		for name, want := range map[string]string{
			"Content-Type": "application/cloudevents+json", "Authorization": theHeader, "User-Agent": "test",
			"Webhook-Timestamp": fmt.Sprint(time.Now().Unix()),
		} {
			if value := got[0].header.Get(name); value != want {
				t.Errorf("%s is %q, want %q", name, value, want)
			}
		}
		e := got[0].decoded(t)
		for name, want := range map[string]string{
			"specversion": "1.0", "id": got[0].id(), "source": "https://vault.example.com/v1/apitoken",
			"type": "apitoken.finding.opened", "subject": "findings/000000000000000000100001", "datacontenttype": "application/json",
		} {
			if e[name] != want {
				t.Errorf("%s is %v, want %s", name, e[name], want)
			}
		}
		if _, err := time.Parse(time.RFC3339, e["time"].(string)); err != nil {
			t.Error(err)
		}
		d := e["data"].(map[string]any)
		if d["rule"] != "shared" || d["environment"] != "prod" || d["token_id"] != "5e79341686b9702bb51a2ed1" ||
			d["summary"] != noticeOf(1).Finding.Summary || !strings.HasPrefix(d["commands"].([]any)[0].(string), "vault read apitoken/tokens/") {
			t.Errorf("the data is %v", d)
		}
		if _, shown := d["announced"]; shown {
			t.Error("the data has what only the engine needs")
		}
		if ids := b.queued(); len(ids) != 0 {
			t.Errorf("%v are left in storage", ids)
		}
		if s := b.state("ops"); s["count"] != 0 || s["last_success_at"] == nil || s["last_error"] != nil {
			t.Errorf("the state is %v", s)
		}
	})
}

// A failed delivery is repeated with the same ID and body, later and later, until the receiver takes the notice.
func TestRetries(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		secret := b.alert("ops", Change{})
		var calls atomic.Int32
		b.answer(func(w http.ResponseWriter, _ *delivery) {
			switch calls.Add(1) {
			case 1:
				w.WriteHeader(http.StatusInternalServerError)
			case 2: // the connection breaks off
				panic(http.ErrAbortHandler)
			case 3:
				time.Sleep(time.Minute)
			}
		})
		b.notify(1)
		time.Sleep(2 * time.Minute)
		got := b.take()
		b.expect(got, 1, 1, 1, 1)
		for i := 1; i < len(got); i++ {
			pause := got[i].at.Sub(got[i-1].at)
			if least := firstPause << (i - 1); pause < least || pause > least*5/4+timeout {
				t.Errorf("try %d came after %s", i+1, pause)
			}
			if string(got[i].body) != string(got[0].body) {
				t.Errorf("try %d has another body", i+1)
			}
			b.verify(&got[i], secret)
		}
		if ids := b.queued(); len(ids) != 0 {
			t.Errorf("%v are left in storage", ids)
		}
		if text := b.log.String(); strings.Count(text, "alert not delivered; retry scheduled") != 3 {
			t.Errorf("logged:\n%s", text)
		}
	})
}

// What waits survives a restart, and arrives with the same ID. What was delivered does not arrive again.
func TestRestart(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.alert("ops", Change{})
		b.notify(1)
		synctest.Wait()
		b.status(http.StatusServiceUnavailable)
		b.notify(2, 3)
		synctest.Wait()
		b.take()
		b = b.restart()
		synctest.Wait()
		b.expect(b.take(), 2)
		b.status(http.StatusOK)
		time.Sleep(time.Minute)
		got := b.take()
		slices.SortFunc(got, func(a, b delivery) int { return strings.Compare(a.id(), b.id()) })
		b.expect(got, 2, 3)
		b = b.restart()
		time.Sleep(time.Hour)
		b.expect(b.take())
	})
}

// A full queue drops the oldest notice, counts the notice, and says so.
func TestFullQueue(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.alert("ops", Change{})
		b.fall(true)
		for n := 1; n <= MaxQueue+3; n++ {
			b.notify(n)
			time.Sleep(time.Second)
		}
		if s := b.state("ops"); s["count"] != MaxQueue || s["dropped"] != 3 {
			t.Errorf("the state is %v", s)
		}
		if s := b.Stats(); s.Waiting != MaxQueue || s.Dropped != 3 || time.Since(s.Oldest) != MaxQueue*time.Second {
			t.Errorf("the stats are %+v", s)
		}
		if ids := b.queued(); len(ids) != MaxQueue || ids[0] != noticeOf(4).ID {
			t.Errorf("%d notices are stored, the first is %s", len(ids), ids[0])
		}
		if n := strings.Count(b.log.String(), "queue of alerts is full; oldest notice dropped"); n != 3 {
			t.Errorf("%d log lines", n)
		}
		b.fall(false)
		time.Sleep(10 * time.Minute)
		if got := b.take(); len(got) != MaxQueue {
			t.Errorf("%d notices arrived", len(got))
		}
		if s := b.Stats(); s != (Stats{Dropped: 3}) {
			t.Errorf("at rest the stats are %+v", s)
		}
	})
}

// The stats count a notice once, and what was dropped once for each alert, even after an alert is gone.
func TestStats(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.alert("one", Change{})
		b.alert("two", Change{})
		b.status(http.StatusBadGateway)
		b.notify(1)
		time.Sleep(time.Hour)
		b.notify(2)
		if s := b.Stats(); s.Waiting != 2 || s.Dropped != 0 || time.Since(s.Oldest) != time.Hour {
			t.Errorf("the stats are %+v", s)
		}
		time.Sleep(KeepFor - time.Hour + syncEvery)
		if s := b.Stats(); s.Waiting != 1 || s.Dropped != 2 {
			t.Errorf("with an expired notice the stats are %+v", s)
		}
		if err := b.Delete(t.Context(), b.Storage, "one"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		if s := b.Stats(); s != (Stats{Dropped: 3}) {
			t.Errorf("without one alert the stats are %+v", s)
		}
	})
}

// A notice that nobody takes for three days is dropped.
func TestExpiry(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.alert("ops", Change{})
		b.status(http.StatusBadGateway)
		b.notify(1)
		time.Sleep(KeepFor - time.Hour)
		if calls := len(b.take()); calls < 500 || calls > 1000 {
			t.Errorf("the receiver was called %d times in three days", calls)
		}
		time.Sleep(2 * time.Hour)
		if s := b.state("ops"); s["count"] != 0 || s["dropped"] != 1 || len(b.queued()) != 0 {
			t.Errorf("the state is %v, stored are %v", s, b.queued())
		}
	})
}

// 410 Gone disables the alert, and drops what waits. A write enables the alert again.
func TestGone(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.alert("ops", Change{})
		b.status(http.StatusGone)
		b.notify(1, 2)
		time.Sleep(time.Hour)
		b.expect(b.take(), 1)
		b = b.restart()
		a := b.Entries.Get("ops")
		if !a.Disabled || a.DisabledReason != "the receiver answered 410 Gone" || a.DisabledAt.IsZero() || len(b.queued()) != 0 {
			t.Errorf("disabled %v, %q, stored are %v", a.Disabled, a.DisabledReason, b.queued())
		}
		b.status(http.StatusOK)
		b.notify(3)
		b.alert("ops", Change{Disabled: ptr(false)})
		b.notify(4)
		synctest.Wait()
		b.expect(b.take(), 4)
		if a := b.Entries.Get("ops"); a.Disabled || a.DisabledReason != "" || !a.DisabledAt.IsZero() {
			t.Errorf("enabled again: %+v", a.Entry)
		}
	})
}

// A receiver that says how long to wait is not called before, and not later than an hour.
func TestRetryAfter(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"120": 2 * time.Minute, "86400": longestPause, "-5": firstPause, "soon": firstPause,
		"Sat, 01 Jan 2000 00:10:00 GMT": 10 * time.Minute, // the clock of a bubble begins at that midnight
	} {
		in(t, func(t *testing.T, b *bench) {
			b.alert("ops", Change{})
			b.answer(func(w http.ResponseWriter, _ *delivery) {
				w.Header().Set("Retry-After", text)
				w.WriteHeader(http.StatusTooManyRequests)
			})
			b.notify(1)
			synctest.Wait()
			b.status(http.StatusOK)
			b.notify(2)
			time.Sleep(2 * time.Hour)
			got := b.take()
			b.expect(got, 1, 2, 1)
			if pause := got[1].at.Sub(got[0].at); pause < want || pause > want*5/4 {
				t.Errorf("Retry-After: %s was followed after %s", text, pause)
			}
		})
	}
}

// A notice that the receiver refuses delays no other notice.
func TestRefusedNotice(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.alert("ops", Change{})
		b.answer(func(w http.ResponseWriter, d *delivery) {
			if strings.HasSuffix(d.id(), "01") {
				w.WriteHeader(http.StatusBadRequest)
			}
		})
		b.notify(1)
		synctest.Wait()
		b.notify(2, 3, 4, 5, 6, 7, 8, 9)
		time.Sleep(5 * time.Minute)
		ids := make(map[string]bool)
		for _, d := range b.take() {
			ids[d.id()] = true
		}
		if len(ids) != 9 || len(b.queued()) != 1 {
			t.Errorf("%d notices arrived, stored are %v", len(ids), b.queued())
		}
	})
}

// Two alerts do not wait for each other, and each has its own secret.
func TestTwoAlerts(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		secrets := []string{b.alert("one", Change{}), b.alert("two", Change{Headers: &map[string]string{"X-Two": "2"}, URL: ptr(theURL), AllowHTTP: ptr(true)})}
		b.answer(func(w http.ResponseWriter, d *delivery) {
			if d.header.Get("X-Two") == "" {
				w.WriteHeader(http.StatusInternalServerError)
			}
		})
		b.notify(1)
		synctest.Wait()
		got := b.take()
		b.expect(got, 1, 1)
		for i := range got {
			secret := secrets[0]
			if got[i].header.Get("X-Two") != "" {
				secret = secrets[1]
			}
			b.verify(&got[i], secret)
		}
		b = b.restart()
		synctest.Wait()
		if got := b.take(); len(got) != 1 || got[0].header.Get("X-Two") != "" {
			t.Errorf("after a restart, %d deliveries", len(got))
		}
		if err := b.Delete(ctx, b.Storage, "one"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if ids := b.queued(); len(ids) != 0 {
			t.Errorf("of a deleted alert %v are stored", ids)
		}
	})
}

// Both secrets sign while a secret is rotated.
func TestRotation(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		old := b.alert("ops", Change{})
		next, until, err := b.Rotate(ctx, b.Storage, "ops", &Rotation{Overlap: time.Hour})
		if err != nil || !until.Equal(time.Now().Add(time.Hour)) || next == old {
			t.Fatal(until, err)
		}
		b.notify(1)
		synctest.Wait()
		got := b.take()
		b.verify(&got[0], old)
		b.verify(&got[0], next)
		time.Sleep(time.Hour)
		b.notify(2)
		synctest.Wait()
		got = b.take()
		b.verify(&got[0], next)
		if n := len(strings.Fields(got[0].header.Get("webhook-signature"))); n != 1 {
			t.Errorf("%d signatures after the overlap", n)
		}
		given := newSecret()
		if generated, until, err := b.Rotate(ctx, b.Storage, "ops", &Rotation{Secret: given}); err != nil || generated != "" || !until.IsZero() {
			t.Error(until, err)
		}
		b.notify(3)
		synctest.Wait()
		got = b.take()
		b.verify(&got[0], given)
	})
}

// A receiver that repeats what it was sent makes no secret show, neither in the log nor in the state.
func TestSecretsDoNotShow(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		secret := b.alert("ops", Change{})
		b.answer(func(w http.ResponseWriter, d *delivery) {
			w.WriteHeader(http.StatusForbidden)
			_, _ = fmt.Fprintf(w, "no:\x1b[31m %s %s /hooks/url-secret?key=query-secret header-secret query-secret\n%s",
				d.header.Get("Authorization"), secret, strings.Repeat("x", 1<<20))
		})
		b.notify(1)
		synctest.Wait()
		b.fall(true)
		time.Sleep(time.Minute)
		_, _, err := b.Test(ctx, "ops")
		shown := fmt.Sprint(b.log.String(), b.state("ops"), b.Entries.Get("ops").Members(time.Now()), err)
		for _, hidden := range []string{"url-secret", "query-secret", "header-secret", secret, "\x1b"} {
			if strings.Contains(shown, hidden) {
				t.Errorf("%q shows in:\n%s", hidden, shown)
			}
		}
		for _, want := range []string{"status 403 Forbidden: no: [31m ***", "http://receiver.test/...", "Authorization", "connection refused"} {
			if !strings.Contains(shown, want) {
				t.Errorf("%q is not in:\n%s", want, shown)
			}
		}
	})
}

// A secret shows neither in the text of a network error, nor where another secret is a part of the secret.
func TestSecretsDoNotShowInErrors(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.alert("echo", Change{
			URL: ptr("http://receiver.test/hook/url%20secret"), AllowHTTP: ptr(true), Headers: &map[string]string{"Authorization": "Bearer header-hook-secret"},
		})
		for name, do := range map[string]func(http.ResponseWriter){
			"redirect": func(w http.ResponseWriter) {
				w.Header().Set("Location", "http://[header-hook-secret/hook/url%20secret")
				w.WriteHeader(http.StatusFound)
			},
			"noise": func(w http.ResponseWriter) {
				conn, _, err := w.(http.Hijacker).Hijack()
				if err == nil {
					_, _ = fmt.Fprint(conn, "POST /hook/url%20secret header-hook-secret\r\n\r\n")
					_ = conn.Close()
				}
			},
			"answer": func(w http.ResponseWriter) {
				w.WriteHeader(http.StatusForbidden)
				_, _ = fmt.Fprint(w, "no: header-hook-secret /hook/url secret")
			},
		} {
			b.answer(func(w http.ResponseWriter, _ *delivery) { do(w) })
			_, _, err := b.Test(ctx, "echo")
			if err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "***") {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// Storage that cannot be written does not have the same notice sent again and again.
func TestStorageFails(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.alert("ops", Change{})
		storage := b.Storage.(*logical.InmemStorage).Underlying()
		b.answer(func(http.ResponseWriter, *delivery) { storage.FailDelete(true) })
		b.notify(1, 2)
		time.Sleep(time.Hour)
		b.expect(b.take(), 1)
		storage.FailDelete(false)
		b.answer(nil)
		time.Sleep(time.Minute)
		b.expect(b.take(), 2)
		if ids := b.queued(); len(ids) != 0 {
			t.Errorf("%v are left in storage", ids)
		}
		storage.FailPut(true)
		if err := b.Notify(ctx, noticeOf(3)); err == nil {
			t.Error("a notice was taken that storage did not take")
		}
		storage.FailPut(false)
		b.notify(3)
		synctest.Wait()
		b.expect(b.take(), 3)
	})
}

// What a process has stored that was replaced is delivered within syncEvery.
func TestOtherProcess(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.alert("ops", Change{})
		other := benchOn(t, b.Storage, b.receiver)
		other.Alerts.Close()
		other.notify(1)
		time.Sleep(syncEvery + time.Second)
		b.expect(b.take(), 1)
		if err := other.Reload(ctx, b.Storage, queuePrefix+noticeOf(1).ID, time.Now()); err != nil {
			t.Fatal(err)
		}
		if s := other.state("ops"); s["count"] != 0 {
			t.Errorf("a notice that another process has delivered waits: %v", s)
		}
	})
}

// A broken entry costs only itself.
func TestBroken(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.alert("ops", Change{})
		b.fall(true)
		b.notify(1)
		for _, key := range []string{EntriesPrefix + "bad", queuePrefix + "bad", queuePrefix + noticeOf(2).ID} {
			value := []byte(`{"notice": {"id": "other"}, "id": "x"}`)
			if err := b.Storage.Put(ctx, &logical.StorageEntry{Key: key, Value: value}); err != nil {
				t.Fatal(err)
			}
		}
		b = b.restart()
		b.fall(false)
		time.Sleep(time.Minute)
		b.expect(b.take(), 1)
		if n := len(b.Damaged()); n != 3 {
			t.Errorf("damaged are %v", b.Damaged())
		}
		for key := range b.Damaged() {
			if err := b.DropDamaged(ctx, b.Storage, key); err != nil {
				t.Error(err)
			}
		}
		if n := len(b.Damaged()); n != 0 || len(b.queued()) != 0 || slices.Contains(b.Entries.Names(), "bad") {
			t.Errorf("damaged are %v, stored are %v", b.Damaged(), b.queued())
		}
	})
}

// The text for Slack has the finding, and no markup from outside.
func TestSlack(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		secret := b.alert("ops", Change{Format: ptr(Slack)})
		b.notify(1)
		if _, status, err := b.Test(ctx, "ops"); err != nil || status != http.StatusNoContent {
			t.Error(status, err)
		}
		synctest.Wait()
		got := b.take()
		if len(got) != 2 || got[0].header.Get("Content-Type") != "application/json" {
			t.Fatalf("%d deliveries", len(got))
		}
		for i := range got {
			b.verify(&got[i], secret)
			text, _ := got[i].decoded(t)["text"].(string)
			if len(got[i].decoded(t)) != 1 || text == "" || strings.ContainsAny(text, "<>") {
				t.Errorf("the body is %s", got[i].body)
			}
			if strings.HasSuffix(got[i].id(), "01") && !strings.Contains(text, "*shared: medium finding opened* (prod)") {
				t.Errorf("the text is %s", text)
			}
		}
	})
}

// An alert sends what its filter selects.
func TestFilter(t *testing.T) {
	base := Entry{Events: DefaultEvents, MinSeverity: detect.Low}
	for name, c := range map[string]struct {
		change func(*Entry)
		want   bool
	}{
		"all":               {func(*Entry) {}, true},
		"the rule":          {func(e *Entry) { e.Rules = []string{"guessing", "shared"} }, true},
		"another rule":      {func(e *Entry) { e.Rules = []string{"guessing"} }, false},
		"the role":          {func(e *Entry) { e.Roles = []string{"billing-reader"} }, true},
		"another role":      {func(e *Entry) { e.Roles = []string{"other"} }, false},
		"the severity":      {func(e *Entry) { e.MinSeverity = detect.Medium }, true},
		"a higher severity": {func(e *Entry) { e.MinSeverity = detect.High }, false},
		"another event":     {func(e *Entry) { e.Events = []string{"acknowledged"} }, false},
		"disabled":          {func(e *Entry) { e.Disabled = true }, false},
	} {
		e := base
		c.change(&e)
		if got := (&Alert{Entry: e}).wants(noticeOf(1)); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// No alert is sent to where a cloud serves credentials.
func TestMetadataAddresses(t *testing.T) {
	for address, want := range map[string]bool{
		"169.254.169.254:80": false, "[fe80::1%eth0]:443": false, "[::ffff:169.254.169.254]:80": false, "0.0.0.0:443": false,
		"[fd00:ec2::254]:80": false, "100.100.100.200:80": false, "224.0.0.1:443": false, "noise": false,
		"127.0.0.1:443": true, "10.0.0.1:443": true, "192.0.2.1:443": true, "[2001:db8::1]:443": true, "[::1]:443": true,
	} {
		if err := refuseMetadata("tcp", address, nil); (err == nil) != want {
			t.Errorf("%s: %v", address, err)
		}
	}
}

package server

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Lines wait for each other, but not for long, and none is lost when the server stops.
func TestLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &lockedBuffer{}
		l := NewLines(out)
		say := func(text string) { fmt.Fprintln(l, text) }
		say("one")
		time.Sleep(lineDelay / 2)
		say("two")
		synctest.Wait()
		if out.String() != "" {
			t.Errorf("a line was written at once: %s", out)
		}
		time.Sleep(lineDelay / 2)
		synctest.Wait()
		if got := out.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, "one") {
			t.Errorf("after %s: %q", lineDelay, got)
		}

		say("three")
		if err := l.Close(); err != nil || strings.Count(out.String(), "\n") != 3 {
			t.Errorf("closed: %q, %v", out.String(), err)
		}
		say("four")
		if strings.Count(out.String(), "\n") != 4 {
			t.Errorf("after Close: %q", out.String())
		}
	})
}

// Many lines are written without waiting, whole, and in the order of each writer.
func TestManyLines(t *testing.T) {
	out := &lockedBuffer{}
	l := NewLines(out)
	var writers sync.WaitGroup
	const each = 2000
	for w := range 4 {
		writers.Go(func() {
			for i := range each {
				fmt.Fprintf(l, "%d %d %s\n", w, i, strings.Repeat("x", 100))
			}
		})
	}
	writers.Wait()
	if n := len(out.String()); n < 4*each*100/2 {
		t.Errorf("%d bytes were written before Close", n)
	}
	_ = l.Close()
	next := [4]int{}
	for line := range strings.Lines(out.String()) {
		var w, i int
		if _, err := fmt.Sscanf(line, "%d %d", &w, &i); err != nil || i != next[w] || !strings.HasSuffix(line, "x\n") {
			t.Fatalf("%q, %v, want %d", line, err, next[w])
		}
		next[w]++
	}
	if next != [4]int{each, each, each, each} {
		t.Errorf("lines are missing: %v", next)
	}
}

package simulation

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"strings"
	"testing"
	"testing/cryptotest"
	"time"
)

var (
	seedFlag    = flag.Uint64("simulate.seed", 0, "run this seed, and no other")
	stepsFlag   = flag.Int("simulate.steps", 400, "steps of a seed")
	forFlag     = flag.Duration("simulate.for", 2*time.Second, "how long to run seeds")
	profileFlag = flag.String("simulate.profile", "", "native or full; default: both in turn")
	historyFlag = flag.Bool("simulate.history", false, "print the history, also of a run that is good")
	hangFlag    = flag.Duration("simulate.hang", time.Minute, "after how long a run counts as one that hangs")
	keepFlag    = flag.Bool("simulate.keep", false, "go on after a failure, and tell of each in a line")
	shrinkFlag  = flag.Duration("simulate.shrink", 20*time.Second, "how long to look for a shorter program that fails")
)

// simulate runs a program of a seed, and gives what it broke.
func simulate(t *testing.T, s setting, steps []instruction) (failed *violation, told string) {
	// In a bubble no time passes while somebody waits for a lock: whoever holds it must not wait for time.
	watchdog := time.AfterFunc(*hangFlag, func() {
		debug.SetTraceback("all")
		panic(fmt.Sprintf("seed %d (%s) hangs; its last steps:\n%s", s.seed, s.profile.name, lastLines(current.Load().told(), 40)))
	})
	defer watchdog.Stop()
	t.Run(fmt.Sprint(s.seed), func(t *testing.T) {
		cryptotest.SetGlobalRandom(t, s.seed)
		run(t, s, steps, func(w *world) {
			failed = w.failed.Load()
			if failed != nil || *historyFlag {
				told = w.told()
			}
		})
	})
	return failed, told
}

func lastLines(text string, n int) string {
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// shrink leaves steps out as long as the same invariant is broken.
func shrink(t *testing.T, s setting, steps []instruction, first *violation, told string) ([]instruction, *violation, string) {
	until := time.Now().Add(*shrinkFlag)
	for size := len(steps) / 2; size >= 1; size /= 2 {
		for at := 0; at+size <= len(steps) && time.Now().Before(until); {
			shorter := append(append([]instruction(nil), steps[:at]...), steps[at+size:]...)
			if failed, its := simulate(t, s, shorter); failed != nil && failed.invariant == first.invariant {
				steps, first, told = shorter, failed, its
			} else {
				at += size
			}
		}
	}
	return steps, first, told
}

func settingOf(seed uint64) setting {
	p := profiles[*profileFlag]
	if p == nil {
		p = profiles[[]string{"native", "full"}[seed%2]]
	}
	return setting{seed: seed, profile: p}
}

func TestSimulate(t *testing.T) {
	if testing.Short() {
		t.Skip("not while the engine is known to break its promises")
	}
	if *seedFlag != 0 {
		s := settingOf(*seedFlag)
		failed, told := simulate(t, s, program(s.seed, *stepsFlag, s.profile))
		if failed != nil {
			report(t, s, failed, told)
		} else if *historyFlag {
			fmt.Println(told)
		}
		return
	}
	begun := time.Now()
	steps, seeds := 0, 0
	for first := rand.Uint64() >> 20; time.Since(begun) < *forFlag; first++ {
		s := settingOf(first)
		failed, told := simulate(t, s, program(s.seed, *stepsFlag, s.profile))
		steps += *stepsFlag
		seeds++
		switch {
		case failed != nil && *keepFlag:
			t.Errorf("seed %d (%s): %v", s.seed, s.profile.name, failed)
		case failed != nil:
			report(t, s, failed, told)
			return
		}
	}
	t.Logf("%d seeds, %d steps, %.0f steps a second", seeds, steps, float64(steps)/time.Since(begun).Seconds())
}

func report(t *testing.T, s setting, failed *violation, told string) {
	steps, failed, told := shrink(t, s, program(s.seed, *stepsFlag, s.profile), failed, told)
	t.Errorf("seed %d breaks %v\n\n%s\nThat is what is left of it after shrinking, %d steps. Reproduce the whole with\n\n\tgo test ./backend/simulation -run 'TestSimulate$' -simulate.seed=%d -simulate.steps=%d -simulate.profile=%s\n",
		s.seed, failed, told, len(steps), s.seed, *stepsFlag, s.profile.name)
}

func TestMain(m *testing.M) {
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		os.Unsetenv(name)
	}
	flag.Parse()
	os.Exit(m.Run())
}

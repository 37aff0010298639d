package simulation

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/cryptotest"
	"time"

	"pgregory.net/rapid"
)

var (
	seedFlag    = flag.Uint64("simulate.seed", 0, "run this seed, and no other")
	triesFlag   = flag.Int("simulate.tries", 5, "how often to run the one seed, until it fails")
	stepsFlag   = flag.Int("simulate.steps", 400, "steps of a seed")
	forFlag     = flag.Duration("simulate.for", 10*time.Second, "how long to run seeds")
	firstFlag   = flag.Uint64("simulate.first", 0, "first of the seeds to run; default: a random one")
	workersFlag = flag.Int("simulate.workers", 1, "how many processes run seeds at once")
	profileFlag = flag.String("simulate.profile", "", "native or full; default: both in turn")
	historyFlag = flag.Bool("simulate.history", false, "print the history, also of a run that is good")
	hangFlag    = flag.Duration("simulate.hang", 2*time.Minute, "after how long a run counts as one that hangs")
	keepFlag    = flag.Bool("simulate.keep", false, "go on after a failure, and tell of each in a line")
	shrinkFlag  = flag.Duration("simulate.shrink", 20*time.Second, "how long to look for a shorter program that fails")
)

// simulate runs a program, and gives what it broke.
func simulate(t *testing.T, s setting, steps []instruction) (failed *violation, told string) {
	return simulateThis(t, s, follow(steps))
}

func simulateThis(t *testing.T, s setting, happens func(*world)) (failed *violation, told string) {
	// In a bubble no time passes while somebody waits for a lock: the holder of a lock must not wait for time.
	watchdog := time.AfterFunc(*hangFlag, func() {
		debug.SetTraceback("all")
		panic(fmt.Sprintf("seed %d (%s) hangs; its last steps:\n%s", s.seed, s.profile.name, lastLines(current.Load().told(), 40)))
	})
	defer watchdog.Stop()
	t.Run(fmt.Sprint(s.seed), func(t *testing.T) {
		cryptotest.SetGlobalRandom(t, s.seed)
		run(t, s, happens, func(w *world) {
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

// TestSimulate runs seeds: one, or as many as the time allows.
func TestSimulate(t *testing.T) {
	switch {
	case *seedFlag != 0:
		s := settingOf(*seedFlag)
		for range *triesFlag { // goroutines and maps take their own order
			failed, told := simulate(t, s, program(s.seed, *stepsFlag, s.profile))
			if failed != nil {
				report(t, s, failed, told)
				return
			}
			if *historyFlag {
				fmt.Println(told)
			}
		}
		return
	case *workersFlag > 1:
		runWorkers(t, *workersFlag)
		return
	}
	limit, first := *forFlag, *firstFlag
	if testing.Short() {
		limit = min(limit, time.Second)
	}
	if first == 0 {
		first = rand.Uint64() >> 24
	}
	begun := time.Now()
	seeds := uint64(0)
	for ; time.Since(begun) < limit; seeds++ {
		s := settingOf(first + seeds)
		failed, told := simulate(t, s, program(s.seed, *stepsFlag, s.profile))
		switch {
		case failed != nil && *keepFlag:
			t.Errorf("seed %d (%s): %v", s.seed, s.profile.name, failed)
		case failed != nil:
			report(t, s, failed, told)
			return
		}
	}
	fmt.Printf("simulated %d steps of %d seeds, %d to %d, in %s\n", seeds*uint64(*stepsFlag), seeds, first, first+seeds-1, time.Since(begun).Round(time.Second))
}

func report(t *testing.T, s setting, failed *violation, told string) {
	steps, failed, told := shrink(t, s, program(s.seed, *stepsFlag, s.profile), failed, told)
	t.Errorf("seed %d breaks %v\n\n%s\nThat is what is left of it after shrinking, %d steps. Reproduce the whole with\n\n\tgo test ./backend/simulation -run 'TestSimulate$' -simulate.seed=%d -simulate.steps=%d -simulate.profile=%s\n",
		s.seed, failed, told, len(steps), s.seed, *stepsFlag, s.profile.name)
}

var summary = regexp.MustCompile(`(?m)^simulated (\d+) steps of (\d+) seeds.*$`)

// runWorkers runs seeds in processes of their own, with one processor each: a run uses no more, and what happens in it
// is then up to its seed as far as it can be. The first that fails ends all.
func runWorkers(t *testing.T, workers int) {
	first := *firstFlag
	if first == 0 {
		first = rand.Uint64() >> 24
	}
	var mu sync.Mutex
	var steps, seeds int
	var children []*exec.Cmd
	var wait sync.WaitGroup
	failed := false
	begun := time.Now()
	for i := range workers {
		args := append([]string{"-test.run=^TestSimulate$", "-test.timeout=0"}, keptArgs()...)
		args = append(args, fmt.Sprintf("-simulate.first=%d", first+uint64(i)<<20), "-simulate.workers=1")
		child := exec.Command(os.Args[0], args...)
		var out bytes.Buffer
		child.Stdout, child.Stderr = &out, &out
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		children = append(children, child)
		wait.Go(func() {
			err := child.Wait()
			mu.Lock()
			defer mu.Unlock()
			for _, m := range summary.FindAllStringSubmatch(out.String(), -1) {
				fmt.Println(m[0])
				n, _ := strconv.Atoi(m[1])
				k, _ := strconv.Atoi(m[2])
				steps, seeds = steps+n, seeds+k
			}
			if err == nil || failed && !*keepFlag {
				return
			}
			failed = true
			t.Errorf("%v\n%s", err, out.String())
			if *keepFlag {
				return
			}
			for _, other := range children {
				_ = other.Process.Kill()
			}
		})
	}
	wait.Wait()
	fmt.Printf("simulated %d steps of %d seeds in all, in %s\n", steps, seeds, time.Since(begun).Round(time.Second))
}

// keptArgs are the arguments that are the workers' too.
func keptArgs() []string {
	var kept []string
	flag.Visit(func(f *flag.Flag) {
		if strings.HasPrefix(f.Name, "simulate.") && f.Name != "simulate.first" || f.Name == "test.short" {
			kept = append(kept, "-"+f.Name+"="+f.Value.String())
		}
	})
	return kept
}

// TestPrograms has rapid make up programs, and shrink those that fail.
func TestPrograms(t *testing.T) {
	for name, p := range profiles {
		var possible []int
		for i, a := range actions {
			if !a.only || p.upstream {
				possible = append(possible, i)
			}
		}
		step := rapid.Custom(func(t *rapid.T) instruction {
			return instruction{Action: rapid.SampledFrom(possible).Draw(t, "action"), Seed: uint64(rapid.IntRange(0, 1000).Draw(t, "seed"))}
		})
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(r *rapid.T) {
				steps := rapid.SliceOfN(step, 1, 60).Draw(r, "program")
				s := setting{seed: rapid.Uint64Range(1, 1000).Draw(r, "world"), profile: p}
				if failed, told := simulate(t, s, steps); failed != nil {
					r.Fatalf("%v\n%s", failed, told)
				}
			})
		})
	}
}

func TestMain(m *testing.M) {
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		os.Unsetenv(name)
	}
	flag.Parse()
	runtime.GOMAXPROCS(1) // what happens in a run is up to its seed, as far as it can be; workers are processes
	debug.SetGCPercent(500)
	if testing.Short() && flag.Lookup("rapid.checks").Value.String() == "100" {
		_ = flag.Set("rapid.checks", "3")
	}
	os.Exit(m.Run())
}

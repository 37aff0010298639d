// Command traffic measures the rules of misuse: how many attacks they find, and how often they are wrong. Traffic has the
// real detector see some weeks of simulated use, in which attacks are mixed, and whose truth is known. The assumptions are
// the constants beside the code of each kind of client.
//
//	go run ./scripts/traffic
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
)

// settings are what a run may change.
type settings struct {
	weeks   int
	clients int // each of which has a token as a rule
	each    int // attacks of each kind
	seed    uint64
	known   bool // the operator has named the company's addresses, and the networks of clouds and VPNs
}

// most bounds the time of a run to about two minutes.
const most = 20_000

func main() {
	var s settings
	flag.IntVar(&s.weeks, "weeks", 4, "weeks to simulate, 2 to 12")
	flag.IntVar(&s.clients, "tokens", 2000, "number of clients with a token, at least 100")
	flag.IntVar(&s.each, "attacks", 40, "attacks of each kind, at least 1")
	flag.Uint64Var(&s.seed, "seed", 1, "seed: the same seed has the same traffic")
	flag.BoolVar(&s.known, "known", false, "set known_ranges and hosting_networks, as an operator would")
	flag.Parse()
	if s.weeks < 2 || s.weeks > 12 || s.clients < 100 || s.each < 1 || s.weeks*s.clients > most {
		log.Fatalf("give 2 to 12 weeks, at least 100 tokens and 1 attack, and at most %d weeks times tokens", most)
	}
	if err := s.measure(os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// measure simulates, and prints what was measured.
func (s settings) measure(out io.Writer) error {
	begun := time.Now()
	w, err := s.simulate()
	if err != nil {
		return err
	}
	r := w.result()
	r.print(out)
	_, err = fmt.Fprintf(out, "\n%d weeks, %d clients, seed %d: %.0f tokens and days, %d attacks, %d findings, %s\n", s.weeks, s.clients,
		s.seed, w.days, len(w.attacks), len(w.findings), time.Since(begun).Round(time.Second))
	return err
}

// simulate has everything happen.
func (s settings) simulate() (*world, error) {
	w := newWorld(s)
	offices := w.newOffices()
	if s.known {
		var hosts []string
		for _, n := range append(append([]*network{}, w.net.clouds...), w.net.vpns...) {
			hosts = append(hosts, fmt.Sprintf("AS%d", n.number))
		}
		if _, err := w.detect.Change(context.Background(), &w.storage, &detect.Change{Ranges: &w.ranges, Networks: &hosts}); err != nil {
			return nil, err
		}
	}
	w.clientsOf(offices)
	w.at(begin, w.daily)
	w.at(begin, w.noise)
	w.prepareDormant()
	w.plan()
	return w, w.run()
}

// clientsOf makes the clients: of ten, four people, three phones, one service, and two of pipelines and jobs.
func (w *world) clientsOf(offices []*office) {
	for i := range w.clients {
		switch i % 20 {
		case 0, 1, 2, 3, 4, 5, 6, 7:
			w.newPerson(i, offices)
		case 8, 9, 10, 11, 12, 13:
			w.newPhone(i, offices)
		case 14, 15:
			w.newService(i)
		case 16, 17:
			w.newPipeline(i, offices)
		default:
			w.newJob(i)
		}
	}
	for range w.poisson(monitors * float64(w.clients)) {
		w.at(begin+int64(w.rand.Float64()*float64(w.until-begin)), w.monitor)
	}
}

package main

import (
	"fmt"
	"math"
	"net/netip"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
)

// Assumptions about services: one token for months, which all instances of a service share.
const (
	serviceLife   = 120 * day
	medianRate    = 1.        // uses a minute; the rates are log-normal, with a sigma of 1.5
	severalSites  = 0.06      // of the services run in two or three regions of a cloud at once
	severalClouds = 0.02      // of the services run in two clouds at once
	deployEvery   = 7 * day   // new addresses of the same cloud
	moveEvery     = 180 * day // to another region
	loadTestEvery = 120 * day // five to fifty times the usual rate, for ten to forty minutes
	brokenDeploy  = 60 * day  // a scope is missing: some refusals each five seconds, for two to twenty minutes
	endOfMonth    = 1. / 6    // of the services have three to eight times the usual rate at the end of each month
)

// service is a program that runs without pause.
type service struct {
	*world
	name   string
	cloud  *network
	sites  []site
	rate   float64
	server *verifier
	token  *issued
	times  float64 // factor of the rate now
	month  bool
}

// site is where instances of a service run.
type site struct {
	cloud *network
	city  int
	from  []netip.Addr
}

func (w *world) newService(i int) {
	s := &service{world: w, name: fmt.Sprintf("service-%d", i), times: 1, month: w.chance(endOfMonth)}
	s.cloud = w.net.clouds[w.rand.IntN(len(w.net.clouds))]
	s.sites = []site{{cloud: s.cloud, city: w.net.cityWhere(anywhere)}}
	if w.chance(severalSites) {
		for range w.between(1, 2) {
			s.sites = append(s.sites, site{cloud: s.cloud, city: w.net.cityWhere(anywhere)})
		}
	}
	if w.chance(severalClouds) {
		s.sites = append(s.sites, site{cloud: w.net.clouds[(i+1)%len(w.net.clouds)], city: w.net.cityWhere(anywhere)})
	}
	s.deploy()
	s.rate, s.server = medianRate*math.Exp(1.5*w.rand.NormFloat64()), w.server()
	w.at(begin-int64(w.rand.IntN(20))*day, s.login)
	w.at(begin+int64(w.rand.IntN(60)), s.tick)
	w.at(begin+w.about(deployEvery), s.redeploy)
	w.at(begin+w.about(moveEvery), s.moveAway)
	w.at(begin+w.about(loadTestEvery), s.loadTest)
	w.at(begin+w.about(brokenDeploy), s.breaks)
}

func (s *service) login() {
	s.token = s.issue("service", s.name, serviceLife, s.sites[0].city, s.server)
	s.token.rate = s.rate
}

// deploy gives the instances new addresses.
func (s *service) deploy() {
	for i := range s.sites {
		at := &s.sites[i]
		at.from = at.from[:0]
		for range s.between(1, 3) {
			at.from = append(at.from, s.net.address(at.cloud, at.city))
		}
	}
}

func (s *service) redeploy() {
	s.deploy()
	s.in(s.about(deployEvery), s.redeploy)
}

func (s *service) moveAway() {
	s.sites[0].city = s.net.cityWhere(anywhere)
	s.deploy()
	s.in(s.about(moveEvery), s.moveAway)
}

// tick uses the token once a minute, less at night.
func (s *service) tick() {
	s.in(minute, s.tick)
	if !s.token.alive(s.now) {
		s.login()
	}
	rate := s.token.rate * s.times * (0.6 + 0.4*math.Sin(s.localHour(s.token.city)/24*2*math.Pi-math.Pi/2))
	if s.month && (s.now-begin)/day%30 > 26 {
		rate *= 3 + 5*s.rand.Float64()
	}
	if n := s.poisson(rate); n > 0 {
		at := &s.sites[s.rand.IntN(len(s.sites))]
		s.use(s.token, n, at.from[s.rand.IntN(len(at.from))])
	}
}

func (s *service) loadTest() {
	s.times = float64(s.lasting(5, 50))
	s.in(int64(s.between(10, 40))*minute, func() { s.times = 1 })
	s.in(s.about(loadTestEvery), s.loadTest)
}

// breaks has a scope missing after a deploy.
func (s *service) breaks() {
	until := s.now + s.lasting(2*minute, 20*minute)
	var again func()
	again = func() {
		s.refuse(s.token, access.InsufficientScope, s.between(1, 10), s.sites[0].from[0])
		if s.now < until {
			s.in(5, again)
		}
	}
	again()
	s.in(s.about(brokenDeploy), s.breaks)
}

// Assumptions about pipelines: a token for each run.
const (
	runsADay      = 6
	runLife       = hour
	hostedRunners = 0.7  // of the pipelines run in a cloud whose addresses and regions change with each run
	matrix        = 0.15 // of the pipelines share the token of a run among 4 to 12 runners, in up to three regions
)

// pipeline builds and tests.
type pipeline struct {
	*world
	name    string
	hosted  bool
	runners int
	own     netip.Addr
	server  *verifier
}

func (w *world) newPipeline(i int, offices []*office) {
	p := &pipeline{world: w, name: fmt.Sprintf("pipeline-%d", i), hosted: w.chance(hostedRunners), runners: 1, server: w.server()}
	p.own = offices[w.rand.IntN(len(offices))].addr
	if w.chance(matrix) {
		p.runners = w.between(4, 12)
	}
	w.at(begin+w.about(day/runsADay), p.run)
}

func (p *pipeline) run() {
	p.in(p.about(day/runsADay), p.run)
	regions := []int{11, 13, 16, 3} // of the cloud of hosted runners
	t := p.issue("ci", p.name, runLife, regions[0], p.server)
	t.rate = 1
	var from []netip.Addr
	for i := range p.runners {
		from = append(from, p.own)
		if p.hosted {
			from[i] = p.net.address(p.net.clouds[0], regions[(int(p.issues)+i%3)%len(regions)])
		}
	}
	for range p.between(4, 30) {
		p.in(int64(p.rand.IntN(int(20*minute))), func() { p.use(t, 1, from[p.rand.IntN(len(from))]) })
	}
}

// Assumptions about jobs: a token for a year, used at night, once a week, once a month or once a quarter.
var periods = []struct {
	share float64
	every int64
}{{0.6, day}, {0.2, 7 * day}, {0.15, 30 * day}, {0.05, 91 * day}}

// job runs from time to time.
type job struct {
	*world
	name   string
	every  int64
	city   int
	from   netip.Addr
	server *verifier
	token  *issued
}

func (w *world) newJob(i int) {
	j := &job{world: w, name: fmt.Sprintf("job-%d", i), city: w.net.cityWhere(anywhere), server: w.server()}
	p := w.rand.Float64()
	for _, period := range periods {
		if j.every = period.every; p < period.share {
			break
		}
		p -= period.share
	}
	j.from = w.net.address(w.net.clouds[w.rand.IntN(3)], j.city)
	w.at(begin-100*day, j.login)
	w.at(begin-100*day+int64(w.rand.Float64()*float64(j.every)), j.run)
}

func (j *job) login() {
	j.token = j.issue("job", j.name, 365*day, j.city, j.server)
	j.token.rate = 2
}

func (j *job) run() {
	if !j.token.alive(j.now) {
		j.login()
	}
	j.in(j.every+int64(j.between(-300, 300)), j.run)
	for i := range j.between(3, 15) {
		j.in(int64(i)*minute, func() { j.use(j.token, j.between(1, 10), j.from) })
	}
	if j.chance(0.01) { // the server is replaced
		j.from = j.net.address(j.net.clouds[j.rand.IntN(3)], j.city)
	}
}

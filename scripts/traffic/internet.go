package main

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"net/netip"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
)

// city is a city of the simulated internet.
type city struct {
	country  string
	lat, lon float64
	people   int // relative weight
}

// cities have rounded coordinates of real cities, so that distances and flight times are real. A country has several cities
// where most of the simulated people live.
var cities = []city{
	{"DE", 52.5, 13.4, 8}, {"DE", 48.1, 11.6, 6}, {"DE", 53.6, 10.0, 5}, {"DE", 50.1, 8.7, 5}, {"DE", 50.9, 6.9, 4},
	{"FR", 48.9, 2.4, 8}, {"FR", 45.8, 4.8, 3}, {"FR", 43.3, 5.4, 3},
	{"GB", 51.5, -0.1, 8}, {"GB", 53.5, -2.2, 4}, {"GB", 55.9, -3.2, 2},
	{"US", 40.7, -74.0, 10}, {"US", 41.9, -87.6, 6}, {"US", 37.8, -122.4, 8}, {"US", 47.6, -122.3, 5}, {"US", 30.3, -97.7, 4},
	{"US", 39.0, -77.5, 3}, {"PL", 52.2, 21.0, 4}, {"PL", 50.1, 19.9, 3}, {"NL", 52.4, 4.9, 4}, {"NL", 51.9, 4.5, 2},
	{"IE", 53.3, -6.3, 3}, {"ES", 40.4, -3.7, 4}, {"ES", 41.4, 2.2, 3}, {"IN", 13.0, 77.6, 7}, {"IN", 19.1, 72.9, 5},
	{"BR", -23.6, -46.6, 4}, {"SG", 1.3, 103.8, 3}, {"JP", 35.7, 139.7, 4}, {"AU", -33.9, 151.2, 3}, {"CN", 31.2, 121.5, 2},
	{"RU", 55.8, 37.6, 2}, {"NG", 6.5, 3.4, 2},
}

// kind is the kind of a network.
type kind int

const (
	internetProvider kind = iota
	carrier               // mobile
	cloud
	vpn // of consumers
	company
	satellite // on board of planes
)

// network is an autonomous system.
type network struct {
	number uint32
	kind   kind
	hubs   []int // cities in which the addresses seem to be; nil: where the client is
}

// internet knows where addresses are: the truth, and what a GeoIP database says.
type internet struct {
	rand    *rand.Rand
	blocks  []detect.Place // by the number of a /24: what the database says
	pools   map[pool]int   // the /24 of which addresses are taken
	taken   []byte         // number of addresses of a /24 that are taken
	numbers uint32

	home, mobile map[string][]*network // by country
	clouds, vpns []*network
	planes       *network
}

type pool struct {
	network uint32
	city    int
}

// Assumptions about GeoIP databases: of the addresses of providers, 4 % are placed into another city of the country. The
// accuracy radius says nothing about these.
const misplaced = 0.04

var radii = []float64{5, 20, 20, 50, 100}

func newInternet(r *rand.Rand) *internet {
	n := &internet{rand: r, pools: make(map[pool]int), home: make(map[string][]*network), mobile: make(map[string][]*network)}
	for i := range cities {
		country := cities[i].country
		if n.home[country] != nil {
			continue
		}
		for range 4 {
			n.home[country] = append(n.home[country], n.network(internetProvider))
		}
		for range 3 { // the addresses of a carrier seem to be at one or two gateways
			n.mobile[country] = append(n.mobile[country], n.network(carrier, n.cityOf(country), n.cityOf(country)))
		}
	}
	for range 3 {
		n.clouds = append(n.clouds, n.network(cloud))
	}
	for range 3 {
		n.vpns = append(n.vpns, n.network(vpn))
	}
	n.planes = n.network(satellite, 15, 19)
	return n
}

func (n *internet) network(k kind, hubs ...int) *network {
	n.numbers++
	return &network{number: 64511 + n.numbers, kind: k, hubs: hubs}
}

// cityOf returns a city of a country.
func (n *internet) cityOf(country string) int {
	return n.cityWhere(func(c *city) bool { return c.country == country })
}

// cityWhere returns one of some cities, by their weights.
func (n *internet) cityWhere(is func(*city) bool) int {
	total := 0
	for i := range cities {
		if is(&cities[i]) {
			total += cities[i].people
		}
	}
	left := n.rand.IntN(total)
	for i := range cities {
		if is(&cities[i]) {
			if left -= cities[i].people; left < 0 {
				return i
			}
		}
	}
	panic("unreachable")
}

func anywhere(*city) bool { return true }

// provider returns a provider of homes and hotels in a country.
func (n *internet) provider(country string) *network {
	return n.home[country][n.rand.IntN(len(n.home[country]))]
}

// address returns a new address of a network for a client in a city.
func (n *internet) address(of *network, city int) netip.Addr {
	if of.hubs != nil {
		city = of.hubs[n.rand.IntN(len(of.hubs))]
	}
	p := pool{of.number, city}
	block, known := n.pools[p]
	if !known || n.taken[block] == 250 {
		block = len(n.blocks)
		n.blocks, n.taken = append(n.blocks, n.placeOf(of, city)), append(n.taken, 0)
		n.pools[p] = block
	}
	n.taken[block]++
	var four [4]byte
	binary.BigEndian.PutUint32(four[:], 20<<24+uint32(block)<<8+uint32(n.taken[block]))
	return netip.AddrFrom4(four)
}

// placeOf returns what a GeoIP database says of a new /24.
func (n *internet) placeOf(of *network, at int) detect.Place {
	if (of.kind == internetProvider || of.kind == company) && n.rand.Float64() < misplaced {
		at = n.cityOf(cities[at].country)
	}
	c := &cities[at]
	p := detect.Place{
		Region: c.country, City: uint32(at) + 1, Network: of.number, Located: true, Latitude: c.lat, Longitude: c.lon,
		Radius: radii[n.rand.IntN(len(radii))],
	}
	switch of.kind {
	case carrier:
		p.Radius = 200
	case satellite:
		p.Radius = 1000
	}
	return p
}

// place returns what a GeoIP database says of an address.
func (n *internet) place(a netip.Addr) detect.Place {
	four := a.As4()
	block := int(binary.BigEndian.Uint32(four[:])-20<<24) >> 8
	if block < 0 || block >= len(n.blocks) {
		return detect.Place{}
	}
	return n.blocks[block]
}

// distance returns the distance of two cities in km.
func distance(a, b int) float64 {
	const rad = math.Pi / 180
	p, q := &cities[a], &cities[b]
	lat, lon := math.Sin((q.lat-p.lat)*rad/2), math.Sin((q.lon-p.lon)*rad/2)
	return 2 * 6371 * math.Asin(math.Sqrt(lat*lat+math.Cos(p.lat*rad)*math.Cos(q.lat*rad)*lon*lon))
}

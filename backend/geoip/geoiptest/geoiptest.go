// Package geoiptest writes databases for tests.
package geoiptest

import (
	"net"
	"os"
	"testing"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"
)

// Write writes a MaxMind DB file at path. regions maps a network in CIDR notation to the code of its country. The file at
// path is replaced as geoipupdate does it, by a rename.
func Write(t testing.TB, path string, regions map[string]string) {
	t.Helper()
	write(t, path, regions, "country", "iso_code")
}

// WriteOther writes a database without countries at path.
func WriteOther(t testing.TB, path string, values map[string]string) {
	t.Helper()
	write(t, path, values, "traits", "organization")
}

func write(t testing.TB, path string, values map[string]string, outer, inner mmdbtype.String) {
	t.Helper()
	records := make(map[string]mmdbtype.Map, len(values))
	for cidr, value := range values {
		records[cidr] = mmdbtype.Map{outer: mmdbtype.Map{inner: mmdbtype.String(value)}}
	}
	writeRecords(t, path, records)
}

func writeRecords(t testing.TB, path string, records map[string]mmdbtype.Map) {
	t.Helper()
	tree, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "Test-Country", IncludeReservedNetworks: true})
	if err != nil {
		t.Fatal(err)
	}
	for cidr, record := range records {
		_, network, err := net.ParseCIDR(cidr)
		if err != nil {
			t.Fatal(err)
		}
		if err := tree.Insert(network, record); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.Create(path + ".new") //nolint:gosec // a test names the file
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tree.WriteTo(file); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// Place is what a database of cities says of a network. A zero field is left out.
type Place struct {
	Country             string
	City                uint32 // GeoNames ID
	Latitude, Longitude float64
	Radius              uint16 // in kilometres
	Network             uint32 // number of the autonomous system
}

// WritePlaces writes a database of cities and autonomous systems at path. places maps a network in CIDR notation to a place.
func WritePlaces(t testing.TB, path string, places map[string]Place) {
	t.Helper()
	records := make(map[string]mmdbtype.Map, len(places))
	for cidr, p := range places {
		r := mmdbtype.Map{}
		if p.Country != "" {
			r["country"] = mmdbtype.Map{"iso_code": mmdbtype.String(p.Country)}
		}
		if p.City != 0 {
			r["city"] = mmdbtype.Map{"geoname_id": mmdbtype.Uint32(p.City)}
		}
		if p.Latitude != 0 || p.Longitude != 0 {
			r["location"] = mmdbtype.Map{
				"latitude": mmdbtype.Float64(p.Latitude), "longitude": mmdbtype.Float64(p.Longitude),
				"accuracy_radius": mmdbtype.Uint16(p.Radius),
			}
		}
		if p.Network != 0 {
			r["autonomous_system_number"] = mmdbtype.Uint32(p.Network)
		}
		records[cidr] = r
	}
	writeRecords(t, path, records)
}

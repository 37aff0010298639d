package main

import (
	"net"
	"os"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"
)

// places are where the demo's clients are, by their addresses on loopback.
var places = []struct {
	network             string
	country             string
	city                mmdbtype.Uint32 // GeoNames ID
	latitude, longitude mmdbtype.Float64
	system              mmdbtype.Uint32 // number of the autonomous system, of the range for documentation (RFC 5398)
}{
	{"127.0.10.0/24", "DE", 2950159, 52.52, 13.41, 64496},   // Berlin
	{"127.0.20.0/24", "AU", 2147714, -33.87, 151.21, 64497}, // Sydney
}

// writePlaces writes a MaxMind DB file of cities at path.
func writePlaces(path string) error {
	tree, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "Demo-City", IncludeReservedNetworks: true})
	if err != nil {
		return err
	}
	for _, p := range places {
		_, network, err := net.ParseCIDR(p.network)
		if err != nil {
			return err
		}
		if err := tree.Insert(network, mmdbtype.Map{
			"country":                  mmdbtype.Map{"iso_code": mmdbtype.String(p.country)},
			"city":                     mmdbtype.Map{"geoname_id": p.city},
			"location":                 mmdbtype.Map{"latitude": p.latitude, "longitude": p.longitude, "accuracy_radius": mmdbtype.Uint16(20)},
			"autonomous_system_number": p.system,
		}); err != nil {
			return err
		}
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := tree.WriteTo(file); err != nil {
		_ = file.Close() // the first error counts
		return err
	}
	return file.Close()
}

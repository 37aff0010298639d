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
	tree, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "Test-Country", IncludeReservedNetworks: true})
	if err != nil {
		t.Fatal(err)
	}
	for cidr, value := range values {
		_, network, err := net.ParseCIDR(cidr)
		if err != nil {
			t.Fatal(err)
		}
		if err := tree.Insert(network, mmdbtype.Map{outer: mmdbtype.Map{inner: mmdbtype.String(value)}}); err != nil {
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

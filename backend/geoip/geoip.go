// Package geoip looks up the region of an address in a MaxMind DB file. It does not depend on Vault.
package geoip

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oschwald/maxminddb-golang/v2"
)

const (
	// recheck is how often a Database looks whether its file has changed. One look costs some microseconds.
	recheck = 5 * time.Second

	maxFileBytes = 1 << 30

	// maxProbes is the number of networks in which load searches for a country.
	maxProbes = 10_000
)

// Database looks up addresses in a file, and reads the file again when the file changes. A file that can no longer be
// read leaves the last good content in force. The content is in memory: a write to the file does not disturb a look-up. A
// Database is safe for concurrent use.
type Database struct {
	now  func() time.Time
	warn func(msg string, args ...any) // as of hclog.Logger and slog.Logger: keys and values follow the message

	reading sync.Mutex
	current atomic.Pointer[content] // nil: nothing was looked up
}

// content is what was read of a file.
type content struct {
	path    string
	reader  *maxminddb.Reader // nil: the file could never be read
	info    os.FileInfo       // of the file that reader has read
	checked time.Time         // when the file was looked at
	failure string            // why the file cannot be read; empty: it can
}

// New returns a Database that reads its file at the first look-up. warn logs that the file cannot be read.
func New(now func() time.Time, warn func(msg string, args ...any)) *Database {
	return &Database{now: now, warn: warn}
}

// Check returns an error unless path names a file that a Database can read.
func Check(path string) error {
	_, _, err := load(path)
	return err
}

// Region returns the region of an address, a code of ISO 3166-1 alpha-2 in upper case: the country in which the file
// places the address. Region returns the empty string if the file does not know, if the address is invalid, or if the
// file could never be read.
func (d *Database) Region(path string, addr netip.Addr) string {
	if !addr.IsValid() {
		return ""
	}
	reader := d.reader(path)
	if reader == nil {
		return ""
	}
	return regionOf(reader.Lookup(addr.Unmap().WithZone("")))
}

// Place is what a file says of an address. The zero value of a field means that the file does not say.
type Place struct {
	Region    string  // ISO 3166-1 alpha-2
	City      uint32  // GeoNames ID
	Network   uint32  // number of the autonomous system
	Located   bool    // whether the coordinates are known
	Latitude  float64 // in degrees
	Longitude float64 // in degrees
	Radius    float64 // accuracy of the coordinates, in kilometres
}

// record is the part of a record that Place reads: the form of a database of cities.
type record struct {
	Country struct {
		Code string `maxminddb:"iso_code"`
	} `maxminddb:"country"`
	City struct {
		ID uint32 `maxminddb:"geoname_id"`
	} `maxminddb:"city"`
	Location struct {
		Latitude  *float64 `maxminddb:"latitude"`
		Longitude *float64 `maxminddb:"longitude"`
		Radius    uint16   `maxminddb:"accuracy_radius"`
	} `maxminddb:"location"`
	Network uint32 `maxminddb:"autonomous_system_number"`
}

// Offers reports whether one of the first networks of the file has coordinates, and whether one has the number of an
// autonomous system.
func (d *Database) Offers(path string) (located, networks bool) {
	reader := d.reader(path)
	if reader == nil {
		return false, false
	}
	probes := 0
	for found := range reader.Networks() {
		var r record
		if found.Decode(&r) == nil {
			located = located || r.Location.Latitude != nil && r.Location.Longitude != nil
			networks = networks || r.Network != 0
		}
		if probes++; probes == maxProbes || located && networks {
			break
		}
	}
	return located, networks
}

// Place returns what the file says of an address: the zero Place if the file does not know, if the address is invalid, or
// if the file could never be read. A database of countries has neither cities nor coordinates.
func (d *Database) Place(path string, addr netip.Addr) (p Place) {
	if !addr.IsValid() {
		return p
	}
	reader := d.reader(path)
	if reader == nil {
		return p
	}
	var r record
	found := reader.Lookup(addr.Unmap().WithZone(""))
	if !found.Found() || found.Decode(&r) != nil {
		return p
	}
	p = Place{City: r.City.ID, Network: r.Network, Radius: float64(r.Location.Radius)}
	if len(r.Country.Code) == 2 {
		p.Region = r.Country.Code
	}
	if r.Location.Latitude != nil && r.Location.Longitude != nil {
		p.Located, p.Latitude, p.Longitude = true, *r.Location.Latitude, *r.Location.Longitude
	}
	return p
}

func regionOf(found maxminddb.Result) string {
	var code string
	if err := found.DecodePath(&code, "country", "iso_code"); err != nil || len(code) != 2 {
		return ""
	}
	return code
}

// reader returns the content of the file. One caller at a time looks whether the file has changed, and the others do not
// wait for that caller if they have content.
func (d *Database) reader(path string) *maxminddb.Reader {
	c := d.current.Load()
	if c.fresh(path, d.now()) {
		return c.reader
	}
	if c != nil && c.path == path && c.reader != nil {
		if !d.reading.TryLock() {
			return c.reader
		}
	} else {
		d.reading.Lock()
	}
	defer d.reading.Unlock()
	now := d.now()
	if c = d.current.Load(); c.fresh(path, now) {
		return c.reader
	}
	next := d.read(c, path)
	next.checked = now
	d.current.Store(next)
	return next.reader
}

// fresh reports whether c is of the path and was checked lately.
func (c *content) fresh(path string, now time.Time) bool {
	if c == nil || c.path != path {
		return false
	}
	age := now.Sub(c.checked)
	return age >= 0 && age < recheck
}

// read returns the content of the file now. old is what was read before; nil: nothing.
func (d *Database) read(old *content, path string) *content {
	next := &content{path: path}
	if old != nil && old.path == path {
		*next = *old
	}
	info, err := os.Stat(path)
	if err == nil && next.reader != nil && sameContent(info, next.info) {
		next.failure = ""
		return next
	}
	reader, info, err := load(path)
	if err == nil {
		return &content{path: path, reader: reader, info: info}
	}
	if next.failure != err.Error() {
		d.warn("geoip_database cannot be read", "path", path, "error", err, "last_content_in_force", next.reader != nil)
		next.failure = err.Error()
	}
	return next
}

func sameContent(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// load reads a file.
func load(path string) (*maxminddb.Reader, os.FileInfo, error) {
	if !filepath.IsAbs(path) {
		return nil, nil, errors.New("must be an absolute path")
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is not a regular file", path)
	}
	if info.Size() > maxFileBytes {
		return nil, nil, fmt.Errorf("%s has %d bytes, at most %d are allowed", path, info.Size(), maxFileBytes)
	}
	file, err := os.Open(path) //nolint:gosec // an operator names the file
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	text := make([]byte, info.Size())
	if _, err := io.ReadFull(file, text); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	reader, err := maxminddb.OpenBytes(text)
	if err != nil {
		return nil, nil, fmt.Errorf("%s is not a MaxMind DB file: %w", path, err)
	}
	if !hasCountries(reader) {
		return nil, nil, fmt.Errorf("%s has no country.iso_code: want a database of countries or cities, "+
			"such as GeoLite2-Country.mmdb", path)
	}
	return reader, info, nil
}

// hasCountries reports whether one of the first networks has a country. A database of other facts has none.
func hasCountries(reader *maxminddb.Reader) bool {
	probes := 0
	for network := range reader.Networks() {
		if regionOf(network) != "" {
			return true
		}
		if probes++; probes == maxProbes {
			break
		}
	}
	return false
}

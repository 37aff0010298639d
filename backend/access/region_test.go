package access

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestParseRegions(t *testing.T) {
	const members = "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK"
	for _, c := range []struct{ list, want string }{
		{"", ""},
		{"US DE", "DE US"},
		{"DE US DE", "DE US"},
		{"EU", members},
		{"EU DE", members},
		{"EEA", "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IS IT LI LT LU LV MT NL NO PL PT RO SE SI SK"},
		{"EU CH XK", "AT BE BG CH CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK XK"},
		{"de", `!"de" is not a region: want a code of ISO 3166-1 alpha-2 in upper case, such as DE or US, or one of the groups EU and EEA`},
		{"UK", `!"UK" is not a region`},
		{"DEU", `!"DEU" is not a region`},
		{"DE,FR", `!"DE,FR" is not a region`},
		{"eu", `!"eu" is not a region`},
		{strings.Repeat("D", 5000), "!DDDD..."},
		{strings.Repeat("DE ", maxRegions), "DE"},
		{strings.Repeat("DE ", maxRegions+1), "!at most 300"},
	} {
		got, err := ParseRegions(strings.Fields(c.list))
		if want, bad := strings.CutPrefix(c.want, "!"); bad {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%.40q: got %v, want %q", c.list, err, want)
			}
			continue
		}
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%q: %q, %v", c.list, got, err)
		}
	}
	if _, err := ParseRegions([]string{""}); err == nil {
		t.Error("an empty code is accepted")
	}
	// An error would be silent: Contains would never find the code.
	if !slices.IsSorted(countries) || len(slices.Compact(slices.Clone(countries))) != 250 {
		t.Errorf("%d countries, sorted: %v", len(countries), slices.IsSorted(countries))
	}
	if all, err := ParseRegions(countries); err != nil || len(all) != 250 {
		t.Errorf("%d regions, %v", len(all), err)
	}
}

// The members of a group are not shared: a caller that changes a parsed set must not change the group.
func TestGroupsAreNotShared(t *testing.T) {
	first, err := ParseRegions([]string{"EU"})
	if err != nil {
		t.Fatal(err)
	}
	first[0] = "ZZ"
	if second, _ := ParseRegions([]string{"EU"}); second[0] != "AT" {
		t.Error(second)
	}
	list := first.Strings()
	list[1] = "ZZ"
	if first[1] != "BE" || Regions(nil).Strings() == nil {
		t.Error(first, Regions(nil).Strings())
	}
}

func TestParseRegion(t *testing.T) {
	for _, s := range []string{"DE", "XX", "T1", "AZ", "09"} {
		if got, err := ParseRegion(s); err != nil || got != s {
			t.Errorf("%q: %q, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "D", "DEU", "de", "D\x00", "@A", "[A", "/0", ":0", "Ä"} {
		if got, err := ParseRegion(s); err == nil {
			t.Errorf("%q is taken for the region %q", s, got)
		}
	}
}

func TestRegionsContain(t *testing.T) {
	r := Regions{"DE", "US"}
	if !r.Contains("DE") || !r.Contains("US") || r.Contains("FR") || r.Contains("") || !r.Restricted() {
		t.Error(r)
	}
	var any Regions
	if !any.Contains("") || !any.Contains("DE") || any.Restricted() {
		t.Error("what is not restricted does not contain everything")
	}
	if got := fmt.Sprint(r.Exceeding(Regions{"AT", "DE", "FR"}), any.Exceeding(r), r.Exceeding(r)); got != "[AT FR] [] []" {
		t.Error(got)
	}
}

func TestIntersectRegions(t *testing.T) {
	for _, c := range []struct{ a, b, want string }{
		{"", "", ""},
		{"DE", "", "DE"},
		{"", "DE", "DE"},
		{"AT DE FR", "DE FR US", "DE FR"},
		{"DE", "FR", "nothing"},
	} {
		got, ok := Regions(strings.Fields(c.a)).Intersect(strings.Fields(c.b))
		if ok != (c.want != "nothing") || ok && strings.Join(got, " ") != c.want {
			t.Errorf("%q and %q: %q, %v; want %q", c.a, c.b, got, ok, c.want)
		}
	}
}

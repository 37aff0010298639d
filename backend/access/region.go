package access

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// countries are the codes of ISO 3166-1 alpha-2, and XK: GeoIP databases state this user-assigned code for Kosovo.
var countries = strings.Fields(`
	AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ
	CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR
	GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT
	JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY
	MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM
	PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ
	TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS XK YE YT ZA ZM ZW`)

// eu are the member states of the European Union. Territories with a code of their own, such as RE, are not in the list.
var eu = strings.Fields("AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK")

// groups maps the name of a group to its members.
var groups = map[string][]string{
	"EU":  eu,
	"EEA": slices.Concat(eu, []string{"IS", "LI", "NO"}),
}

// maxRegions is more than there are codes.
const maxRegions = 300

// Regions is a sorted set of codes of ISO 3166-1 alpha-2 in upper case. The zero value is not restricted.
type Regions []string

// ParseRegions parses a list of codes. The groups EU and EEA stand for their members. An empty list returns a set that is
// not restricted.
func ParseRegions(list []string) (Regions, error) {
	if len(list) > maxRegions {
		return nil, fmt.Errorf("%d regions given, at most %d are allowed", len(list), maxRegions)
	}
	var regions Regions
	for _, s := range list {
		members, isGroup := groups[s]
		switch {
		case isGroup:
			regions = append(regions, members...)
		case slices.Contains(countries, s):
			regions = append(regions, s)
		default:
			return nil, fmt.Errorf("%q is not a region: want a code of ISO 3166-1 alpha-2 in upper case, such as DE or US, "+
				"or one of the groups EU and EEA", clip(s))
		}
	}
	slices.Sort(regions)
	return slices.Compact(regions), nil
}

// ParseRegion parses the region of a client: two upper-case letters or digits. Codes that are not in ISO 3166-1 are
// accepted, such as the XX and T1 of some gateways for a region that is not known. No set contains such a code.
func ParseRegion(s string) (string, error) {
	for _, c := range []byte(s) {
		if (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			return "", errNotRegion
		}
	}
	if len(s) != 2 {
		return "", errNotRegion
	}
	return s, nil
}

var errNotRegion = errors.New("must be a code of ISO 3166-1 alpha-2 in upper case, such as DE or US")

// Restricted reports whether there may be a region that r does not contain.
func (r Regions) Restricted() bool { return len(r) > 0 }

// Contains reports whether region, as ParseRegion returns it, is in the set. Only a set that is not restricted contains
// the empty region.
func (r Regions) Contains(region string) bool {
	return len(r) == 0 || slices.Contains(r, region)
}

// Exceeding returns the regions of narrower that r does not contain.
func (r Regions) Exceeding(narrower Regions) []string {
	var outside []string
	for _, region := range narrower {
		if !r.Contains(region) {
			outside = append(outside, region)
		}
	}
	return outside
}

// Intersect returns the regions that are in both sets; ok is false if there are none.
func (r Regions) Intersect(other Regions) (_ Regions, ok bool) {
	switch {
	case len(r) == 0:
		return other, true
	case len(other) == 0:
		return r, true
	}
	var both Regions
	for _, region := range r {
		if other.Contains(region) {
			both = append(both, region)
		}
	}
	return both, len(both) > 0
}

// Strings returns a copy of the codes. The list may be empty but is never nil.
func (r Regions) Strings() []string { return append([]string{}, r...) }

package detect

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

const (
	// settingsKey is where the settings are stored.
	settingsKey = Prefix + "settings"

	// maxRanges is the maximum number of known ranges, and of hosting networks.
	maxRanges = 200
)

// Fields of the settings beside the rules and thresholds.
const (
	KnownRanges     = "known_ranges"
	HostingNetworks = "hosting_networks"
)

// Settings says what the rules do. A published Settings does not change.
type Settings struct {
	modes   []Mode // in the order of Rules
	numbers [thresholds]int64
	ranges  access.Addresses
	hosting map[uint32]bool // networks by number
	stored  storedSettings
}

// storedSettings is the stored form: what differs from the defaults.
type storedSettings struct {
	Modes    map[Rule]Mode    `json:"modes,omitempty"`
	Numbers  map[string]int64 `json:"numbers,omitempty"`
	Ranges   []string         `json:"known_ranges,omitempty"`
	Networks []string         `json:"hosting_networks,omitempty"`
}

// DefaultSettings returns the settings of a mount that nobody has configured.
func DefaultSettings() *Settings {
	s, err := storedSettings{}.settings()
	if err != nil {
		panic(err) // the zero value has nothing that could be refused
	}
	return s
}

// settings returns the settings of a stored form, or a refusal that names the field.
func (stored storedSettings) settings() (*Settings, error) {
	s := &Settings{stored: stored, modes: make([]Mode, len(Rules)), hosting: make(map[uint32]bool)}
	for i := range Rules {
		s.modes[i] = On
		if mode, set := stored.Modes[Rules[i].Rule]; set {
			if !Rules[i].Rule.takes(mode) {
				return nil, refusal.Field(string(Rules[i].Rule), "%q is not one of: %s", refusal.Clip(string(mode)),
					list(Rules[i].Rule.Modes()))
			}
			s.modes[i] = mode
		}
	}
	for i := range Thresholds {
		t := &Thresholds[i]
		s.numbers[i] = t.Default
		if n, set := stored.Numbers[t.Name]; set {
			if n < t.Min || n > t.Max {
				return nil, refusal.Field(t.Name, "must be between %s and %s", t.text(t.Min), t.text(t.Max))
			}
			s.numbers[i] = n
		}
	}
	if len(stored.Ranges) > maxRanges || len(stored.Networks) > maxRanges {
		field := map[bool]string{true: KnownRanges, false: HostingNetworks}[len(stored.Ranges) > maxRanges]
		return nil, refusal.Field(field, "has more than %d entries", maxRanges)
	}
	for _, text := range stored.Networks {
		n, err := strconv.ParseUint(strings.TrimPrefix(text, "AS"), 10, 32)
		if err != nil || n == 0 {
			return nil, refusal.Field(HostingNetworks, "%q is not the number of an autonomous system, such as AS64496",
				refusal.Clip(text))
		}
		s.hosting[uint32(n)] = true
	}
	var err error
	if s.ranges, err = access.ParseAddresses(stored.Ranges); err != nil {
		return nil, refusal.Field(KnownRanges, "%s", err)
	}
	return s, nil
}

// text returns a value of a threshold with its unit.
func (t *Threshold) text(n int64) string {
	if t.Duration {
		return short(time.Duration(n) * time.Second)
	}
	return strconv.FormatInt(n, 10)
}

// short returns a duration in the usual short form; days where there are only days.
func short(d time.Duration) string {
	if days := d / (24 * time.Hour); days > 2 && d == days*24*time.Hour {
		return fmt.Sprintf("%dd", days)
	}
	return refusal.Short(d)
}

func list(modes []Mode) string {
	texts := make([]string, len(modes))
	for i, mode := range modes {
		texts[i] = string(mode)
	}
	return strings.Join(texts, ", ")
}

func (s *Settings) mode(r Rule) Mode            { return s.modes[r.number()] }
func (s *Settings) on(r Rule) bool              { return s.mode(r) != Off }
func (s *Settings) limit(threshold int) float64 { return float64(s.numbers[threshold]) }

// span returns a threshold that is a duration in words.
func (s *Settings) span(threshold int) string {
	return short(time.Duration(s.numbers[threshold]) * time.Second)
}

// within reports whether an address is in a known range.
func (s *Settings) within(addr netip.Addr) bool {
	return s.ranges.Restricted() && s.ranges.Contains(addr)
}

// Members returns the settings as answers show them.
func (s *Settings) Members() map[string]any {
	data := map[string]any{KnownRanges: slices.Clone(s.stored.Ranges), HostingNetworks: slices.Clone(s.stored.Networks)}
	for i := range Rules {
		data[string(Rules[i].Rule)] = string(s.modes[i])
	}
	for i := range Thresholds {
		data[Thresholds[i].Name] = int(s.numbers[i])
	}
	return data
}

// Change is what a request to write the settings gives. Values that are absent stay as they are.
type Change struct {
	Modes    map[Rule]Mode
	Numbers  map[string]int64 // by the name of the threshold; durations in seconds
	Ranges   *[]string
	Networks *[]string
}

// NewChange returns the change that a request asks for. given returns the value of a field that the request gives.
func NewChange(given func(field string) (value any, ok bool)) *Change {
	c := &Change{Modes: make(map[Rule]Mode), Numbers: make(map[string]int64)}
	for _, r := range Rules {
		if mode, ok := given(string(r.Rule)); ok {
			c.Modes[r.Rule] = Mode(mode.(string))
		}
	}
	for _, t := range Thresholds {
		if n, ok := given(t.Name); ok {
			c.Numbers[t.Name] = int64(n.(int))
		}
	}
	for field, into := range map[string]**[]string{KnownRanges: &c.Ranges, HostingNetworks: &c.Networks} {
		if list, ok := given(field); ok {
			texts := list.([]string)
			*into = &texts
		}
	}
	return c
}

// Change changes the settings as storage holds them. It warns if the stored settings could not be read.
func (d *Detector) Change(ctx context.Context, s logical.Storage, c *Change) (warnings []string, _ error) {
	d.writes.settings.Lock()
	defer d.writes.settings.Unlock()
	now, err := d.readSettings(ctx, s)
	if err != nil {
		return nil, err
	}
	if d.Damaged()[settingsKey] != nil {
		warnings = append(warnings, "the stored settings could not be read: each setting that was not given now has its default")
	}
	next := storedSettings{maps.Clone(now.stored.Modes), maps.Clone(now.stored.Numbers), now.stored.Ranges, now.stored.Networks}
	if next.Modes == nil {
		next.Modes = make(map[Rule]Mode)
	}
	if next.Numbers == nil {
		next.Numbers = make(map[string]int64)
	}
	maps.Copy(next.Modes, c.Modes)
	maps.Copy(next.Numbers, c.Numbers)
	if c.Ranges != nil {
		next.Ranges = *c.Ranges
	}
	if c.Networks != nil {
		next.Networks = *c.Networks
	}
	settings, err := next.settings()
	if err != nil {
		return nil, err
	}
	entry, err := logical.StorageEntryJSON(settingsKey, next)
	if err != nil {
		return nil, err
	}
	if err := s.Put(ctx, entry); err != nil {
		return nil, err
	}
	d.NoteDamage(settingsKey, nil)
	d.settings.Store(settings)
	return warnings, nil
}

// readSettings returns the settings as storage holds them; the defaults if the entry cannot be read.
func (d *Detector) readSettings(ctx context.Context, s logical.Storage) (*Settings, error) {
	entry, err := s.Get(ctx, settingsKey)
	if err != nil {
		return nil, err
	}
	var stored storedSettings
	if entry != nil {
		err = json.Unmarshal(entry.Value, &stored)
	}
	settings := DefaultSettings()
	if err == nil {
		var read *Settings
		if read, err = stored.settings(); err == nil {
			settings = read
		}
	}
	d.NoteDamage(settingsKey, err)
	return settings, nil
}

func (d *Detector) loadSettings(ctx context.Context, s logical.Storage) error {
	d.writes.settings.Lock()
	defer d.writes.settings.Unlock()
	settings, err := d.readSettings(ctx, s)
	if err == nil {
		d.settings.Store(settings)
	}
	return err
}

package mount

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/alert"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/metrics"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// placeOf returns where an address is, as far as the file that the config names says.
func (m *Mount) placeOf(addr netip.Addr) detect.Place {
	st := m.Loaded()
	if st == nil {
		return detect.Place{}
	}
	path := st.Config.OrDefaults().GeoIPDatabase
	if path == "" {
		return detect.Place{}
	}
	return detect.Place(m.World.Regions.Place(path, addr))
}

// holderOf returns who holds a token, as the inventory says.
func (m *Mount) holderOf(id token.ID) (detect.Holder, bool) {
	st := m.Loaded()
	if st == nil {
		return detect.Holder{}, false
	}
	row, known := st.Inventory.Get(id)
	return detect.Holder{Role: row.Role, Subject: row.Subject, IssuedAt: row.IssuedAt}, known
}

// roleMode returns the mode that a role has for a rule of misuse. Until the roles are read, no response is repeated.
func (m *Mount) roleMode(role string, rule detect.Rule) (detect.Mode, bool) {
	st := m.Loaded()
	if st == nil {
		return detect.On, true
	}
	r := st.Roles.Get(role)
	if r == nil {
		return "", false
	}
	mode, known := r.Detection[string(rule)]
	return detect.Mode(mode), known
}

// Unavailable returns the rules that lack what they need to find everything, each with the reason.
func (m *Mount) Unavailable() map[string]any {
	var located, networks bool
	database := "config has no geoip_database"
	if st := m.Loaded(); st != nil && st.Config.OrDefaults().GeoIPDatabase != "" {
		located, networks = m.World.Regions.Offers(st.Config.OrDefaults().GeoIPDatabase)
		database = "geoip_database of config has no %s"
	}
	reasons := make(map[string]any)
	add := func(rule detect.Rule, what, effect string) {
		reason := database
		if strings.Contains(database, "%s") {
			reason = fmt.Sprintf(database, what)
		}
		reasons[string(rule)] = reason + ": " + effect
	}
	if !located {
		add(detect.ImpossibleTravel, "coordinates, which a database of cities has", "the rule makes no findings")
	}
	if !networks {
		only := "networks are known only if verifiers report last_network"
		add(detect.NewNetwork, "autonomous_system_number", only)
		add(detect.SeveralNetworks, "autonomous_system_number", only)
	}
	return reasons
}

// originOf returns where the events of the mount come from: the issuer, or the path of the mount.
func (m *Mount) originOf(mountPoint string) alert.Origin {
	o := alert.Origin{Source: "/v1/" + strings.TrimSuffix(mountPoint, "/"), Environment: mountPoint}
	if st := m.Loaded(); st != nil {
		config := st.Config.OrDefaults()
		o.Source, o.Environment = cmp.Or(config.Issuer, o.Source), config.EnvironmentOf(mountPoint)
	}
	return o
}

// responder acts on the tokens of findings.
type responder struct{ *Mount }

// Suspend implements detect.Responder.
func (r responder) Suspend(ctx context.Context, grant token.ID, note string) error {
	st, err := r.Load(ctx, r.Storage)
	if err != nil {
		return err
	}
	if st.Revoked(grant) {
		return detect.ErrRevoked
	}
	warnings, err := r.Mount.Suspend(ctx, r.Storage, st, Target{Grant: grant}, note)
	r.warn("token of a finding suspended", grant, warnings)
	if err == nil {
		r.Counters.Suspended(metrics.ByFinding)
	}
	return err
}

// Revoke implements detect.Responder.
func (r responder) Revoke(ctx context.Context, grant token.ID) error {
	st, err := r.Load(ctx, r.Storage)
	if err != nil {
		return err
	}
	warnings, err := r.Mount.Revoke(ctx, r.Storage, st, "", grant)
	r.warn("token of a finding revoked", grant, warnings)
	if err == nil {
		r.Counters.Revoked(metrics.ByFinding, 1)
	}
	return err
}

func (r responder) warn(event string, grant token.ID, warnings []string) {
	for _, warning := range warnings {
		r.Log.Warn(event, "token_id", grant.String(), "warning", warning)
	}
}

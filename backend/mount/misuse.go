package mount

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
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

// responder acts on the tokens of findings.
type responder struct{ *Mount }

// Revoke implements detect.Responder.
func (r responder) Revoke(ctx context.Context, grant token.ID) error {
	st, err := r.Load(ctx, r.Storage)
	if err != nil {
		return err
	}
	warnings, err := r.Mount.Revoke(ctx, r.Storage, st, "", grant)
	for _, warning := range warnings {
		r.Log.Warn(fmt.Sprintf("token of a finding revoked: %s", warning), "token_id", grant.String())
	}
	return err
}

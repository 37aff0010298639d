package config

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
)

// Verifier returns the configuration of the library.
func (f *File) Verifier(logger *slog.Logger) (verify.Config, error) {
	c := verify.Config{
		Issuer:        f.Issuer,
		Environment:   f.Environment,
		Audience:      f.Audience,
		AnyAudience:   f.AnyAudience,
		Hosts:         f.Hosts,
		GeoIPDatabase: f.GeoIPDatabase,
		ShareRate:     f.ShareRate,
		ClockSkew:     f.ClockSkew,
		MaxAge:        f.MaxAge,
		MaxTokens:     f.MaxTokens,
		DPoP:          verify.DPoPConfig{MaxAge: f.DPoP.MaxAge, MaxProofs: f.DPoP.MaxProofs},
		Logger:        logger,
	}
	if f.DPoP.NonceKeyFile != "" {
		key, err := os.ReadFile(f.DPoP.NonceKeyFile)
		if err != nil {
			return c, fmt.Errorf("dpop.nonce_key_file: %w", err)
		}
		c.DPoP.NonceKey = bytes.TrimSpace(key)
	}
	if f.Vault != nil {
		c.Vault = f.Vault.client()
	}
	if s := f.FeedFrom; s != nil {
		c.FeedFrom = &verify.FeedSource{URL: s.URL, CACert: s.CACert, Certificate: s.Certificate, Key: s.Key}
	}
	return c, nil
}

func (v *Vault) client() *verify.VaultConfig {
	c := &verify.VaultConfig{Address: v.Address, Namespace: v.Namespace, Mount: v.Mount, CACert: v.CACert, TokenFile: v.TokenFile}
	if a := v.AppRole; a != nil {
		c.AppRole = &verify.AppRole{Mount: a.Mount, RoleID: a.RoleID, SecretIDFile: a.SecretIDFile}
	}
	if k := v.Kubernetes; k != nil {
		c.Kubernetes = &verify.LoginRole{Mount: k.Mount, Role: k.Role, JWTFile: k.JWTFile}
	}
	if j := v.JWT; j != nil {
		c.JWT = &verify.LoginRole{Mount: j.Mount, Role: j.Role, JWTFile: j.JWTFile}
	}
	return c
}

package scan

import (
	"encoding/json"
	"io"
	"net/url"
)

// The parts of SARIF 2.1.0 that findings need (OASIS, sections 3.13 to 3.27).
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool    sarifTool     `json:"tool"`
		Results []sarifResult `json:"results"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name  string      `json:"name"`
		URI   string      `json:"informationUri"`
		Rules []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID    string    `json:"id"`
		Short sarifText `json:"shortDescription"`
		Help  sarifText `json:"help"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifResult struct {
		RuleID       string            `json:"ruleId"`
		Level        string            `json:"level"` // error, warning or note
		Message      sarifText         `json:"message"`
		Locations    []sarifLocation   `json:"locations"`
		Fingerprints map[string]string `json:"partialFingerprints"`
		Properties   map[string]string `json:"properties,omitempty"`
	}
	sarifLocation struct {
		Physical struct {
			Artifact struct {
				URI string `json:"uri"`
			} `json:"artifactLocation"`
			Region struct {
				StartLine int `json:"startLine"`
			} `json:"region"`
		} `json:"physicalLocation"`
	}
)

const (
	sarifSchema = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
	homepage    = "https://github.com/vault-apitoken/vault-plugin-secrets-apitoken"
	help        = "Revoke the token (apitoken scan -revoke), issue a new one, and remove the token from where it was found."
)

// writeSARIF writes findings as SARIF.
func writeSARIF(w io.Writer, found []*finding) error {
	results := make([]sarifResult, 0, len(found))
	for _, f := range found {
		results = append(results, f.sarif())
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(sarifLog{Schema: sarifSchema, Version: "2.1.0", Runs: []sarifRun{{
		Tool: sarifTool{sarifDriver{Name: "apitoken", URI: homepage, Rules: []sarifRule{
			{ruleOpaque, sarifText{"API token of a Vault secrets engine"}, sarifText{help}},
			{ruleJWT, sarifText{"JWT access token of a Vault secrets engine"}, sarifText{help}},
		}}},
		Results: results,
	}}})
}

func (f *finding) sarif() sarifResult {
	level := "note"
	switch {
	case f.state == stateActive || f.ended:
		level = "error"
	case f.counts():
		level = "warning"
	}
	r := sarifResult{
		RuleID: f.kind, Level: level, Message: sarifText{f.shown() + ": " + f.describe()},
		Fingerprints: map[string]string{"tokenHash/v1": f.fingerprint()}, Properties: make(map[string]string),
	}
	for name, value := range map[string]string{"state": f.state, "role": f.role, "tokenId": f.tokenID, "commit": f.commit} {
		if value != "" {
			r.Properties[name] = value
		}
	}
	var at sarifLocation
	at.Physical.Artifact.URI = (&url.URL{Path: f.file}).String()
	at.Physical.Region.StartLine = max(f.line, 1)
	r.Locations = []sarifLocation{at}
	return r
}

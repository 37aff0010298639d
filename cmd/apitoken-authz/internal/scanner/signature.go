package scanner

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
)

// keys are public keys by their identifiers.
type keys map[string]*ecdsa.PublicKey

// Headers of GitHub's requests.
const (
	keyHeader       = "Github-Public-Key-Identifier"
	signatureHeader = "Github-Public-Key-Signature"
)

// parseKeys reads the answer of https://api.github.com/meta/public_keys/secret_scanning.
func parseKeys(text []byte) (keys, error) {
	var listed struct {
		PublicKeys []struct {
			ID  string `json:"key_identifier"`
			Key string `json:"key"`
		} `json:"public_keys"`
	}
	if err := json.Unmarshal(text, &listed); err != nil {
		return nil, err
	}
	found := make(keys)
	for _, k := range listed.PublicKeys {
		block, _ := pem.Decode([]byte(k.Key))
		if block == nil {
			return nil, fmt.Errorf("key %q is not in PEM", k.ID)
		}
		parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("key %q: %w", k.ID, err)
		}
		key, is := parsed.(*ecdsa.PublicKey)
		if !is || key.Curve != elliptic.P256() || k.ID == "" {
			return nil, fmt.Errorf("key %q is no ECDSA key on the curve P-256 with a key_identifier", k.ID)
		}
		found[k.ID] = key
	}
	if len(found) == 0 {
		return nil, errors.New("there are no public_keys")
	}
	return found, nil
}

// check reports whether a body was signed with one of the keys: ECDSA on P-256 with SHA-256 over the body as it was sent.
func (k keys) check(header http.Header, body []byte) error {
	ids, signatures := header.Values(keyHeader), header.Values(signatureHeader)
	if len(ids) != 1 || len(signatures) != 1 {
		return fmt.Errorf("the headers %s and %s are required, once each", keyHeader, signatureHeader)
	}
	key := k[ids[0]]
	if key == nil {
		return fmt.Errorf("%s names no key of scanner.github_keys: the file may be out of date", keyHeader)
	}
	signature, err := base64.StdEncoding.DecodeString(signatures[0])
	sum := sha256.Sum256(body)
	if err != nil || !ecdsa.VerifyASN1(key, sum[:], signature) {
		return errors.New("the signature is not that of the body")
	}
	return nil
}

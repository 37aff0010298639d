package simulation

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"strings"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// inspect looks at what a token shows to anybody: its id, its end, its place in a status list; and that no two
// opaque tokens were sealed under one key and nonce. The caller holds mu.
func (w *world) inspect(tok *issued) {
	w.secrets.add(tok.text)
	if token.IsJWT(tok.text) {
		w.inspectJWT(tok)
		return
	}
	nonce, ok := header(tok.text)
	if !ok {
		w.broken(4, "%q is no token", tok.text)
		return
	}
	if other, used := w.model.sealed[nonce]; used && other != tok.text {
		w.broken(5, "two tokens were sealed under one key and nonce: %s and %s", other, tok.text)
	}
	w.model.sealed[nonce] = tok.text
}

func (w *world) inspectJWT(tok *issued) {
	_, rest, _ := strings.Cut(tok.text, ".")
	encoded, _, _ := strings.Cut(rest, ".")
	payload, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		w.broken(4, "%q is no JWT", tok.text)
		return
	}
	var claims struct {
		ID     string `json:"jti"`
		End    int64  `json:"exp"`
		Status struct {
			List struct {
				Index int    `json:"idx"`
				URI   string `json:"uri"`
			} `json:"status_list"`
		} `json:"status"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		w.broken(4, "a JWT says %s", payload)
		return
	}
	tok.id, tok.end = claims.ID, time.Unix(claims.End, 0)
	if uri := claims.Status.List.URI; uri != "" {
		tok.list, tok.place = uri[strings.LastIndex(uri, "/")+1:], claims.Status.List.Index
	}
}

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// header reads the header of an opaque token: version (1 byte), key number (4), id (12), in blocks of eight bytes as
// eleven digits of base62. It gives the last two as one text.
func header(text string) (nonce string, ok bool) {
	_, body, found := strings.Cut(text[max(0, strings.LastIndexByte(text, '_')):], "_")
	if !found || len(body) < 33 || !token.Checksum(text) {
		return "", false
	}
	var decoded []byte
	for block := range 3 {
		value := new(big.Int)
		for _, digit := range []byte(body[11*block : 11*block+11]) {
			value.Mul(value, big.NewInt(62)).Add(value, big.NewInt(int64(strings.IndexByte(base62, digit))))
		}
		decoded = append(decoded, value.FillBytes(make([]byte, 8))...)
	}
	return hex.EncodeToString(decoded[1:17]), true
}

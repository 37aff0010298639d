package verifytest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
)

// leaked answers as the engine does: backend/path_leaked.go. The caller holds mu.
func (i *Issuer) leaked(r *http.Request) map[string]any {
	var in struct {
		Tokens []struct{ Token, Type, URL, Source string } `json:"tokens"`
	}
	_ = json.NewDecoder(r.Body).Decode(&in)
	results := make([]map[string]any, len(in.Tokens))
	for n, reported := range in.Tokens {
		label := "false_positive"
		if one := i.issued[reported.Token]; one != nil {
			label = "true_positive"
			i.revoked[one.claims.Grant] = true
		}
		sum := sha256.Sum256([]byte(reported.Token))
		results[n] = map[string]any{"token_hash": hex.EncodeToString(sum[:]), "token_type": reported.Type, "label": label}
	}
	return map[string]any{"results": results}
}

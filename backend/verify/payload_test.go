package verify

import (
	"encoding/json"
	"reflect"
	"testing"

	strictjson "github.com/go-jose/go-jose/v4/json"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const enginePayload = `{"iss":"https://vault.example.com:8200/v1/apitoken","sub":"c0ffee00-1111-2222-3333-444455556666","aud":["https://api.test"],` +
	`"exp":1795719000,"iat":1795715400,"nbf":1795715400,"jti":"7f9549cd2600000007000001","client_id":"reader","scope":"orders:*","env":"test",` +
	`"cnf":{"jkt":"x"},"status":{"status_list":{"idx":1,"uri":"https://vault.example.com:8200/v1/apitoken/oauth/status/7"}},"urn:vault-apitoken":` +
	`{"role":"0011223344556677","role_version":1,"status_list":7,"metadata":{"team":"billing"},"token_bound_cidrs":["10.0.0.0/8"],` +
	`"bound_regions":["DE","FR"],"bound_hosts":["api.example.com"],"rate_limit":"5/1m"}}`

// The quick decoder reads what the engine writes: a change of token.JWT without a change here would cost time.
func TestPayloadOfEngine(t *testing.T) {
	var p token.JWT
	r := &reader{text: enginePayload}
	if r.payload(&p); r.bad || r.at != len(enginePayload) {
		t.Fatalf("stopped at byte %d", r.at)
	}
	again, err := json.Marshal(&p)
	if err != nil || string(again) != enginePayload {
		t.Errorf("%s, %v", again, err)
	}
	for i := range reflect.TypeFor[token.JWTEngine]().NumField() {
		if reflect.ValueOf(p.Engine).Field(i).IsZero() {
			t.Errorf("%s is not in the payload of this test", reflect.TypeFor[token.JWTEngine]().Field(i).Name)
		}
	}
}

// FuzzPayload holds the quick decoder against the strict one.
func FuzzPayload(f *testing.F) {
	for _, seed := range []string{
		enginePayload, `{}`, `{"iss":"a","iss":"b"}`, `{"ISS":"a"}`, `{"exp":01}`, `{"exp":1e3}`, `{"aud":[]}`, `{"aud":null}`, `{"cnf":{}}`, ` {}`, `{}x`,
		`{"sub":"\u0041"}`, `{"sub":"ä"}`, `{"urn:vault-apitoken":{"metadata":{"a":"1","a":"2"}}}`, `{"status":{"status_list":{"idx":4294967296}}}`, `{"exp":-1}`, `{"aud":["a",]}`,
		`{"exp":9999999999999999}`, `{"a":{}}`, `{`, `{"iss":"`, `{"iss"`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var quick, strict token.JWT
		r := &reader{text: text}
		if r.payload(&quick); r.bad || r.at != len(text) {
			return
		}
		if err := strictjson.Unmarshal([]byte(text), &strict); err != nil {
			t.Fatalf("%q is not valid: %v", text, err)
		}
		if !reflect.DeepEqual(quick, strict) {
			t.Errorf("%q\nquick:  %+v\nstrict: %+v", text, quick, strict)
		}
	})
}

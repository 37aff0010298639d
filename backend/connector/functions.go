package connector

import (
	"encoding/json"
	"fmt"
	"net/url"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"github.com/go-jose/go-jose/v4"
)

// ownFunctions are the functions that this package adds to CEL and its extensions:
//
//	basic_auth(user, password)     value of an Authorization header (RFC 7617)
//	form_encode(text)              text encoded as in a form (RFC 6749 appendix B)
//	date(timestamp)                the day in UTC, as 2006-01-02
//	unix(timestamp)                seconds since 1970
//	sign_jwt(algorithm, key, map)  a JWT (RFC 7519), signed with a private key in PEM
var ownFunctions = []cel.EnvOption{
	cel.Function("basic_auth", cel.Overload("basic_auth_string_string", []*cel.Type{cel.StringType, cel.StringType}, cel.StringType,
		cel.BinaryBinding(func(user, password ref.Val) ref.Val {
			return types.String(basicAuth(string(user.(types.String)), string(password.(types.String))))
		}))),
	cel.Function("form_encode", cel.Overload("form_encode_string", []*cel.Type{cel.StringType}, cel.StringType,
		cel.UnaryBinding(func(text ref.Val) ref.Val { return types.String(url.QueryEscape(string(text.(types.String)))) }))),
	cel.Function("date", cel.Overload("date_timestamp", []*cel.Type{cel.TimestampType}, cel.StringType,
		cel.UnaryBinding(func(t ref.Val) ref.Val {
			return types.String(t.(types.Timestamp).UTC().Format(time.DateOnly))
		}))),
	cel.Function("unix", cel.Overload("unix_timestamp", []*cel.Type{cel.TimestampType}, cel.IntType,
		cel.UnaryBinding(func(t ref.Val) ref.Val {
			return types.Int(t.(types.Timestamp).Unix())
		}))),
	cel.Function("sign_jwt", cel.Overload("sign_jwt_string_string_map", []*cel.Type{cel.StringType, cel.StringType, mapType}, cel.StringType,
		cel.FunctionBinding(func(args ...ref.Val) ref.Val {
			claims, err := native(args[2])
			if err != nil {
				return types.WrapErr(err)
			}
			signed, err := signJWT(string(args[0].(types.String)), string(args[1].(types.String)), claims)
			if err != nil {
				return types.WrapErr(err)
			}
			return types.String(signed)
		}))),
}

// signJWT returns a signed JWT. Its error does not describe the key, since the key is a secret.
func signJWT(algorithm, key string, claims any) (string, error) {
	private, err := parsePrivateKey(key)
	if err != nil {
		return "", err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(algorithm), Key: private}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", fmt.Errorf("the key does not sign with %s", clip(algorithm))
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("the key does not sign with %s", clip(algorithm))
	}
	return signed.CompactSerialize()
}

// native converts a CEL value to Go maps, slices, strings, numbers, times and nil.
func native(value ref.Val) (any, error) {
	switch v := value.(type) {
	case *types.Optional:
		if !v.HasValue() {
			return nil, nil
		}
		return native(v.GetValue())
	case types.Null:
		return nil, nil
	case types.String:
		return string(v), nil
	case types.Int:
		return int64(v), nil
	case types.Uint:
		return uint64(v), nil
	case types.Double:
		return float64(v), nil
	case types.Bool:
		return bool(v), nil
	case types.Bytes:
		return string(v), nil
	case types.Timestamp:
		return v.Time, nil
	case types.Duration:
		return v.Duration, nil
	case traits.Mapper:
		m := make(map[string]any)
		for it := v.Iterator(); it.HasNext() == types.True; {
			key := it.Next()
			name, ok := key.(types.String)
			if !ok {
				return nil, fmt.Errorf("the keys of a map must be strings, not %s", key.Type().TypeName())
			}
			one, err := native(v.Get(key))
			if err != nil {
				return nil, err
			}
			m[string(name)] = one
		}
		return m, nil
	case traits.Lister:
		list := []any{}
		for it := v.Iterator(); it.HasNext() == types.True; {
			one, err := native(it.Next())
			if err != nil {
				return nil, err
			}
			list = append(list, one)
		}
		return list, nil
	}
	if types.IsError(value) {
		return nil, fmt.Errorf("%v", value)
	}
	return nil, fmt.Errorf("a %s is not allowed here", value.Type().TypeName())
}

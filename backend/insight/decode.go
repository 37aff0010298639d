package insight

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const (
	// MaxRows is the maximum number of rows in tokens, and in unknown.
	MaxRows = 10_000

	// MaxBytes is the maximum size of all strings and numbers of a report, in bytes.
	MaxBytes = 4 << 20

	// maxRowScopes is the maximum number of scopes in a row.
	maxRowScopes = 100

	// maxCount is the highest number of uses or refusals in a row.
	maxCount = 1_000_000_000
)

var reporterName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$`)

// decoder decodes the rows of a report, as JSON has them. Its errors name the row and the field.
type decoder struct {
	left   int // bytes that the report may still have
	scopes map[string]bool
}

// ParseReport returns the report of a request. The rows are decoded JSON.
func ParseReport(reporter string, sequence int64, tokens, unknown []any) (*Report, error) {
	if !reporterName.MatchString(reporter) {
		return nil, refusal.Field("reporter", "takes 1 to 64 letters, digits, dots, colons, hyphens and underscores, "+
			"and begins with a letter or digit")
	}
	if sequence < 1 {
		return nil, refusal.Field("sequence", "must be at least 1")
	}
	for name, rows := range map[string][]any{"tokens": tokens, "unknown": unknown} {
		if len(rows) > MaxRows {
			return nil, refusal.Field(name, "has %d rows, at most %d are allowed", len(rows), MaxRows)
		}
	}
	r := &Report{
		Reporter: reporter, Sequence: uint64(sequence),
		Tokens: make([]TokenUse, len(tokens)), Unknown: make([]AddressUse, len(unknown)),
	}
	d := &decoder{left: MaxBytes, scopes: make(map[string]bool)}
	for i, row := range tokens {
		take := func(field string, value any) error { return d.token(&r.Tokens[i], field, value) }
		if err := d.object("tokens", i, row, take); err != nil {
			return nil, err
		}
		if r.Tokens[i].ID.IsZero() {
			return nil, refusal.Field(rowName("tokens", i), "token_id is missing")
		}
	}
	for i, row := range unknown {
		take := func(field string, value any) error { return d.unknown(&r.Unknown[i], field, value) }
		if err := d.object("unknown", i, row, take); err != nil {
			return nil, err
		}
		if !r.Unknown[i].Address.IsValid() || r.Unknown[i].Refusals == 0 {
			return nil, refusal.Field(rowName("unknown", i), "takes ip and refusals, and refusals of at least 1")
		}
	}
	return r, nil
}

func rowName(list string, i int) string { return list + "[" + strconv.Itoa(i) + "]" }

// object decodes the fields of a row.
func (d *decoder) object(list string, i int, row any, field func(name string, value any) error) error {
	fields, is := row.(map[string]any)
	if !is {
		return refusal.Field(rowName(list, i), "takes an object")
	}
	for name, value := range fields {
		if err := field(name, value); err != nil {
			return refusal.Field(rowName(list, i)+"."+refusal.Clip(name), "%s", err)
		}
	}
	if d.left < 0 {
		return refusal.Field(list, "the report has more than %d bytes: send a part of the rows in a batch of its own", MaxBytes)
	}
	return nil
}

func (d *decoder) token(row *TokenUse, field string, value any) error {
	switch field {
	case "token_id":
		text, err := d.text(value)
		if err == nil {
			_, row.ID, err = token.ParseName(text)
		}
		return err
	case "uses":
		n, err := d.count(value)
		row.Uses = n
		return err
	case "last_used_at":
		text, err := d.text(value)
		if err != nil {
			return err
		}
		if row.At, err = time.Parse(time.RFC3339, text); err != nil || row.At.Unix() < 1 {
			return fmt.Errorf("takes a time of RFC 3339 after 1970, such as 2026-01-02T15:04:05Z")
		}
	case "last_ip":
		addr, err := d.address(value)
		row.Address = addr
		return err
	case "last_region":
		text, err := d.text(value)
		if err == nil {
			row.Region, err = access.ParseRegion(text)
		}
		return err
	case "last_network":
		text, err := d.text(value)
		if err != nil {
			return err
		}
		number, found := strings.CutPrefix(text, "AS")
		n, err := strconv.ParseUint(number, 10, 32)
		if !found || err != nil || n == 0 {
			return fmt.Errorf("takes the number of an autonomous system, such as AS64496")
		}
		row.Network = uint32(n)
	case "refusals":
		return d.refusals(row, value)
	case "scopes":
		return d.scopeList(row, value)
	default:
		return fmt.Errorf("is not a field of a row, which has token_id, uses, last_used_at, last_ip, last_region, " +
			"last_network, refusals, scopes")
	}
	return nil
}

func (d *decoder) unknown(row *AddressUse, field string, value any) error {
	switch field {
	case "ip":
		addr, err := d.address(value)
		row.Address = addr
		return err
	case "refusals":
		n, err := d.count(value)
		row.Refusals = n
		return err
	}
	return fmt.Errorf("is not a field of a row, which has ip, refusals")
}

func (d *decoder) refusals(row *TokenUse, value any) error {
	counts, is := value.(map[string]any)
	if !is {
		return fmt.Errorf("takes an object of reasons and numbers")
	}
	row.Refusals = make([]Refusals, 0, len(counts))
	for name, value := range counts {
		if reasonNumber(access.Reason(name)) < 0 {
			return fmt.Errorf("%q is not a reason to refuse a known token, which are %s", refusal.Clip(name), allReasons)
		}
		n, err := d.count(value)
		if err != nil {
			return fmt.Errorf("%s %w", name, err)
		}
		row.Refusals = append(row.Refusals, Refusals{Reason: access.Reason(name), Count: uint32(n)}) //nolint:gosec // at most maxCount
	}
	return nil
}

// allReasons lists the reasons for an error.
var allReasons = func() string {
	names := make([]string, len(reasons))
	for i, r := range reasons {
		names[i] = string(r)
	}
	return strings.Join(names, ", ")
}()

func (d *decoder) scopeList(row *TokenUse, value any) error {
	list, is := value.([]any)
	if texts, are := value.([]string); are {
		for _, text := range texts {
			list = append(list, text)
		}
		is = true
	}
	if !is || len(list) > maxRowScopes {
		return fmt.Errorf("takes a list of at most %d scopes", maxRowScopes)
	}
	row.Scopes = make([]string, len(list))
	for i := range list {
		scope, err := d.text(list[i])
		if err != nil {
			return fmt.Errorf("[%d] %w", i, err)
		}
		if !d.scopes[scope] {
			if _, err := access.ParseScopes([]string{scope}); err != nil {
				return err
			}
			d.scopes[scope] = true
		}
		row.Scopes[i] = scope
	}
	return nil
}

func (d *decoder) text(value any) (string, error) {
	text, is := value.(string)
	if !is {
		return "", fmt.Errorf("takes a string")
	}
	d.left -= len(text)
	return text, nil
}

func (d *decoder) address(value any) (netip.Addr, error) {
	text, err := d.text(value)
	if err != nil {
		return netip.Addr{}, err
	}
	addr, err := access.ParseClientIP(text)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("takes an IP address") // without the value, which may be a token by mistake
	}
	return addr, nil
}

// count decodes a number of uses or refusals.
func (d *decoder) count(value any) (uint64, error) {
	d.left -= 8
	var n float64
	var err error
	switch v := value.(type) {
	case json.Number:
		if short, err := strconv.Atoi(string(v)); err == nil {
			n = float64(short)
			break
		}
		n, err = v.Float64()
	case float64:
		n = v
	case int:
		n = float64(v)
	case int64:
		n = float64(v)
	default:
		n = -1
	}
	if err != nil || n < 0 || n > maxCount || n != math.Trunc(n) {
		return 0, fmt.Errorf("takes a whole number from 0 to %d", maxCount)
	}
	return uint64(n), nil
}

package connector

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
)

// answer is what came back, decoded.
type answer struct {
	status  int
	headers map[string]string // names in lower case -> the first value
	body    any               // JSON, or the text
	after   time.Duration     // Retry-After
}

// decodeBody reads JSON where the answer says so or looks like it; anything else is text.
func decodeBody(text []byte, mediaType string) (any, error) {
	trimmed := bytes.TrimSpace(text)
	if len(trimmed) == 0 {
		return nil, nil
	}
	if !strings.Contains(mediaType, "json") && trimmed[0] != '{' && trimmed[0] != '[' {
		return string(text), nil
	}
	depth, values := 0, 1
	for _, c := range trimmed { // what is in strings counts too: bounds need not be exact
		switch c {
		case ',':
			if values++; values > maxValues {
				return nil, fmt.Errorf("the answer has more than %d values", maxValues)
			}
		case '{', '[':
			if depth++; depth > maxDepth {
				return nil, fmt.Errorf("the answer is nested deeper than %d", maxDepth)
			}
		case '}', ']':
			depth--
		}
	}
	decoder := json.NewDecoder(bytes.NewReader(trimmed))
	decoder.UseNumber()
	var body any
	if err := decoder.Decode(&body); err != nil {
		return nil, errors.New("the answer is not JSON")
	}
	if decoder.InputOffset() != int64(len(trimmed)) {
		return nil, errors.New("the answer is more than one JSON value")
	}
	return numbers(body), nil
}

// exact is from where a float64 no longer tells whole numbers apart.
const exact = 1 << 53

// numbers makes whole numbers int64, so that ids stay what they are. A number that neither an int64 nor a
// float64 holds exactly stays the text that the upstream wrote.
func numbers(value any) any {
	switch v := value.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, err := v.Float64()
		if err != nil || math.Abs(f) >= exact {
			return v.String()
		}
		return f
	case map[string]any:
		for key, one := range v {
			v[key] = numbers(one)
		}
	case []any:
		for i, one := range v {
			v[i] = numbers(one)
		}
	}
	return value
}

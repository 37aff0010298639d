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

// answer is a decoded HTTP response.
type answer struct {
	status  int
	headers map[string]string // names in lower case -> the first value
	body    any               // decoded JSON, or a string
	after   time.Duration     // Retry-After
}

// decodeBody decodes JSON if the media type is JSON or the body looks like JSON. Any other body is a string.
func decodeBody(text []byte, mediaType string) (any, error) {
	trimmed := bytes.TrimSpace(text)
	if len(trimmed) == 0 {
		return nil, nil
	}
	if !strings.Contains(mediaType, "json") && trimmed[0] != '{' && trimmed[0] != '[' {
		return string(text), nil
	}
	depth, values := 0, 1
	for _, c := range trimmed { // also counts characters in strings: the bounds need not be exact
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

// exact is the number from which a float64 cannot represent each whole number.
const exact = 1 << 53

// numbers turns whole numbers into int64, so that IDs do not change. A number that neither an int64 nor a float64 can
// represent exactly becomes a string.
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

package connector

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"time"
)

// Limits of the stored parts of an answer in bytes. One storage entry, or one lease, contains all of them.
const (
	maxToken = 32 << 10
	maxID    = 1 << 10
	maxShown = 64 << 10 // data, granted and record, each as JSON
)

// readCreated returns the result of a create. Its errors name the member.
func readCreated(result, vars map[string]any) (*Created, error) {
	c := new(Created)
	c.ID, _ = result["id"].(string)
	c.Text, _ = result["token"].(string)
	if c.ID == "" || c.Text == "" {
		return nil, errors.New("the answer has no token or no id")
	}
	if len(c.ID) > maxID {
		return nil, fmt.Errorf("id: is %d bytes long, at most %d are allowed", len(c.ID), maxID)
	}
	if len(c.Text) > maxToken {
		return nil, fmt.Errorf("token: is %d bytes long, at most %d are allowed", len(c.Text), maxToken)
	}
	for _, member := range []string{"data", "record", "granted"} {
		if err := bounded(member, result[member], maxShown); err != nil {
			return nil, err
		}
	}
	var err error
	if c.ExpiresAt, err = readEnd(result); err != nil {
		return nil, err
	}
	c.Data, _ = result["data"].(map[string]any)
	if granted, ok := result["granted"].(map[string]any); ok {
		c.Granted = make(map[string]any)
		for name, got := range granted {
			if asked := vars["params."+name]; !same(asked, got) {
				c.Granted[name] = got
			}
		}
	}
	if record, ok := result["record"].(map[string]any); ok {
		c.Record = make(map[string]string, len(record))
		for key, value := range record {
			c.Record[key] = fmt.Sprint(value)
		}
	}
	return c, nil
}

func readEnd(result map[string]any) (time.Time, error) {
	end, err := toTime(result["expires_at"])
	if err != nil {
		return time.Time{}, fmt.Errorf("expires_at: %w", err)
	}
	return end, nil
}

// bounded rejects a value whose JSON is longer than most bytes.
func bounded(member string, value any, most int) error {
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("%s: %w", member, err)
	}
	if len(text) > most {
		return fmt.Errorf("%s: is %d bytes long as JSON, at most %d are allowed", member, len(text), most)
	}
	return nil
}

// ahead rejects an end in the past: the token has expired, or a clock is wrong.
func ahead(end, now time.Time) error {
	if !end.IsZero() && !end.After(now) {
		return fmt.Errorf("expires_at: %s is in the past: are the clocks right?", end.UTC().Format(time.RFC3339))
	}
	return nil
}

// toTime returns the end of a token from an answer, or the zero time if the answer has none.
func toTime(value any) (time.Time, error) {
	switch v := value.(type) {
	case nil:
		return time.Time{}, nil
	case time.Time:
		return inReach(v)
	case int64:
		if v == 0 {
			return time.Time{}, nil
		}
		return inReach(time.Unix(v, 0))
	case float64:
		if v != math.Trunc(v) || math.Abs(v) >= exact {
			return time.Time{}, fmt.Errorf("%v is not a number of seconds", v)
		}
		return toTime(int64(v))
	case string:
		if v == "" {
			return time.Time{}, nil
		}
		for _, layout := range []string{time.RFC3339, time.DateOnly, "2006-01-02 15:04:05 MST", "2006-01-02T15:04:05Z0700"} {
			if t, err := time.Parse(layout, v); err == nil {
				return inReach(t)
			}
		}
		return time.Time{}, fmt.Errorf("%q is not a time", clip(v))
	}
	return time.Time{}, fmt.Errorf("a %T is not a time", value)
}

// inReach rejects times that JSON cannot represent.
func inReach(t time.Time) (time.Time, error) {
	if year := t.UTC().Year(); year < 1 || year > 9999 {
		return time.Time{}, fmt.Errorf("the year %d is not one of 1 to 9999: is the end in seconds?", year)
	}
	return t, nil
}

// same reports whether the granted value equals the requested value. The order of a list does not matter.
func same(asked, got any) bool {
	list := func(value any) ([]string, bool) {
		switch v := value.(type) {
		case []string:
			sorted := slices.Clone(v)
			slices.Sort(sorted)
			return sorted, true
		case []any:
			texts := make([]string, 0, len(v))
			for _, one := range v {
				texts = append(texts, fmt.Sprint(one))
			}
			slices.Sort(texts)
			return texts, true
		}
		return nil, false
	}
	a, isList := list(asked)
	if b, both := list(got); isList && both {
		return slices.Equal(a, b)
	}
	return reflect.DeepEqual(asked, got)
}

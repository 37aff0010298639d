package backend

import (
	"math"
	"slices"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// pageFields are the fields of a path that lists in pages.
func pageFields(key string) map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"after": {
			Type:        framework.TypeString,
			Description: "List only what comes after this " + key + ": the last of the page before.",
			Query:       true,
		},
		"limit": {
			Type:        framework.TypeInt,
			Description: "List at most so many.",
			Query:       true,
		},
	}
}

// pageOf reads the fields of pageFields; without limit there is no limit.
func pageOf(d *framework.FieldData) (after string, limit int, refusal *logical.Response) {
	after = d.Get("after").(string)
	limit = math.MaxInt
	if v, given := d.GetOk("limit"); given {
		if limit = v.(int); limit < 1 {
			return "", 0, fieldError("limit", "must be at least 1")
		}
	}
	return after, limit, nil
}

// page gives those of the sorted names that are asked for.
func page(names []string, after string, limit int) []string {
	i, found := slices.BinarySearch(names, after)
	if found {
		i++
	}
	names = names[i:]
	return names[:min(limit, len(names))]
}

func listResponseFields(key string) map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"keys": {Type: framework.TypeStringSlice, Description: "Each a " + key + "; absent where there is none."},
	}
}

package backend

import (
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/review"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/schema"
)

// The constructors of package schema in the form of functions, for tables in path files.
//
//nolint:unused // a path file uses what its table needs
var (
	str, strs, commas, secs    = schema.Str, schema.Strs, schema.Commas, schema.Secs
	num, num64, float, flag    = schema.Num, schema.Num64, schema.Float, schema.Flag
	object, pairs, slice, date = schema.Object, schema.Pairs, schema.Slice, schema.Date
	must, query, secret        = (*schema.Field).Must, (*schema.Field).Query, (*schema.Field).Secret
	preset, oneOf              = (*schema.Field).Preset, (*schema.Field).OneOf
	pageFields, listAnswer     = schema.Page, schema.List
	readFields, joined         = schema.Read, schema.Joined
	ownerField, reviewByField  = review.Fields["owner"], review.Fields["review_by"]
)

//nolint:unused // as above
func titled(title string, f *schema.Field) *schema.Field { return f.Titled(title) }

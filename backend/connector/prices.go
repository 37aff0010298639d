package connector

import (
	"regexp/syntax"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// steps are functions that make no value and accept errors as arguments. They are free.
var steps = map[string]bool{"@not_strictly_false": true, "__not_strictly_false__": true}

// prices maps functions to the price of a call: an upper bound of the bytes that the call makes or reads. A function that
// is not listed cannot be called. A new release of CEL may add functions that make large values of small arguments.
var prices = map[string]func(args []ref.Val) int64{
	"!_": texts(0), "-_": texts(0), "_-_": texts(0), "_*_": texts(0), "_/_": texts(0), "_%_": texts(0),
	"_<_": texts(1), "_<=_": texts(1), "_>_": texts(1), "_>=_": texts(1),
	"_==_": equal, "_!=_": equal, "@in": within, "_+_": plus, "cel.@mapInsert": insert,

	"size": texts(1), "type": texts(0), "dyn": texts(0), "bool": texts(1), "int": texts(1), "uint": texts(1), "double": texts(1),
	"duration": texts(1), "timestamp": texts(1), "string": texts(2), "bytes": texts(2),
	"contains": texts(1), "startsWith": texts(1), "endsWith": texts(1), "matches": matches,
	"getDate": zone, "getDayOfMonth": zone, "getDayOfWeek": zone, "getDayOfYear": zone, "getFullYear": zone,
	"getHours": zone, "getMilliseconds": zone, "getMinutes": zone, "getMonth": zone, "getSeconds": zone,

	"optional.of": texts(0), "optional.ofNonZeroValue": texts(0), "optional.none": texts(0),
	"hasValue": texts(0), "value": texts(0), "optional.unwrap": lists(1), "unwrapOpt": lists(1), "first": texts(0), "last": texts(0),

	"charAt": texts(5), "indexOf": indexOf, "lastIndexOf": indexOf, "lowerAscii": texts(6), "upperAscii": texts(6), "trim": texts(1),
	"substring": texts(6), "strings.quote": texts(6), "replace": replace, "split": split, "join": join,
	"reverse": func(args []ref.Val) int64 { return texts(6)(args) + lists(1)(args) },

	"base64.encode": texts(3), "base64.decode": texts(3),

	"distinct": func(args []ref.Val) int64 { return times(count(args[0]), weigh(args[0], maxMemory)) },
	"flatten":  lists(2), "slice": lists(1), "sort": lists(16), "@sortByAssociatedKeys": lists(16),
	"lists.range": func(args []ref.Val) int64 { n, _ := args[0].(types.Int); return times(max(0, int64(n)), 40) },

	"basic_auth": texts(4), "form_encode": texts(4), "date": texts(0), "unix": texts(0),
	"sign_jwt": func(args []ref.Val) int64 { return 256<<10 + 8*weigh(args[2], maxMemory) }, // a signature takes a millisecond
}

// length returns the length of a string or of bytes, and 0 for other values.
func length(value ref.Val) int64 {
	switch v := value.(type) {
	case types.String:
		return int64(len(v))
	case types.Bytes:
		return int64(len(v))
	}
	return 0
}

// count returns the number of members of a list.
func count(value ref.Val) int64 {
	if list, ok := value.(traits.Lister); ok {
		return entries(list)
	}
	return 0
}

// texts returns the price of functions that make a multiple of their strings.
func texts(multiple int64) func([]ref.Val) int64 {
	return func(args []ref.Val) (total int64) {
		for _, arg := range args {
			total += multiple * length(arg)
		}
		return total
	}
}

// lists returns the price of functions that walk through lists.
func lists(multiple int64) func([]ref.Val) int64 {
	return func(args []ref.Val) (total int64) {
		for _, arg := range args {
			if _, ok := arg.(traits.Lister); ok {
				total += times(multiple, weigh(arg, maxMemory))
			}
		}
		return total
	}
}

func equal(args []ref.Val) int64 { return weigh(args[1], weigh(args[0], maxMemory)) }

// within returns the price of finding a value in a list or a map.
func within(args []ref.Val) int64 {
	if _, ok := args[1].(traits.Lister); ok {
		return weigh(args[1], maxMemory)
	}
	return weigh(args[0], maxMemory)
}

// plus returns the price of joining strings, bytes or lists. A macro appends to its list in place, and each member was
// paid when it was made.
func plus(args []ref.Val) int64 {
	if _, filling := args[0].(traits.MutableLister); filling {
		return 16
	}
	if _, ok := args[0].(traits.Lister); ok {
		return lists(2)(args) // walking through a list of joined lists is slow
	}
	return texts(1)(args)
}

// insert returns the price of adding a member to a map in a macro.
func insert(args []ref.Val) (total int64) {
	for _, arg := range args[1:] {
		total += 16 + weigh(arg, maxMemory)
	}
	return total
}

// matches returns the price of a regular expression. Each call compiles the pattern, and takes time in proportion to the
// lengths of the pattern and the text (RE2).
func matches(args []ref.Val) int64 {
	pattern, _ := args[1].(types.String)
	size, err := regexSize(string(pattern))
	switch {
	case err != nil:
		return 0 // the call fails
	case size > maxRegex:
		return maxMemory + 1
	}
	return times(length(args[0]), size) + 64*size
}

// regexSize estimates how many instructions a regular expression has, without compiling it. A repeated part counts as often
// as it may repeat. A pattern that is too long is not parsed.
func regexSize(pattern string) (int64, error) {
	if len(pattern) > maxExpression {
		return int64(len(pattern)), nil
	}
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return 0, err
	}
	return regexWeight(re), nil
}

func regexWeight(re *syntax.Regexp) int64 {
	size := int64(1)
	for _, sub := range re.Sub {
		size += regexWeight(sub)
	}
	if re.Op == syntax.OpLiteral {
		size += int64(len(re.Rune))
	}
	if re.Op == syntax.OpRepeat {
		size = times(size, int64(max(re.Min, re.Max, 1)))
	}
	return size
}

// zone returns the price of loading a time zone if the call names one.
func zone(args []ref.Val) int64 { return 4096 * int64(len(args)-1) }

// indexOf returns the price of comparing at each position.
func indexOf(args []ref.Val) int64 {
	return texts(5)(args) + times(length(args[0]), length(args[1])/4)
}

func replace(args []ref.Val) int64 {
	text, old, with := string(args[0].(types.String)), string(args[1].(types.String)), length(args[2])
	n := int64(strings.Count(text, old)) // for "": the number of runes and one
	if len(args) > 3 {
		if most, ok := args[3].(types.Int); ok && most >= 0 {
			n = min(n, int64(most))
		}
	}
	return 2*int64(len(text)) + times(n, with)
}

func split(args []ref.Val) int64 {
	text, separator := string(args[0].(types.String)), string(args[1].(types.String))
	n := int64(strings.Count(text, separator)) + 1
	if separator == "" {
		n = int64(utf8.RuneCountInString(text))
	}
	if len(args) > 2 {
		if most, ok := args[2].(types.Int); ok && most >= 0 {
			n = min(n, int64(most))
		}
	}
	return int64(len(text)) + times(n, 48)
}

func join(args []ref.Val) int64 {
	total := 2 * weigh(args[0], maxMemory)
	if len(args) > 1 {
		total += 2 * times(count(args[0]), length(args[1]))
	}
	return total
}

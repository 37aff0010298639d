package connector

import (
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/decls"
)

// evaluating gives an evaluation of an expression, which must compile, with the answer at hand.
func evaluating(t testing.TB, expression string, body any) func() error {
	t.Helper()
	text := strings.Replace(small, `data: '{"who": response.body.name}'`, "data: >\n        {\"x\": "+expression+"}\n", 1)
	text = strings.Replace(text, "    result: {data: >", "    result:\n      data: >", 1)
	text = strings.TrimSuffix(text, "}\n")
	p, err := Compile([]byte(text))
	if err != nil {
		t.Errorf("%.100s: %v", expression, err)
		return nil
	}
	vars := map[string]any{"response.body": body, "response.status": int64(200), "now": time.Now(), "connection": strings.Repeat("\\pL{1000}", 500)}
	program := p.operations[opCheck].result["data"]
	return func() error {
		_, err := program.eval(t.Context(), vars)
		return err
	}
}

// An expression is told how much it may make before it makes it: memory and time stay bounded.
func TestMemoryIsBounded(t *testing.T) {
	const memory = 16 << 20
	if raceDetector {
		t.Skip("the race detector allocates memory of its own, which counts here")
	}
	big := strings.Repeat("a", 1<<20)
	ten := "[0,1,2,3,4,5,6,7,8,9]"
	double := func(step string, times int) string { return strings.Repeat(step, times) }
	for _, expression := range []string{
		`["0123456789abcdef"]` + double(".map(a,a+a+a+a)", 14),
		`["0123456789"]` + double(`.map(a,a.replace("",a))`, 9),
		`["0123456789"]` + double(`.map(a,a.replace("0",a+a))`, 10),
		`[[""]]` + double(".map(a,a+a+a+a)", 14),
		`[[""]]` + double(".map(a,[a,a,a,a,a,a,a,a])", 9),
		`[[1]]` + double(".map(a,[a,a,a,a,a,a,a,a])", 9) + `.map(a,a==a)`,
		`[[1]]` + double(".map(a,[a,a,a,a,a,a,a,a])", 7) + `.flatten(9).map(a, 1)`,
		`[{"a":1}]` + double(`.map(a,{"a":a,"b":a,"c":a,"d":a})`, 8),
		`[1].map(a,[optional.of(a)])` + double(".map(a,[optional.of(a),optional.of(a)])", 7) + ".map(a, a == a)",
		`lists.range(1000000000)`,
		`lists.range(9223372036854775807)`,
		`lists.range(200000).map(i, lists.range(200000))`,
		`lists.range(100000).distinct()`,
		`lists.range(3000).map(i, string(i)).join(response.body)`,
		`lists.range(1000).map(i, response.body.charAt(i))`,
		`lists.range(1000).map(i, response.body.lowerAscii().size())`,
		`lists.range(1000).exists(i, response.body.contains("b"))`,
		`lists.range(1000).all(i, response.body == response.body)`,
		`lists.range(1000).all(i, response.body.matches("(a?){100}b"))`,
		`response.body.matches("(a*)*b" + "(a?){50}")`,
		`response.body.indexOf(response.body.substring(1, 500000) + "b")`,
		`response.body.matches("a{1000}b{1000}c{1000}" + connection)`,
		`"a".matches(connection)`,
		`"a".matches(response.body)`,
		`response.body.split("")`,
		`response.body.split("a").map(a, 1)`,
		`response.body.replace("a", response.body)`,
		`response.body.replace("", "0123456789")`,
		`strings.quote(strings.quote(strings.quote(response.body)))`,
		`form_encode(form_encode(form_encode(response.body)))`,
		`base64.encode(bytes(base64.encode(bytes(base64.encode(bytes(response.body))))))`,
		`lists.range(500).map(i, response.body.reverse()).sort()`,
		`lists.range(2000).map(i, lists.range(2000)).map(l, l in [[1]])`,
		ten + ".map(a," + ten + ".map(b," + ten + ".map(c," + ten + ".map(d," + ten + ".map(e," + ten + ".map(f," + ten + ".map(g, now)))))))",
		`lists.range(100000).transformMap(i, v, string(v) + "0123456789012345678901234567890123456789")`,
		`lists.range(30000).transformMap(i, v, string(v))`,
		`lists.range(1000).all(i, size(dyn([{"a": connection}])) == 1)`,
		`lists.range(1000).exists_one(a, lists.range(1000).exists_one(b, lists.range(1000).exists_one(c, false)))`,
		`lists.range(10000).map(i, now.getHours("Europe/Berlin"))`,
		`lists.range(2000).sortBy(i, string(i) + string(now))`,
		// An error does not end what goes on in spite of it.
		`lists.range(1000).exists(i, response.body.replace("", response.body) == "x")`,
	} {
		if len(expression) > 320 {
			t.Errorf("%d bytes long: %s", len(expression), expression)
		}
		eval := evaluating(t, expression, big)
		if eval == nil {
			continue
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		err := eval()
		took := time.Since(start)
		runtime.ReadMemStats(&after)
		made := after.TotalAlloc - before.TotalAlloc
		if testing.Verbose() {
			t.Logf("%6.1f MB %8s %.70s: %.80v", float64(made)/1e6, took.Round(100*time.Microsecond), expression, err)
		}
		if made > memory {
			t.Errorf("%s made %.1f MB", expression, float64(made)/1e6)
		}
	}
}

// What definitions are made of works as ever, on a long list in one answer.
func TestLongListing(t *testing.T) {
	var items []any
	for i := range 10_000 {
		items = append(items, map[string]any{"id": int64(i), "name": fmt.Sprintf("vault-apitoken-a-role-of-some-length-%012d", i), "scopes": []any{"a", "b"}})
	}
	for _, expression := range []string{
		`response.body.map(t, {"id": string(t.id), "name": t.name})`,
		`response.body.filter(r, r.name.endsWith("7")).map(r, {"id": string(r.id), "name": "x"})`,
		`response.body.map(t, {"id": string(t.id), "name": t[?"description"].orValue("")})`,
		`size(response.body) < 50 ? "" : string(1 + 1)`,
		`response.body`,
	} {
		if err := evaluating(t, expression, items)(); err != nil {
			t.Errorf("%s: %v", expression, err)
		}
	}
}

// Every function has a price, or cannot be called.
func TestFunctionsHavePrices(t *testing.T) {
	all, err := bindings()
	if err != nil {
		t.Fatal(err)
	}
	for name := range prices {
		if all[name] == nil {
			t.Errorf("%s has a price and is no function", name)
		}
	}
	for _, expression := range []string{`"%s".format([1])`, `json.parse("[]")`, `yaml.parse("[]")`, `json.encode(1)`, `google.protobuf.Struct{}`} {
		text := strings.Replace(small, "response.body.name}'", strings.ReplaceAll(expression, "'", "''")+"}'", 1)
		if _, err := Compile([]byte(text)); err == nil {
			t.Errorf("%s was compiled", expression)
		}
	}
}

// A program is evaluated by many at once.
func TestMeterIsOfOneEvaluation(t *testing.T) {
	eval := evaluating(t, `lists.range(40000).map(i, i)`, nil)
	errs := make(chan error)
	for range 20 {
		go func() { errs <- eval() }()
	}
	var all []error
	for range 20 {
		all = append(all, <-errs)
	}
	if i := slices.IndexFunc(all, func(err error) bool { return err != nil }); i >= 0 {
		t.Error(all[i])
	}
}

// No definition takes long to compile.
func TestCompileIsQuick(t *testing.T) {
	deep := strings.Repeat("[1].map(a,", 60) + "a" + strings.Repeat(")", 60)
	for name, expression := range map[string]string{
		"macros in macros": deep,
		"optMap":           "optional.of(1)" + strings.Repeat(".optMap(x, x)", 400),
		"optFlatMap":       "optional.of(1)" + strings.Repeat(".optFlatMap(x, optional.of(x))", 200),
		"sortBy":           "[1]" + strings.Repeat(".sortBy(x, x)", 400),
		"transformMap":     "{1: 1}" + strings.Repeat(".transformMap(k, v, v)", 200),
		"types":            strings.Repeat("[", 50) + "1" + strings.Repeat("]", 50),
		"maps":             "[{}]" + strings.Repeat(".map(a, {\"a\": a, \"b\": [a]})", 200),
		"wide":             "[" + strings.Repeat("1,", 3000) + "1]",
		"plus":             "1" + strings.Repeat("+1", 3000),
		"conditions":       strings.Repeat("true?1:", 1000) + "1",
		"repetitions":      `"a".matches("` + strings.Repeat("a{1000}", 200) + `")`,
		"regex":            `"a".matches("` + strings.Repeat("(a{1,9}){1,9}", 60) + `")`,
	} {
		text := strings.Replace(small, "response.body.token", "'string("+expression+")'", 1)
		start := time.Now()
		_, err := Compile([]byte(text))
		if testing.Verbose() {
			t.Logf("%s: %s, %.100v", name, time.Since(start).Round(time.Millisecond), err)
		}
	}
	fields := map[string]Field{"f": {Type: TypeString, Pattern: strings.Repeat("a{1000}", 200)}}
	if _, err := Values(fields, map[string]any{"f": "a"}); err == nil || !strings.Contains(err.Error(), "pattern: is of size") {
		t.Errorf("%v", err)
	}
	// Aliases of YAML repeat what is written once.
	one := "{method: POST, path: /a, json: &big '[" + strings.Repeat("1,", 3900) + "1]'}"
	for _, repeated := range []string{
		"- &r " + one + strings.Repeat("\n      - *r", 4000),
		"- &r " + one + strings.Repeat("\n      - *r", 14),
		"- {method: GET, path: /a, headers: {" + strings.Join(headers(3000), ", ") + "}}",
	} {
		text := strings.Replace(small, "    requests:\n      - method: GET\n        path: /api/self", "    requests:\n      "+repeated+"\n      - method: GET\n        path: /api/self", 1)
		start := time.Now()
		_, err := Compile([]byte(text))
		if testing.Verbose() {
			t.Logf("%.60s: %s, %v", repeated, time.Since(start).Round(time.Millisecond), err)
		}
	}
}

func headers(n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprintf("x%d: now", i))
	}
	return all
}

// What is sent is bounded, before it is encoded.
func TestRequestsAreBounded(t *testing.T) {
	for part, most := range map[string]int{"json: record.big": maxBody, "form: {a: record.big}": maxBody, "query: {a: record.big}": maxHead, "headers: {a: record.big}": maxHead} {
		p, err := Compile([]byte(strings.Replace(small, "      - method: DELETE\n        path: /api/{settings.tenant}/tokens/{id}\n        headers: {authorization: '\"Bearer \" + credential.key'}", "      - method: DELETE\n        path: /a\n        "+part, 1)))
		if err != nil {
			t.Fatal(err)
		}
		u := serve(t, ClientConfig{}, func(http.ResponseWriter, *http.Request) {})
		u.Provider = p
		for size, ok := range map[int]bool{most - 100: true, most: false} {
			err := u.Revoke(t.Context(), &Token{Record: map[string]string{"big": strings.Repeat("x", size)}})
			if (err == nil) != ok || !ok && !strings.Contains(err.Error(), fmt.Sprintf("is longer than %d bytes", most)) {
				t.Errorf("%s, %d bytes: %v", part, size, err)
			}
		}
	}
}

// A call that is paid does what CEL's does, errors included.
func TestMeteredCallsAreCELs(t *testing.T) {
	env, err := cel.NewEnv(append(language, cel.Variable("d", cel.DynType), cel.Variable("now", cel.TimestampType))...)
	if err != nil {
		t.Fatal(err)
	}
	called := make(map[string]bool)
	for _, expression := range []string{
		`!true`, `!d.b`, `-d.i`, `-(-9223372036854775807 - 1)`, `now - duration("1s")`, `d.i * 3 - 1`, `7 / 0`, `7 / 2`, `7 % 0`, `7 % 4`,
		`d.i < 3`, `"a" <= d.s`, `d.i > d.s`, `1 >= 2`, `d == d`, `d != {}`, `dyn([1]) == dyn([1.0])`, `1 in d.l`, `"x" in d`, `"i" in d`, `d.i in [d.i]`,
		`d.s + "x"`, `b"a" + b"b"`, `d.l + [4]`, `d.s + 1`, `9223372036854775807 + 1`, `now + duration("1h")`,
		`d.l.transformMap(i, v, v + 1)`, `d.l.transformMapEntry(i, v, {string(v): i})`, `[1, 1].transformMapEntry(i, v, {v: i})`,
		`size(d)`, `size(d.l)`, `d.s.size()`, `size(1 == 1 ? d : [])`, `type(d.i)`, `dyn(1)`, `bool("true")`, `bool("x")`, `int("12")`, `int(d.s)`, `int(1e300)`, `uint(-1)`, `double("1.5")`,
		`duration("1h")`, `duration("x")`, `timestamp("2026-01-01T00:00:00Z")`, `timestamp("x")`, `string(d.i)`, `string(1.5)`, `string(b"\xff")`, `string(now)`, `bytes("a")`,
		`d.s.contains("b")`, `d.s.startsWith("a")`, `d.s.endsWith("c")`, `d.s.matches("^a.c$")`, `matches(d.s, "b")`, `d.s.matches("(")`, `d.i.matches("a")`,
		`now.getDate()`, `now.getDayOfMonth("+01:00")`, `now.getDayOfWeek()`, `now.getDayOfYear()`, `now.getFullYear()`, `now.getHours("Mars")`, `duration("1h").getHours()`,
		`now.getMilliseconds()`, `now.getMinutes()`, `now.getMonth()`, `now.getSeconds()`,
		`optional.of(1)`, `optional.ofNonZeroValue("")`, `optional.none()`, `optional.of(1).hasValue()`, `optional.of(1).value()`, `optional.none().value()`,
		`optional.of(1).or(optional.of(2))`, `optional.none().orValue(3)`, `d[?"x"].orValue(1)`, `d.?l[?0]`, `optional.of(1).optMap(x, x + 1)`, `optional.of(1).optFlatMap(x, optional.of(x))`,
		`optional.unwrap([optional.of(1), optional.none()])`, `[optional.of(1)].unwrapOpt()`, `d.l.first()`, `d.l.last()`, `[].first()`,
		`d.s.charAt(1)`, `d.s.charAt(9)`, `d.s.indexOf("c")`, `d.s.indexOf("c", 1)`, `d.s.lastIndexOf("a")`, `d.s.lastIndexOf("a", 2)`, `"AÄ".lowerAscii()`, `d.s.upperAscii()`, `" a ".trim()`,
		`d.s.substring(1)`, `d.s.substring(1, 2)`, `d.s.substring(2, 1)`, `strings.quote("a\"\n")`, `d.s.replace("b", "xx")`, `d.s.replace("", "-")`, `"aaa".replace("a", "b", 2)`, `"aaa".replace("a", "b", -1)`,
		`"a,b".split(",")`, `"a,b,c".split(",", 2)`, `"abc".split("")`, `"abc".split("", 0)`, `["a", "b"].join()`, `["a", "b"].join("-")`, `dyn([1]).join()`, `d.s.reverse()`, `d.l.reverse()`,
		`base64.encode(b"abc")`, `base64.decode("YWJj")`, `base64.decode("?")`, `[1, 1, 2].distinct()`, `[[1], [2, [3]]].flatten()`, `[[1], [2, [3]]].flatten(2)`, `[[1]].flatten(-1)`,
		`d.l.slice(0, 1)`, `d.l.slice(2, 1)`, `[3, 1, 2].sort()`, `dyn([{}]).sort()`, `dyn([1, "a"]).sort()`, `["b", "a"].sortBy(x, x)`, `lists.range(3)`, `lists.range(-1)`,
		`basic_auth("a", "b")`, `form_encode("a b")`, `date(now)`, `unix(now)`, `sign_jwt("none", "x", {"a": 1})`,
		`d.l.all(x, x > 0) && d.l.exists(x, x == 2) && d.l.exists_one(x, x == 3)`, `d.l.exists(x, x / 0 > 1 || true)`, `[1, 2].filter(x, x > 1).map(x, [x, x])`,
		`d.l.transformList(i, v, i * v)`, `{"a": {"b": [1, ?d.?x]}, ?"c": d.?i}`, `has(d.x) ? d.x : d.i`, `false && 1 / 0 == 1`, `d.l[5]`,
	} {
		ast, issues := env.Compile(expression)
		if issues.Err() != nil {
			t.Errorf("%s: %v", expression, issues.Err())
			continue
		}
		for _, ref := range ast.NativeRep().ReferenceMap() {
			for _, id := range ref.OverloadIDs {
				called[id] = true
			}
		}
		var results [2]string
		for i, options := range [][]cel.ProgramOption{nil, {cel.CustomDecoratorV2(metered)}} {
			program, err := env.Program(ast, append(options, cel.CostLimit(costLimit))...)
			if err != nil {
				t.Errorf("%s: %v", expression, err)
				continue
			}
			vars := map[string]any{"now": time.Unix(1_800_000_000, 0).UTC(), "d": map[string]any{"b": false, "i": int64(2), "s": "abc", "l": []any{int64(1), int64(2), int64(3)}}}
			value, details, err := program.ContextEval(t.Context(), &meter{vars: vars, left: maxMemory})
			if err == nil {
				value, err := native(value)
				results[i] = fmt.Sprintf("%v, %v", value, err)
			} else {
				results[i] = err.Error()
			}
			results[i] += fmt.Sprintf(", cost %d", *details.ActualCost())
		}
		if results[0] != results[1] {
			t.Errorf("%s: %s with prices, and without: %s", expression, results[1], results[0])
		}
	}
	all, err := bindings()
	if err != nil {
		t.Fatal(err)
	}
	for name := range prices {
		overloads := env.Functions()[name].OverloadDecls()
		if !slices.ContainsFunc(overloads, func(o *decls.OverloadDecl) bool { return called[o.ID()] }) {
			t.Errorf("%s is not called (%v)", name, all[name] != nil)
		}
	}
}

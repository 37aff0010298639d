package connector

import (
	"fmt"
	"math"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/functions"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"
)

// maxMemory bounds what an evaluation may make, in bytes and about as many steps. CEL's own limits look at a
// value once it is made. This one is asked before: a function has a price, which follows from its arguments
// alone (prices.go), and a list or map costs what it holds. What holds the same value often pays for it
// as often, so that whatever walks through a value that an expression made does no more work than was paid.
const maxMemory = 8 << 20

// meter is the activation of one evaluation, and what is left of its memory.
type meter struct {
	vars map[string]any
	left int64
}

// meterName is a variable that no expression can refer to.
const meterName = "@meter"

// ResolveName implements interpreter.Activation.
func (m *meter) ResolveName(name string) (any, bool) {
	if name == meterName {
		return m, true
	}
	value, found := m.vars[name]
	return value, found
}

// Parent implements interpreter.Activation.
func (m *meter) Parent() interpreter.Activation { return nil }

// pay takes a price. It cancels the evaluation where too little is left: an error would not, since CEL's
// operators go on after errors.
func pay(frame *interpreter.ExecutionFrame, price int64) {
	value, _ := frame.ResolveName(meterName)
	m, ok := value.(*meter)
	if !ok || price > m.left {
		panic(interpreter.EvalCancelledError{
			Cause:   interpreter.MemoryLimitExceeded,
			Message: fmt.Sprintf("the expression makes more than %d bytes", maxMemory),
		})
	}
	m.left -= price
}

// bindings are the implementations of the functions by overload and by name. No definition changes them.
var bindings = sync.OnceValues(func() (map[string]*functions.Overload, error) {
	env, err := cel.NewEnv(language...)
	if err != nil {
		return nil, err
	}
	all := make(map[string]*functions.Overload)
	for _, function := range env.Functions() {
		overloads, err := function.Bindings()
		if err != nil {
			return nil, err
		}
		for _, o := range overloads {
			all[o.Operator] = o
		}
	}
	return all, nil
})

// metered has every step that makes something paid. It refuses functions that have no price.
func metered(step interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
	switch s := step.(type) {
	case interpreter.InterpretableConst, interpreter.InterpretableAttribute:
		return step, nil
	case interpreter.InterpretableConstructor:
		if kind := s.Type(); kind != types.ListType && kind != types.MapType {
			return nil, fmt.Errorf("a %s cannot be made", kind.TypeName())
		}
		return &meteredConstructor{s}, nil
	case interpreter.InterpretableCall:
		name := s.Function()
		if steps[name] {
			return step, nil
		}
		if name == overloads.Matches && len(s.Args()) == 2 {
			if pattern, ok := s.Args()[1].(interpreter.InterpretableConst); ok {
				text, _ := pattern.Value().(types.String)
				if size, err := regexSize(string(text)); err == nil && size > maxRegex {
					return nil, fmt.Errorf("a regular expression is of size %d with its repetitions, at most %d is allowed", size, maxRegex)
				}
			}
		}
		price, known := prices[name]
		if !known {
			return nil, fmt.Errorf("the function %s is not available", name)
		}
		all, err := bindings()
		if err != nil {
			return nil, err
		}
		impl := all[s.OverloadID()]
		if impl == nil {
			impl = all[name]
		}
		return &meteredCall{InterpretableCall: s, args: s.Args(), price: price, impl: impl}, nil
	}
	return step, nil
}

type meteredConstructor struct {
	interpreter.InterpretableConstructor
}

// Exec implements interpreter.InterpretableV2.
func (c *meteredConstructor) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	made := c.InterpretableConstructor.Exec(frame)
	pay(frame, weigh(made, maxMemory))
	return made
}

// Eval implements interpreter.Interpretable.
func (c *meteredConstructor) Eval(vars interpreter.Activation) ref.Val {
	return interpreter.EvalActivation(vars, c.Exec)
}

// meteredCall is a call of a function that is paid between its arguments and itself.
type meteredCall struct {
	interpreter.InterpretableCall
	args  []interpreter.InterpretableV2
	price func([]ref.Val) int64
	impl  *functions.Overload // nil: the first argument knows
}

// Exec implements interpreter.InterpretableV2.
func (c *meteredCall) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	args := make([]ref.Val, len(c.args))
	for i, arg := range c.args {
		if args[i] = arg.Exec(frame); types.IsUnknownOrError(args[i]) {
			return args[i]
		}
	}
	price := int64(8)
	for _, arg := range args {
		price += guard(arg)
	}
	pay(frame, price)
	pay(frame, c.price(args))
	result := types.LabelErrNode(c.ID(), c.call(args))
	if costs := frame.CostTracker(); costs != nil {
		costs.EvalVarArgs(frame, c.ID(), c, args, result)
	}
	return result
}

// Eval implements interpreter.Interpretable.
func (c *meteredCall) Eval(vars interpreter.Activation) ref.Val {
	return interpreter.EvalActivation(vars, c.Exec)
}

// call does as the interpreter does.
func (c *meteredCall) call(args []ref.Val) ref.Val {
	o := c.impl
	switch c.Function() { // which the interpreter has as steps of its own
	case operators.Equals:
		return types.Equal(args[0], args[1])
	case operators.NotEquals:
		return types.Bool(types.Equal(args[0], args[1]) != types.True)
	}
	if o != nil && (o.OperandTrait == 0 || len(args) > 0 && args[0].Type().HasTrait(o.OperandTrait)) {
		switch {
		case o.Unary != nil && len(args) == 1:
			return o.Unary(args[0])
		case o.Binary != nil && len(args) == 2:
			return o.Binary(args[0], args[1])
		case o.Function != nil:
			return o.Function(args...)
		}
	}
	if len(args) > 0 {
		if receiver, ok := args[0].(traits.Receiver); ok {
			return receiver.Receive(c.Function(), c.OverloadID(), args[1:])
		}
	}
	return types.NewErr("no such overload: %s", c.Function())
}

// guard is the price of CEL's look at the type of an argument: a list of the keys of the maps in it.
func guard(value ref.Val) int64 {
	switch v := value.(type) {
	case traits.Mapper:
		return 16 * entries(v)
	case traits.Lister:
		if entries(v) > 0 {
			return guard(v.Get(types.IntZero))
		}
	}
	return 0
}

func entries(value traits.Sizer) int64 {
	n, _ := value.Size().(types.Int)
	return int64(n)
}

// weigh gives about how many bytes a value takes, what it shares with others included, or more than most.
func weigh(value ref.Val, most int64) int64 {
	const each = 16
	switch v := value.(type) {
	case types.String:
		return each + int64(len(v))
	case types.Bytes:
		return each + int64(len(v))
	case *types.Optional:
		if v.HasValue() {
			return each + weigh(v.GetValue(), most)
		}
	case traits.Mapper:
		total := int64(3 * each)
		if entries(v) > most/(3*each) {
			return most + 1 // without a list of the keys, which an iterator makes
		}
		for it := v.Iterator(); total <= most && it.HasNext() == types.True; {
			key := it.Next()
			total += each + weigh(key, most-total) + weigh(v.Get(key), most-total)
		}
		return total
	case traits.Lister:
		total := int64(2 * each)
		for it := v.Iterator(); total <= most && it.HasNext() == types.True; {
			total += each/2 + weigh(it.Next(), most-total)
		}
		return total
	}
	return each
}

// times multiplies prices, and stays at the highest where they are too high for an int64.
func times(a, b int64) int64 {
	if a > 0 && b > math.MaxInt64/2/a {
		return math.MaxInt64 / 2
	}
	return a * b
}

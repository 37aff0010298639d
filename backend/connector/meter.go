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

// maxMemory bounds the memory of an evaluation in bytes, and so its steps. CEL's own limits apply after a value is made.
// This limit applies before: each function has a price that follows from its arguments (prices.go), and a list or map
// costs as much as its members. A member that occurs several times is paid several times, so that walking through a value
// never does more work than was paid.
const maxMemory = 8 << 20

// meter is the activation of one evaluation, and counts its memory.
type meter struct {
	vars map[string]any
	left int64 // remaining bytes of maxMemory
}

// meterName is the variable of the meter. No expression can refer to this name.
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

// pay subtracts a price. It cancels the evaluation if too little is left. An error would not stop the evaluation, since
// CEL's operators continue after errors.
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

// metered makes every step pay that makes a value. It rejects functions without a price.
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

// meteredCall is a call of a function that pays after its arguments are evaluated and before the call.
type meteredCall struct {
	interpreter.InterpretableCall
	args  []interpreter.InterpretableV2
	price func([]ref.Val) int64
	impl  *functions.Overload // nil: a method of the first argument
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

// call calls the function in the same way as the interpreter.
func (c *meteredCall) call(args []ref.Val) ref.Val {
	o := c.impl
	switch c.Function() { // the interpreter has separate steps for these
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

// guard returns the price of CEL's type check of an argument, which makes a list of a map's keys.
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

// weigh returns the approximate size of a value in bytes. Shared members count each time. weigh may stop once the size
// exceeds most.
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
			return most + 1 // before the iterator makes a list of the keys
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

// times multiplies prices. The result does not overflow.
func times(a, b int64) int64 {
	if a > 0 && b > math.MaxInt64/2/a {
		return math.MaxInt64 / 2
	}
	return a * b
}

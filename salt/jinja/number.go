package jinja

import (
	"math"
	"math/big"
	"strconv"
	"strings"
)

// maxBits bounds integers. Python has no bound.
const maxBits = 1 << 16

// normal is the integer as an int64 where it fits.
func normal(n *big.Int) any {
	if n.IsInt64() {
		return n.Int64()
	}
	return n
}

// asBig returns an integer or bool.
func asBig(v any) (*big.Int, bool) {
	if n, ok := v.(*big.Int); ok {
		return n, true
	}
	n, ok := integer(v)
	if !ok {
		return nil, false
	}
	return big.NewInt(n), true
}

// arithmetic computes with two numbers as Python does; ok is false when one is
// not a number.
func arithmetic(op string, a, b any) (v any, ok bool, err error) {
	if i, ok := integer(a); ok {
		if j, ok := integer(b); ok {
			if v, ok := smallIntegers(op, i, j); ok {
				return v, true, nil
			}
		}
	}
	x, ok1 := asBig(a)
	y, ok2 := asBig(b)
	if ok1 && ok2 {
		v, err := integers(op, x, y)
		return v, true, err
	}
	f, ok1 := number(a)
	g, ok2 := number(b)
	if !ok1 || !ok2 {
		return nil, false, nil
	}
	v, err = floats(op, f, g)
	return v, true, err
}

// smallIntegers computes what stays in 64 bits.
func smallIntegers(op string, i, j int64) (any, bool) {
	switch op {
	case "+":
		s := i + j
		return s, (s > i) == (j > 0)
	case "-":
		s := i - j
		return s, (s < i) == (j > 0)
	case "*":
		if i == 0 || j == 0 {
			return int64(0), true
		}
		p := i * j
		return p, p/j == i && (i != math.MinInt64 || j != -1) && (j != math.MinInt64 || i != -1)
	case "//", "%":
		if j == 0 || i == math.MinInt64 && j == -1 {
			return nil, false
		}
		q, m := i/j, i%j
		if m != 0 && (m < 0) != (j < 0) {
			q, m = q-1, m+j
		}
		if op == "//" {
			return q, true
		}
		return m, true
	}
	return nil, false
}

var errZero = Fault("divides by zero", "")

func integers(op string, x, y *big.Int) (any, error) {
	out := new(big.Int)
	switch op {
	case "+":
		out.Add(x, y)
	case "-":
		out.Sub(x, y)
	case "*":
		out.Mul(x, y)
	case "/":
		if y.Sign() == 0 {
			return nil, errZero
		}
		f, _ := new(big.Rat).SetFrac(x, y).Float64()
		if math.IsInf(f, 0) {
			return nil, Fault("the integer is too large for a float", "")
		}
		return f, nil
	case "//", "%":
		if y.Sign() == 0 {
			return nil, errZero
		}
		m := new(big.Int)
		out.QuoRem(x, y, m)
		if m.Sign() != 0 && (m.Sign() < 0) != (y.Sign() < 0) {
			out.Sub(out, big.NewInt(1))
			m.Add(m, y)
		}
		if op == "%" {
			return normal(m), nil
		}
	case "**":
		return powerOf(x, y)
	}
	if out.BitLen() > maxBits {
		return nil, Fault("the integer is too large", "")
	}
	return normal(out), nil
}

func powerOf(x, y *big.Int) (any, error) {
	if y.Sign() < 0 {
		f, _ := number(normal(x))
		g, _ := number(normal(y))
		return floats("**", f, g)
	}
	small := x.BitLen() <= 1
	if !small && (!y.IsInt64() || y.Int64()*int64(x.BitLen()) > maxBits) {
		return nil, Fault("the integer is too large", "")
	}
	if small && x.Sign() != 0 { // 1 or -1
		return normal(new(big.Int).Exp(x, new(big.Int).And(y, big.NewInt(1)), nil)), nil
	}
	return normal(new(big.Int).Exp(x, y, nil)), nil
}

func floats(op string, x, y float64) (any, error) {
	if y == 0 && (op == "/" || op == "//" || op == "%") || x == 0 && y < 0 && op == "**" {
		return nil, errZero
	}
	switch op {
	case "+":
		return x + y, nil
	case "-":
		return x - y, nil
	case "*":
		return x * y, nil
	case "/":
		return x / y, nil
	case "**":
		v := math.Pow(x, y)
		if math.IsNaN(v) && !math.IsNaN(x) && !math.IsNaN(y) {
			return nil, Fault("the power is a complex number", "")
		}
		if math.IsInf(v, 0) && !math.IsInf(x, 0) && !math.IsInf(y, 0) {
			return nil, Fault("the power is too large", "")
		}
		return v, nil
	}
	// CPython's float_divmod (Objects/floatobject.c).
	m := math.Mod(x, y)
	div := (x - m) / y
	if m != 0 {
		if (y < 0) != (m < 0) {
			m += y
			div--
		}
	} else {
		m = math.Copysign(0, y)
	}
	if op == "%" {
		return m, nil
	}
	if div == 0 {
		return math.Copysign(0, x/y), nil
	}
	floor := math.Floor(div)
	if div-floor > 0.5 {
		floor++
	}
	return floor, nil
}

// formatFloat is Python's repr of a float.
func formatFloat(f float64) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// toInt is Python's int(v, base); ok is false where it raises.
func toInt(v any, base int) (any, bool) {
	switch v := v.(type) {
	case bool, int64:
		n, _ := integer(v)
		return n, true
	case *big.Int:
		return v, true
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, false
		}
		n, _ := big.NewFloat(math.Trunc(v)).Int(nil)
		return normal(n), true
	}
	s, ok := asText(v)
	if !ok {
		return nil, false
	}
	s = strings.ToLower(strings.TrimSpace(s))
	digits := strings.TrimLeft(s, "+-")
	if len(s)-len(digits) > 1 || digits == "" || len(digits) > 4300 {
		return nil, false
	}
	for prefix, of := range map[string]int{"0x": 16, "0o": 8, "0b": 2} {
		if rest, has := strings.CutPrefix(digits, prefix); has && (base == of || base == 0) {
			digits, base = strings.TrimPrefix(rest, "_"), of
		}
	}
	if base == 0 {
		base = 10
		if strings.HasPrefix(digits, "0") && strings.Trim(digits, "0_") != "" {
			return nil, false
		}
	}
	if strings.HasPrefix(digits, "_") || strings.HasSuffix(digits, "_") || strings.Contains(digits, "__") {
		return nil, false
	}
	n, ok := new(big.Int).SetString(strings.ReplaceAll(digits, "_", ""), base)
	if !ok {
		return nil, false
	}
	if strings.HasPrefix(s, "-") {
		n.Neg(n)
	}
	return normal(n), true
}

// toFloat is Python's float(v); ok is false where it raises.
func toFloat(v any) (float64, bool) {
	if f, ok := number(v); ok {
		return f, true
	}
	s, ok := asText(v)
	if !ok {
		return 0, false
	}
	s = strings.ToLower(strings.TrimSpace(s))
	switch strings.TrimLeft(s, "+-") {
	case "inf", "infinity", "nan":
	default:
		if strings.ContainsAny(s, "xpin") || strings.HasPrefix(s, "_") || strings.HasSuffix(s, "_") || strings.Contains(s, "__") {
			return 0, false
		}
		s = strings.ReplaceAll(s, "_", "")
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil && !math.IsInf(f, 0) {
		return 0, false
	}
	return f, true
}

package model

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"unicode/utf8"
)

const (
	// MaxLen is the most values that a model may have.
	MaxLen = 1 << 40

	maxTensors = 1 << 14
	maxName    = 256
	maxDims    = 8
)

// Tensor names a tensor of float32 and gives its shape, outermost dimension first; no dimensions mean one value.
type Tensor struct {
	Name  string
	Shape []int
}

// Len returns the number of the tensor's values, or -1 where a dimension is not positive or they are more than MaxLen.
func (t Tensor) Len() int {
	n := 1
	for _, d := range t.Shape {
		if d < 1 || d > MaxLen/n {
			return -1
		}
		n *= d
	}
	return n
}

// Layout says how tensors share a flat vector: one after the other, by ascending name.
type Layout []Tensor

// Validate reports why l is no layout: no tensors or too many, names that do not ascend or are not printable text of 1 to 256
// bytes, empty dimensions, more than MaxLen values.
func (l Layout) Validate() error {
	if len(l) == 0 || len(l) > maxTensors {
		return fmt.Errorf("layout has %d tensors, want 1 to %d", len(l), maxTensors)
	}
	total := 0
	for i, t := range l {
		if err := checkName(t.Name); err != nil {
			return err
		}
		if i > 0 && l[i-1].Name >= t.Name {
			return fmt.Errorf("tensor %q stands after %q: names must ascend", t.Name, l[i-1].Name)
		}
		n := t.Len()
		if len(t.Shape) > maxDims || n < 0 || n > MaxLen-total {
			return fmt.Errorf("tensor %q has an impossible shape: want up to %d dimensions, none empty, %d values in all",
				t.Name, maxDims, MaxLen)
		}
		total += n
	}
	return nil
}

// checkName keeps names free of what JSON writers escape in different ways, so that a header has one form.
func checkName(name string) error {
	if name == "" || len(name) > maxName || !utf8.ValidString(name) || name == metadataKey {
		return fmt.Errorf("tensor name %.64q: want 1 to %d bytes of text", name, maxName)
	}
	for _, r := range name {
		if r < 0x20 || r == 0x7f || r == '"' || r == '\\' || r == '<' || r == '>' || r == '&' || r == '\u2028' || r == '\u2029' ||
			r == utf8.RuneError {
			return fmt.Errorf("tensor name %.64q: %q is not allowed in it", name, r)
		}
	}
	return nil
}

// Len returns the number of values of a valid layout.
func (l Layout) Len() int {
	n := 0
	for _, t := range l {
		n += t.Len()
	}
	return n
}

// Slice returns the named tensor's part of params, sharing its memory, and false if there is no such tensor or params is too
// short for it.
func (l Layout) Slice(params []float32, name string) ([]float32, bool) {
	lo := 0
	for _, t := range l {
		n := t.Len()
		if t.Name == name {
			if n < 0 || lo > len(params)-n {
				return nil, false
			}
			return params[lo : lo+n : lo+n], true
		}
		lo += n
	}
	return nil, false
}

// find returns the tensor that holds value i of the flat vector, and the value's place in it.
func (l Layout) find(i int) (name string, at int) {
	for _, t := range l {
		n := t.Len()
		if i < n {
			return t.Name, i
		}
		i -= n
	}
	return "", math.MaxInt
}

// ErrNotFinite is wrapped by the errors of values that are a NaN or an infinity.
var ErrNotFinite = errors.New("not finite")

// finite returns an error that names the tensor of the first of these values, which stand from lo on, that is not finite.
func (l Layout) finite(lo int, values []float32) error {
	for i, x := range values {
		if v := float64(x); math.IsNaN(v) || math.IsInf(v, 0) {
			name, at := l.find(lo + i)
			return fmt.Errorf("value %d of tensor %q is %w", at, name, ErrNotFinite)
		}
	}
	return nil
}

// Equal reports whether both lay out the same tensors.
func (l Layout) Equal(m Layout) bool {
	return slices.EqualFunc(l, m, func(a, b Tensor) bool { return a.Name == b.Name && slices.Equal(a.Shape, b.Shape) })
}

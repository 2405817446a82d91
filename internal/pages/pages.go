// Package pages gives out memory for long vectors of numbers that is beside the garbage collector's: it is given back to the system at
// the instant when it is not needed any more. A process whose memory is nearly all vectors, which come and go, would else take up to
// twice as much, since the collector lets as much garbage pile up as there is in use.
package pages

// least is how many bytes are worth pages of their own.
const least = 1 << 20

// Make returns n zeros, and what gives their memory back. Whoever holds them calls that once, when nobody uses them any more: to touch
// them afterwards ends the program. Short vectors, and all on other systems than Linux, are the collector's as ever.
func Make[T float32 | float64 | uint64](n int) (values []T, free func(), err error) {
	var zero T
	if size := sizeOf(zero); n < least/size {
		return make([]T, n), func() {}, nil
	}
	return mapped[T](n)
}

func sizeOf[T float32 | float64 | uint64](v T) int {
	if _, ok := any(v).(float32); ok {
		return 4
	}
	return 8
}

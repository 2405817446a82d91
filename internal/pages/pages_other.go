//go:build !linux

package pages

func mapped[T float32 | float64 | uint64](n int) ([]T, func(), error) {
	return make([]T, n), func() {}, nil
}

package pages

import (
	"fmt"
	"math"
	"unsafe"

	"golang.org/x/sys/unix"
)

func mapped[T float32 | float64 | uint64](n int) ([]T, func(), error) {
	var zero T
	size := sizeOf(zero)
	if n > math.MaxInt/size {
		return nil, nil, fmt.Errorf("memory for %d values of %d bytes: more than there can be", n, size)
	}
	b, err := unix.Mmap(-1, 0, n*size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, nil, fmt.Errorf("memory for %d values of %d bytes: %w", n, size, err)
	}
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE) // faster to touch for the first time; where there are none it goes without
	free := func() {
		if err := unix.Munmap(b); err != nil {
			panic(fmt.Sprintf("pages: given back twice: %v", err))
		}
	}
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), n), free, nil
}

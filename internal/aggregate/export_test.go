package aggregate

// Kernel is a way to add that this processor can run.
type Kernel struct {
	Name string
	Add  func(dst []float64, src []float32, weight, magic float64)
}

// Kernels returns all of them, the one that is used last.
func Kernels() []Kernel {
	var out []Kernel
	for _, k := range kernels {
		out = append(out, Kernel{k.name, k.add})
	}
	return out
}

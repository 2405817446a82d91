package aggregate

import "golang.org/x/sys/cpu"

// kernels are the adders that run here, the fastest last.
var kernels = available(cpu.X86.HasAVX2, cpu.X86.HasAVX512F)

func available(avx2, avx512 bool) []kernel {
	all := []kernel{{"loop", addLoop}}
	if avx2 {
		all = append(all, kernel{"avx2", addAVX2})
	}
	if avx512 {
		all = append(all, kernel{"avx512", addAVX512})
	}
	return all
}

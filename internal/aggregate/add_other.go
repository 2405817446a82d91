//go:build !amd64

package aggregate

// kernels are the adders that run here.
var kernels = []kernel{{"loop", addLoop}}

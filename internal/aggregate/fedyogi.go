package aggregate

// fedYogiRule is FedYogi: Reddi et al. 2021, arXiv:2003.00295, algorithm 2.
//
//	v = v - (1-beta2)*mean^2*sign(v - mean^2), where sign(0) = 0
//
// What else it does, and its parameters, stand beside [adaptive].
func fedYogiRule(p *params) rule {
	return adaptiveRule(p, 0.9, func(o *adaptive, v, d2 float64) float64 {
		switch change := float64(o.rest2 * d2); {
		case v > d2:
			return v - change
		case v < d2:
			return v + change
		default:
			return v
		}
	})
}

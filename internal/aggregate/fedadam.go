package aggregate

// fedAdamRule is FedAdam: Reddi et al. 2021, arXiv:2003.00295, algorithm 2.
//
//	v = beta2*v + (1-beta2)*mean^2
//
// What else it does, and its parameters, stand beside [adaptive].
func fedAdamRule(p *params) rule {
	return adaptiveRule(p, 0.9, func(o *adaptive, v, d2 float64) float64 {
		return float64(o.beta2*v) + float64(o.rest2*d2)
	})
}

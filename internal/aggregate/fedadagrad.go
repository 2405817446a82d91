package aggregate

// fedAdagradRule is FedAdagrad: Reddi et al. 2021, arXiv:2003.00295, algorithm 2.
//
//	v = v + mean^2
//
// What else it does, and its parameters, stand beside [adaptive]; beta1 is 0 by default, and beta2 tells in a bias correction only.
func fedAdagradRule(p *params) rule {
	return adaptiveRule(p, 0, func(_ *adaptive, v, d2 float64) float64 { return v + d2 })
}

package aggregate

// fedNovaRule is FedNova: Wang et al. 2020, arXiv:2007.07481, equations 6 to 8. Where participants take different numbers of local steps (by
// local.epochs: who has more records takes more), FedAvg gives those that take more a larger say than their records. Here each divides what it
// has gone by the weight of its gradients in it, and the server multiplies the mean of that by the mean weight:
//
//	participant   v = momentum*v + gradient; y -= rate*(v + mu*(y - x))
//	              update = (y - x)/|a|
//	server        x += learning_rate*tau*mean
//
// x is the base model, rate the plan's local.learning_rate and |a| the 1-norm of the accumulation vector, see [Local.Norm]: the number of
// steps, where momentum and mu are 0. mean is that of FedAvg. tau is, over those whose updates are in it and weighted as they are, by tau_eff:
//
//	norm    the mean of |a|, as in the paper
//	steps   the mean of the numbers of steps, as the paper's code has it with mu
//
// Where all take the same number of steps it is FedAvg. The plan's max_abs holds for the update, which is smaller than y - x. How many steps
// somebody takes follows from the plan and the records that it declared, so nobody can claim others.
//
//	momentum        0      0 up to but not 1; it begins with 0 in each round
//	mu              0      0 to 1e6
//	tau_eff         norm   norm or steps
//	learning_rate   1      above 0 to 1e6, of the server
func fedNovaRule(p *params) rule {
	r := fedAvgRule(p)
	r.local = Local{Mu: p.number("mu", 0, 0, maxMu), Momentum: p.number("momentum", 0, 0, below1), Normalized: true}
	byNorm := p.choice("tau_eff", "norm", "steps") == "norm"
	local := r.local
	r.factor = func(t Turnout) float64 {
		norms := map[int]float64{}
		sum, weight := 0.0, 0.0
		for i, w := range t.Weights {
			n := t.Steps[i]
			if _, known := norms[n]; !known {
				norms[n] = float64(n)
				if byNorm {
					norms[n] = local.Norm(n, t.Rate)
				}
			}
			sum += float64(float64(w) * norms[n])
			weight += float64(w)
		}
		return sum / weight
	}
	return r
}

package aggregate

// fedProxRule is FedProx: Li et al. 2020, arXiv:1812.06127, equation 2. Each participant minimises its loss plus mu/2*|y - x|^2, over all
// parameters y that training changes, so that many local steps on records unlike the others' do not lead far from the base model x:
//
//	y -= rate*(gradient + mu*(y - x))
//
// rate is the plan's local.learning_rate. The server does what FedAvg does.
//
//	mu              0.01   0 to 1e6; 0 is FedAvg
//	learning_rate   1      above 0 to 1e6, of the server
func fedProxRule(p *params) rule {
	r := fedAvgRule(p)
	r.local = Local{Mu: p.number("mu", 0.01, 0, maxMu)}
	return r
}

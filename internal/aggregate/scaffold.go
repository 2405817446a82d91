package aggregate

// scaffoldRule is SCAFFOLD: Karimireddy et al. 2020, arXiv:1910.06378, algorithm 1. Each participant keeps a control variate c_i, its own
// estimate of its gradient, and the model carries c, that of everybody's. Local steps are corrected by the difference, so that records
// unlike the others' do not lead off:
//
//	participant   y -= rate*(gradient - c_i + c)
//	              update = (y - x, c_i' - c_i)
//	server        x += learning_rate*mean of the first part
//	              c += |S|/N*mean of the second
//
// x is the base model, rate the plan's local.learning_rate; the N participants that the round has asked and the |S| of them whose updates are
// in the mean stand in the round's facts. mean is that of FedAvg, weighted by records, for both parts, as other frameworks have it; the paper
// weighs all alike. c and all c_i begin with 0, and a participant whose update is not in the mean keeps its c_i. c_i' is, by option, what the
// paper calls so:
//
//	II   c_i - c + (x - y)/(steps*rate), the mean of the gradients on the way
//	I    the gradient at x, over all records: one more pass over them
//
// The update has two values for each that training changes, and so has the model; the plan's max_abs holds for all of them.
//
//	option          II   II or I
//	learning_rate   1    above 0 to 1e6, of the server
func scaffoldRule(p *params) rule {
	rate := learningRate(p, 1)
	control := p.choice("option", "II", "I")
	o := fedAvg{1}
	return rule{
		optimizer: func(int) Optimizer { return o },
		local:     Local{Controlled: true, AtBase: control == "I"},
		factor:    func(Turnout) float64 { return rate },
		control:   func(t Turnout) float64 { return float64(len(t.Weights)) / float64(t.Asked) },
	}
}

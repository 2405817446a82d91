package coordinator

// Methods returns the methods that have a row in the table of who may call what.
func Methods() []string {
	var all []string
	for m := range methods {
		all = append(all, m)
	}
	return all
}

// Clip is what words of peers go through.
var Clip = clip

package preflight

import "context"

// Other is what answers at an address in the place of a coordinator.
func Other(ctx context.Context, address string) string {
	return (&talk{o: Options{Address: address}}).other(ctx)
}

// NoLine is what is to be done about a connection that does not come about.
var NoLine = noLine

// Remedy is what is to be done about a class of refusals.
var Remedy = remedy

package preflight

import (
	"context"

	"consilium.dev/internal/transport"
)

// Explain is what is said of a channel of which those refusals were told, to an address where nobody listens any more.
func Explain(ctx context.Context, told ...transport.Refusal) error {
	t := &talk{o: Options{Address: "127.0.0.1:0"}}
	for _, r := range told {
		t.refused(r)
	}
	return t.explain(ctx, nil)
}

// Other is what answers at an address in the place of a coordinator.
func Other(ctx context.Context, address string) string {
	return (&talk{o: Options{Address: address}}).other(ctx)
}

// NoLine is what is to be done about a connection that does not come about.
var NoLine = noLine

// Remedy is what is to be done about a class of refusals.
var Remedy = remedy

package collateral

import "context"

// Supply does what Run does each minute about what evidence lacked.
func (c *Cache) Supply(ctx context.Context) { c.supply(ctx) }

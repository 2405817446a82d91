package aggregate

import "fmt"

// Noisy fills dst with the sum of the values from lo on, each with so many steps of its grid more as noise gives for it, over a number of
// updates that does not depend on how many were added. The steps, which are less than 2^51 in magnitude, are added exactly: what a
// distribution over whole numbers promises of integer sums holds of these. Values that have to be 0 get none. The sum itself does not
// change, so it can be asked for again, with other noise.
func (s *Sum) Noisy(lo int, dst []float64, over int, noise func() (int64, error)) error {
	s.within(lo, len(dst))
	if over < 1 {
		panic("aggregate: mean over no updates")
	}
	for _, g := range s.grids {
		step := g.magic / 0x1.8p52
		for i := max(lo, g.lo); i < min(lo+len(dst), g.hi); i++ {
			v := s.sum[i]
			if step > 0 {
				k, err := noise()
				if err != nil {
					return fmt.Errorf("noise for value %d: %w", i, err)
				}
				v += float64(k) * step
			}
			dst[i-lo] = v / float64(over)
		}
	}
	return nil
}

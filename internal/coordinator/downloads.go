package coordinator

import (
	"sync"

	"go.uber.org/zap"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/transport"
)

// downloads remembers how much of the model that each peer fetched last has been given to its line, so that what is sent more than
// once can be told. What was given and had not arrived when a link broke is less than the channel's windows hold. It is lost with
// the process, and safe for concurrent use.
type downloads struct {
	mu sync.Mutex // guards of and what it holds
	of map[party]*fetched
}

// party is whom a manifest names; there are so many at the most.
type party struct {
	office attest.Office
	name   string
}

func partyOf(p transport.Peer) party { return party{p.Office, p.Name} }

// fetched is what one peer has fetched.
type fetched struct {
	last  *download // the newest one
	again int64     // bytes of models that were sent more than once, decoded
}

// download is one call of Fetch.
type download struct {
	model    entry.Digest
	at, size int64 // how much of the model has been given to the line
}

// begin begins a download at an offset, and returns how many bytes an earlier one that was cut had given to the line already. One
// from the start of a model that was given whole before is another download, for another use: that costs no break.
func (f *downloads) begin(p transport.Peer, model entry.Digest, offset, size int64) (d *download, again int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.of == nil {
		f.of = map[party]*fetched{}
	}
	x := f.of[partyOf(p)]
	if x == nil {
		x = &fetched{}
		f.of[partyOf(p)] = x
	}
	if l := x.last; l != nil && l.model == model && (offset > 0 || l.at < l.size) {
		again = max(l.at-offset, 0)
	}
	x.again += again
	x.last = &download{model, offset, size}
	return x.last, again
}

// gave says that n more bytes have been given to the line.
func (f *downloads) gave(d *download, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d.at += int64(n)
}

// resent returns how many bytes of models a member has been sent more than once.
func (f *downloads) resent(m entry.Member) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if x := f.of[party{attest.Participant, string(m)}]; x != nil {
		return x.again
	}
	return 0
}

// begin notes a download, and says so where it goes on.
func (m *models) begin(p transport.Peer, v entry.Digest, offset, size int64) *download {
	d, again := m.downloads.begin(p, v, offset, size)
	if offset > 0 || again > 0 {
		m.log.Info("download goes on", zap.String("model", v.Short()), zap.Stringer("office", p.Office), zap.String("name", p.Name),
			zap.Int64("offset", offset), zap.Int64("resent", again))
	}
	return d
}

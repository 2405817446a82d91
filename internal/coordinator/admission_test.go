package coordinator_test

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/store"
	pb "consilium.dev/proto/consilium/v1"
)

// slow is a store whose writes take longer than an impatient caller waits.
type slow struct{ store.Objects }

func (s slow) Put(ctx context.Context, name func() string, r io.Reader) error {
	select {
	case <-time.After(3 * time.Millisecond): // of the bubble
	case <-ctx.Done():
		return ctx.Err()
	}
	return s.Objects.Put(ctx, name, r)
}

// TestAdmittedOnce gives up calls while the admission of their connection is being written down: it is written once, so that
// nobody fills the log over one connection.
func TestAdmittedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve(func(o *coordinator.Options) { o.Objects = slow{w.disks["council"]} })
		p := w.connect(attest.Participant, "cleveland")
		for range 50 {
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Millisecond)
			_, err := p.Consent(ctx, &pb.ConsentRequest{Run: "x"})
			if err == nil {
				t.Error("a consent to no run was taken")
			}
			cancel()
			time.Sleep(10 * time.Millisecond) // of the bubble
		}
		if got := len(only[entry.Admitted](w.facts())); got != 1 {
			t.Errorf("%d admissions over one connection, want 1", got)
		}
	})
}

// TestIdleAdmission makes its first call long after its handshake: the fact says when the evidence was judged, since a Nitro
// document is too old by the time it is written down.
func TestIdleAdmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve()
		p := w.connect(attest.Participant, "longbeach")
		p.conn.Connect()
		synctest.Wait()
		dialled := time.Now()
		time.Sleep(7 * time.Minute) // of the bubble
		if _, err := p.Consent(t.Context(), &pb.ConsentRequest{Run: "x"}); err == nil {
			t.Error("a consent to no run was taken")
		}
		all := only[entry.Admitted](w.facts())
		if len(all) != 1 || all[0].Issued.Sub(dialled).Abs() > time.Minute {
			t.Errorf("admissions %v, want one, judged at %v", all, dialled)
		}
	})
}

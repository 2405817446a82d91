package transport

import (
	"context"
	"errors"
	"io"
	"time"

	"consilium.dev/internal/attest"
)

// drainTime is how long a side that refuses reads on, so that its ALERT is not lost with the connection.
const drainTime = time.Second

// refuse ends the handshake that failed with err: it reports, sends the ALERT and drains. It returns what gRPC is told.
func (x *exchange) refuse(ctx context.Context, err error) error {
	switch {
	case x.c.life.Err() != nil:
		return errClosed // we went away ourselves
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err() // or our caller did
	}
	var alert alertError
	var own *attest.Error
	byPeer := errors.As(err, &alert)
	switch {
	case byPeer:
		own = &attest.Error{Class: alert.class, Err: err}
	case errors.Is(err, context.DeadlineExceeded) && !errors.As(err, &own):
		own = &attest.Error{Class: attest.ClassRate, Err: err}
	case !errors.As(err, &own):
		own = &attest.Error{Class: attest.ClassState, Err: err}
	}
	if !x.endorsed {
		own, err = &attest.Error{Class: own.Class, Err: tame(own.Err)}, tame(err)
	}
	if !x.adopted {
		var cut *cutError
		x.report(Refusal{Class: own.Class, Err: err, ByPeer: byPeer, Sent: x.silent, Cut: !byPeer && errors.As(err, &cut), Mute: x.mute})
	}
	if x.conn != nil && !byPeer && !x.taken {
		x.drain(own.Class)
	}
	return own
}

func (x *exchange) report(r Refusal) {
	if a := x.raw.RemoteAddr(); a != nil {
		r.Peer = a.String()
	}
	switch {
	case x.side == clientSide:
		r.Name, r.Office = x.c.cfg.PeerName, x.c.cfg.PeerOffice
	case x.endorsed:
		r.Name, r.Office = x.claimed.name, x.claimed.office
	}
	x.c.cfg.Refused(r)
}

// drain sends the class and reads on for a while: a connection that is closed with bytes unread is reset, and the ALERT
// with it. Reading goes on beside the writing, since a peer that is writing itself may not be reading. Of a stranger a
// listener reads no more than a hello.
func (x *exchange) drain(class attest.Class) {
	if err := x.raw.SetDeadline(time.Now().Add(drainTime)); err != nil {
		return
	}
	limit := int64(2 * maxBody) // an EVIDENCE that is on its way, and what follows it
	if x.side == serverSide && !x.endorsed {
		limit = maxHello
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.CopyN(io.Discard, x.conn, limit) // ends with the deadline at the latest
	}()
	if !x.silent {
		_, _ = x.conn.Write(appendFrame(nil, frameAlert, []byte{byte(class)})) // the peer may be gone
	}
	<-done
}

// write sends frames in one go. Where that fails, the peer may have refused us: its ALERT is looked for.
func (x *exchange) write(frames []byte) error {
	_, err := x.conn.Write(frames)
	if err == nil {
		return nil
	}
	if e := x.raw.SetReadDeadline(time.Now().Add(drainTime)); e == nil {
		var alert alertError
		if _, e := readFrame(x.conn, frameAlert, 1); errors.As(e, &alert) {
			return alert
		}
	}
	return ioError(err, "writing")
}

package preflight_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/preflight"
	"consilium.dev/internal/transport"
)

// TestSteps: what a step says is what becomes of it, and how long it took stands beside it.
func TestSteps(t *testing.T) {
	now := time.Unix(0, 0)
	l := preflight.List{Now: func() time.Time { now = now.Add(time.Second / 2); return now }}
	bad := errors.New("it is broken")
	for name, step := range map[string]struct {
		err  error
		goes bool
	}{
		"good": {nil, true}, "warned": {preflight.Warn("it is old", "renew it"), true}, "bad": {bad, false},
		"advised": {fmt.Errorf("late: %w", preflight.Advise(bad, "mend %s", "it")), false},
	} {
		if goes := l.Do(name, func() (string, error) { return "found", step.err }); goes != step.goes {
			t.Errorf("%s: others can build on it: %t, want %t", name, goes, step.goes)
		}
	}
	l.Omit("why not", "left out")
	got := map[string]preflight.Step{}
	for _, s := range l.Steps {
		got[s.Name] = s
	}
	want := map[string]preflight.Step{
		"good":     {Name: "good", State: preflight.OK, Found: "found", Seconds: 0.5},
		"warned":   {Name: "warned", State: preflight.Warning, Found: "it is old", Do: "renew it", Seconds: 0.5},
		"bad":      {Name: "bad", State: preflight.Failed, Found: "it is broken", Seconds: 0.5},
		"advised":  {Name: "advised", State: preflight.Failed, Found: "late: it is broken", Do: "mend it", Seconds: 0.5},
		"left out": {Name: "left out", State: preflight.Omitted, Found: "why not"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("steps (-want +got):\n%s", d)
	}
	if l.Failed() != 2 {
		t.Errorf("%d have failed, want 2", l.Failed())
	}
	if preflight.Advise(nil, "nothing") != nil {
		t.Error("advice without an error is an error")
	}
}

// TestNobodyThere: the first step that fails ends the way, and says what to do.
func TestNobodyThere(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := lis.Addr().String()
	lis.Close()
	for _, test := range []struct{ address, fails, says string }{
		{"council.example", preflight.StepName, "correct coordinator.address"},
		{"council.invalid:7443", preflight.StepName, "set coordinator.proxy"},
		{"vsock:any:7443", preflight.StepName, "correct coordinator.address"},
		{"vsock:4294967294:7443", preflight.StepTCP, "nothing listens at vsock:4294967294:7443: is the coordinator running there"},
		{closed, preflight.StepTCP, "nothing listens at " + closed},
	} {
		var l preflight.List
		l.Reach(t.Context(), preflight.Options{Address: test.address})
		if len(l.Steps) != 6 || l.Failed() != 1 {
			t.Fatalf("%s: %+v, want six steps of which one has failed", test.address, l.Steps)
		}
		state := preflight.OK
		for _, s := range l.Steps {
			if s.Name == test.fails {
				if s.State != preflight.Failed || !strings.Contains(s.Do, test.says) {
					t.Errorf("%s: step %+v, want it failed, with %q", test.address, s, test.says)
				}
				state = preflight.Omitted
			} else if s.State != state {
				t.Errorf("%s: step %+v, want it %s", test.address, s, state)
			}
		}
	}
}

// TestCut: a line that broke is no verdict on the coordinator, and hides none.
func TestCut(t *testing.T) {
	cut := transport.Refusal{Class: attest.ClassTLS, Err: attest.Refuse(attest.ClassTLS, "TLS handshake: %w", io.EOF), Cut: true}
	verdict := transport.Refusal{Class: attest.ClassMeas, Err: errors.New("another measurement")}
	for want, told := range map[string][]transport.Refusal{
		"the line broke":                {cut},
		"the coordinator does not pass": {cut, verdict},
		"does not pass: MEAS":           {verdict, cut},
	} {
		if err := preflight.Explain(t.Context(), told...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", told, err, want)
		}
	}
}

// TestOther names who shows a certificate in the coordinator's place, and says nothing of what speaks no TLS.
func TestOther(t *testing.T) {
	inspector := httptest.NewTLSServer(http.NotFoundHandler())
	defer inspector.Close()
	if got := preflight.Other(t.Context(), inspector.Listener.Addr().String()); !strings.Contains(got, `"O=Acme Co", issued by "O=Acme Co"`) {
		t.Errorf("of a TLS server it says %q, want its certificate's names", got)
	}
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	if got := preflight.Other(t.Context(), plain.Listener.Addr().String()); got != "" {
		t.Errorf("of a server without TLS it says %q", got)
	}
}

// TestNoLine has another remedy for each way in which a connection does not come about.
func TestNoLine(t *testing.T) {
	for err, want := range map[error]string{
		syscall.ECONNREFUSED: "nothing listens", context.DeadlineExceeded: "lost in silence", os.ErrDeadlineExceeded: "lost in silence",
		syscall.ETIMEDOUT: "lost in silence", syscall.EHOSTUNREACH: "no way there", syscall.ENETUNREACH: "no way there", errors.New("else"): "ask whoever",
	} {
		if got := preflight.NoLine(fmt.Errorf("dial: %w", err), "there:1", "the proxy"); !strings.Contains(got, want) {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}

// TestRemedies has one for each class: its own, or where to read on.
func TestRemedies(t *testing.T) {
	for c := attest.ClassTLS; c <= attest.ClassRate; c++ {
		if got := preflight.Remedy(c); len(got) < 20 {
			t.Errorf("class %s: %q", c, got)
		}
	}
	if got := preflight.Remedy(attest.ClassDebug); !strings.Contains(got, "DEBUG") {
		t.Errorf("a class without a remedy of its own: %q, want where it is explained", got)
	}
}

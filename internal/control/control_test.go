package control_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"consilium.dev/internal/control"
)

// serve answers at a new socket until the test ends.
func serve(t *testing.T, handle func(control.Question) (any, error)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "control")
	lis, err := control.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- control.Serve(ctx, lis, handle) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return path
}

func TestAsk(t *testing.T) {
	var asked []control.Question
	path := serve(t, func(q control.Question) (any, error) {
		asked = append(asked, q)
		if q.Verb == "refuse" {
			return nil, errors.New("not\nnow")
		}
		return map[string]int{"n": len(asked)}, nil
	})
	q := control.Question{Verb: "leave", Run: "aa", Reason: "the \"study\" ended"}
	got, err := control.Ask(t.Context(), path, q)
	if err != nil || string(got) != `{"n":1}` || !reflect.DeepEqual(asked, []control.Question{q}) {
		t.Errorf("Ask = %s, %v; the daemon was asked %v", got, err, asked)
	}
	if _, err := control.Ask(t.Context(), path, control.Question{Verb: "refuse"}); err == nil || err.Error() != "not now" {
		t.Errorf("Ask what is refused = %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v, want mode 0600", info, err)
	}
}

// TestNoise: who makes no sense gets no answer, and the next one does.
func TestNoise(t *testing.T) {
	path := serve(t, func(control.Question) (any, error) { return "ok", nil })
	for _, text := range []string{"\n", "{}x\n", `{"verb":"a"}{"verb":"b"}` + "\n", `{"verb":"a","x":1}` + "\n", strings.Repeat("x", 64<<10+1)} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte(text)); err != nil {
			t.Logf("writing: %v", err)
		}
		var answer bytes.Buffer
		if _, err := answer.ReadFrom(conn); answer.Len() > 0 {
			t.Errorf("%.20q was answered %q, %v", text, answer.String(), err)
		}
		conn.Close()
	}
	if got, err := control.Ask(t.Context(), path, control.Question{}); err != nil || string(got) != `"ok"` {
		t.Errorf("Ask = %s, %v", got, err)
	}
}

func TestAbsent(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "control")
	if _, err := control.Ask(t.Context(), path, control.Question{}); !errors.Is(err, control.ErrAbsent) {
		t.Errorf("Ask where there is no socket = %v, want ErrAbsent", err)
	}
	lis, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	lis.SetUnlinkOnClose(false) // as a process that was killed leaves it
	lis.Close()
	if _, err := control.Ask(t.Context(), path, control.Question{}); !errors.Is(err, control.ErrAbsent) {
		t.Errorf("Ask where nobody listens = %v, want ErrAbsent", err)
	}
	again, err := control.Listen(path)
	if err != nil {
		t.Fatalf("Listen over what a killed process left: %v", err)
	}
	again.Close()
	if _, err := control.Listen(filepath.Join(dir, strings.Repeat("x", 120))); err == nil || !strings.Contains(err.Error(), "too long for a socket") {
		t.Errorf("Listen at a long path = %v", err)
	}
}

// FuzzQuestion: whatever comes, reading it does not panic, and what is read is what a question says.
func FuzzQuestion(f *testing.F) {
	f.Add([]byte(`{"verb":"pause","reason":"audit"}` + "\n"))
	f.Add([]byte(`{"verb":"leave","run":"0011223344556677"}` + "\n"))
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		q, err := control.ReadQuestion(bytes.NewReader(text))
		if err != nil {
			return
		}
		again, err := json.Marshal(q)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := control.ReadQuestion(bytes.NewReader(append(again, '\n'))); err != nil || r != q {
			t.Errorf("%+v came back as %+v, %v", q, r, err)
		}
	})
}

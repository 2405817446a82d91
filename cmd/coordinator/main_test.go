package main

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/daemon"
	"consilium.dev/internal/socket/sockettest"
	"consilium.dev/internal/store"
)

// The tests start themselves again as coordinators. This variable says as which: the real one, or one whose storage stops at
// a point that it names, "KIND ROUND COUNT before|after".
const asVariable = "CONSILIUM_TEST_AS"

func TestMain(m *testing.M) {
	if sockettest.IsGuest() {
		sockettest.Boot(func() int { return tests(m) })
	}
	as := os.Getenv(asVariable)
	if as == "" {
		os.Exit(tests(m))
	}
	if mode := modes[as]; mode != nil {
		mode()
	}
	os.Exit(stopping(as))
}

// modes are the coordinators that have a name.
var modes = map[string]func(){"coordinator": main}

// scratch is where programs for the tests are built.
var scratch string

func tests(m *testing.M) int {
	var err error
	if scratch, err = os.MkdirTemp("", "consilium-coordinator-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(scratch)
	return m.Run()
}

// stopping is main with storage that stops.
func stopping(at string) int {
	s, err := newStop(at)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return daemon.ExitUsage
	}
	var c config
	return daemon.Main("coordinator", &c, func(ctx context.Context, env daemon.Env) error {
		parts, err := c.Open(ctx, env, attest.Coordinator)
		if err != nil {
			return err
		}
		defer parts.Close() //nolint:errcheck // nothing is written by closing
		s.Head, s.Sealer = parts.Head, parts.KEK
		parts.Head, parts.KEK = s, s
		return serve(ctx, env, c, parts)
	})
}

// stop is a head that stops for ever at the commit that makes the number of facts of a kind, of one round, in the log's
// newest bundle reach a count, or pass it: facts that come together are written together. It learns of them as the sealer of the bundle.
type stop struct {
	store.Head
	store.Sealer
	at    string
	fact  *regexp.Regexp
	count int
	after bool // once the commit is durable; else just before
	armed atomic.Bool
}

func newStop(at string) (*stop, error) {
	words := strings.Fields(at)
	if len(words) != 4 || words[3] != "before" && words[3] != "after" {
		return nil, fmt.Errorf("%s=%q: want KIND ROUND COUNT before|after", asVariable, at)
	}
	count, err := strconv.Atoi(words[2])
	if err != nil {
		return nil, err
	}
	fact, err := regexp.Compile(`"kind":"` + words[0] + `".*"round":` + words[1] + `,`)
	return &stop{at: at, fact: fact, count: count, after: words[3] == "after"}, err
}

func (s *stop) Seal(plaintext, ad []byte) ([]byte, error) {
	if len(s.fact.FindAll(plaintext, -1)) >= s.count {
		s.armed.Store(true)
	}
	return s.Sealer.Seal(plaintext, ad)
}

func (s *stop) Swap(ctx context.Context, old uint64, value []byte) error {
	if s.armed.Load() && !s.after {
		s.rest()
	}
	err := s.Head.Swap(ctx, old, value)
	if s.armed.Load() && err == nil {
		s.rest()
	}
	return err
}

// rest says in a line of the log that it stops, and does.
func (s *stop) rest() {
	fmt.Fprintf(os.Stderr, "{\"msg\": \"stopped\", \"at\": %q}\n", s.at)
	select {}
}

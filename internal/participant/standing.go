package participant

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"consilium.dev/internal/blob"
	"consilium.dev/internal/store"
	pb "consilium.dev/proto/consilium/v1"
)

const (
	// maxLeft is how many runs that were left are remembered. By then their coordinator has long written down that they were.
	maxLeft = 1000
	// maxReason is the most bytes of a reason.
	maxReason = 200
)

// will is what the member's own administrator wants, whatever the coordinator asks for.
type will struct {
	Paused bool      `json:"paused"`
	Since  time.Time `json:"since,omitzero"` // it is paused
	Reason string    `json:"reason,omitempty"`
	Left   []leaving `json:"left,omitempty"` // runs that were left, oldest first
}

// leaving is a run that was left.
type leaving struct {
	Run    string    `json:"run"`
	Reason string    `json:"reason,omitempty"`
	At     time.Time `json:"at"`
}

// standing keeps the administrator's will on the member's own disk, sealed, so that it outlives a restart. A change is durable
// before it takes effect, and then does at once. It is safe for concurrent use.
type standing struct {
	blobs   *blob.Blobs
	objects store.Objects
	now     func() time.Time

	mu      sync.Mutex // guards what follows
	will    will
	number  uint64        // of the object that holds it, 0 for none
	changed chan struct{} // closed when will has changed
	open    []string      // runs that the coordinator last named
	heard   time.Time     // when it did, zero for never
}

func newStanding(b *blob.Blobs, o store.Objects, now func() time.Time) *standing {
	return &standing{blobs: b, objects: o, now: now, changed: make(chan struct{})}
}

const standingFolder = "standing/"

func standingName(n uint64) string { return fmt.Sprintf("%s%020d", standingFolder, n) }

// load finds what an earlier process was told. Of several objects the highest counts: the process ended before it had deleted
// the one before.
func (s *standing) load(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	var all []uint64
	for name, err := range s.objects.List(ctx, standingFolder) {
		if err != nil {
			return &diskError{err}
		}
		n, err := strconv.ParseUint(strings.TrimPrefix(name, standingFolder), 10, 64)
		if err != nil || standingName(n) != name {
			return &diskError{fmt.Errorf("object %s is none of ours", name)}
		}
		all = append(all, n)
	}
	if len(all) == 0 {
		return nil
	}
	slices.Sort(all)
	newest := all[len(all)-1]
	text, err := s.blobs.OpenNamed(ctx, standingName(newest))
	if err != nil {
		return &diskError{fmt.Errorf("opening what the administrator wants, %s: %w", standingName(newest), err)}
	}
	w, err := decodeWill(text)
	if err != nil {
		return &diskError{fmt.Errorf("object %s: %w", standingName(newest), err)}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.will, s.number = w, newest
	for _, n := range all[:len(all)-1] {
		if err := s.blobs.DeleteNamed(ctx, standingName(n)); err != nil {
			return &diskError{err}
		}
	}
	return nil
}

// change makes another will durable and then lets it take effect.
func (s *standing) change(ctx context.Context, f func(*will) error) error {
	ctx = context.WithoutCancel(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.will
	next.Left = slices.Clone(next.Left)
	if err := f(&next); err != nil {
		return err
	}
	text, err := encodeWill(next)
	if err != nil {
		return err
	}
	// The new one first: a crash in between leaves two, of which the higher counts.
	if err := s.blobs.PutNamed(ctx, standingName(s.number+1), text); err != nil {
		return &diskError{fmt.Errorf("keeping what the administrator wants: %w", err)}
	}
	old := s.number
	s.will, s.number = next, s.number+1
	close(s.changed)
	s.changed = make(chan struct{})
	if old == 0 {
		return nil
	}
	if err := s.blobs.DeleteNamed(ctx, standingName(old)); err != nil {
		return &diskError{err}
	}
	return nil
}

// pause lets nothing of any run be done until resume.
func (s *standing) pause(ctx context.Context, reason string) error {
	if err := checkReason(reason); err != nil {
		return err
	}
	return s.change(ctx, func(w *will) error {
		if w.Paused {
			return nil
		}
		w.Paused, w.Since, w.Reason = true, s.now().UTC().Truncate(time.Microsecond), reason
		return nil
	})
}

func (s *standing) resume(ctx context.Context) error {
	return s.change(ctx, func(w *will) error {
		w.Paused, w.Since, w.Reason = false, time.Time{}, ""
		return nil
	})
}

// leave lets nothing more of a run be done, for ever; of all runs that the coordinator last named where run is "". It returns
// which runs those are.
func (s *standing) leave(ctx context.Context, run, reason string) (left []string, err error) {
	if err := checkReason(reason); err != nil {
		return nil, err
	}
	err = s.change(ctx, func(w *will) error {
		switch {
		case run == "" && s.heard.IsZero():
			return errors.New("the coordinator has not been heard since this participant started, so its runs are not known: name them, or pause until it is there")
		case run == "":
			left = slices.Clone(s.open)
		case !isRun(run):
			return fmt.Errorf("%.64q is no run's id: 16 hex digits, as the log and participant status show it", run)
		default:
			left = []string{run}
		}
		for _, one := range left {
			if !slices.ContainsFunc(w.Left, func(l leaving) bool { return l.Run == one }) {
				w.Left = append(w.Left, leaving{one, reason, s.now().UTC().Truncate(time.Microsecond)})
			}
		}
		w.Left = w.Left[max(len(w.Left)-maxLeft, 0):]
		return nil
	})
	return left, err
}

func checkReason(reason string) error {
	if len(reason) > maxReason || !utf8.ValidString(reason) || strings.ContainsFunc(reason, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return fmt.Errorf("reason: want at most %d bytes of printable text", maxReason)
	}
	return nil
}

// changes returns a channel that is closed at the next change. It is read before the will is.
func (s *standing) changes() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// allows reports whether something of a run may be done now.
func (s *standing) allows(run string) bool {
	_, left := s.left(run)
	return !left && !s.wants().Paused
}

// left reports whether a run was left, and why.
func (s *standing) left(run string) (leaving, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.will.Left, func(l leaving) bool { return l.Run == run })
	if i < 0 {
		return leaving{}, false
	}
	return s.will.Left[i], true
}

// wants returns the will as it is.
func (s *standing) wants() will {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.will
}

// hear remembers which runs are open.
func (s *standing) hear(w *pb.Wanted) {
	runs := openRuns(w)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open, s.heard = runs, s.now()
}

// openRuns returns the runs to which the member is invited or in which it takes part, each once.
func openRuns(w *pb.Wanted) []string {
	var runs []string
	for _, i := range w.GetInvitations() {
		runs = append(runs, i.Run)
	}
	for _, r := range w.GetProgress() {
		if !r.Ended {
			runs = append(runs, r.Run)
		}
	}
	slices.Sort(runs)
	return slices.DeleteFunc(slices.Compact(runs), func(run string) bool { return !isRun(run) })
}

// A will's plaintext: "consilium.standing/1\n", then will as JSON, as encoding/json writes it.
const willMagic = "consilium.standing/1\n"

func encodeWill(w will) ([]byte, error) {
	text, err := json.Marshal(w)
	if err != nil {
		return nil, fmt.Errorf("writing what the administrator wants: %w", err)
	}
	return append([]byte(willMagic), text...), nil
}

func decodeWill(text []byte) (will, error) {
	body, ok := bytes.CutPrefix(text, []byte(willMagic))
	var w will
	if !ok {
		return w, errors.New("not what an administrator wants")
	}
	if err := json.Unmarshal(body, &w); err != nil {
		return will{}, fmt.Errorf("not what an administrator wants: %w", err)
	}
	if again, err := encodeWill(w); err != nil || !bytes.Equal(again, text) {
		return will{}, errors.New("not what an administrator wants")
	}
	return w, nil
}

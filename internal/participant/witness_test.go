package participant_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"consilium.dev/internal/ledger"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/participant"
	"consilium.dev/internal/store"
	"consilium.dev/internal/store/storetest"
	"consilium.dev/internal/witness"
	pb "consilium.dev/proto/consilium/v1"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// scribe is a coordinator's log, on a disk of its own.
type scribe struct {
	*ledger.Ledger
	verifier string
}

func newScribe(t testing.TB, origin string, lines ...string) scribe {
	t.Helper()
	return scribeOn(t, storetest.New(), origin, lines...)
}

func scribeOn(t testing.TB, disk *storetest.Memory, origin string, lines ...string) scribe {
	t.Helper()
	kek := newSealer(t, 2)
	key, err := ledger.OpenKey(t.Context(), disk, kek, origin)
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(t.Context(), ledger.Config{Objects: disk, Head: disk, Sealer: kek, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	s := scribe{l, key.Verifier()}
	s.write(t, lines...)
	return s
}

// forged returns another log under the same key, which an object holds.
func forged(t testing.TB, key []byte, lines ...string) scribe {
	t.Helper()
	disk := storetest.New()
	if err := disk.Put(t.Context(), store.Named("log.key"), bytes.NewReader(key)); err != nil {
		t.Fatal(err)
	}
	return scribeOn(t, disk, "consilium.dev/hearts", lines...)
}

func (s scribe) write(t testing.TB, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if err := s.Append(t.Context(), []byte(line)); err != nil {
			t.Fatal(err)
		}
	}
}

// ask asks to cosign the log as it is, from an older size on.
func (s scribe) ask(t testing.TB, old int64) *pb.CosignAsked {
	t.Helper()
	q := &pb.CosignAsked{Old: old, Checkpoint: s.Checkpoint(), Verifier: s.verifier}
	if old > 0 && old < s.Size() {
		proof, err := s.View().Consistency(t.Context(), old, s.Size())
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range proof {
			q.Proof = append(q.Proof, h[:])
		}
	}
	return q
}

var identityKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))

// remember starts the witness of cleveland over a disk.
func remember(t testing.TB, disk store.Objects) (participant.Memory, error) {
	t.Helper()
	return participant.OpenMemory(t.Context(), "hearts", participant.Options{
		Name: "cleveland", Objects: disk, KEK: newSealer(t, 1), Identity: identityKey, Log: zap.NewNop(),
	})
}

func remembered(t testing.TB, disk store.Objects) participant.Memory {
	t.Helper()
	m, err := remember(t, disk)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func answered(t testing.TB, m participant.Memory, q *pb.CosignAsked) *pb.CosignAnswer {
	t.Helper()
	a, err := m.Answer(t.Context(), q, noon)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestCosign: a witness cosigns what extends what it keeps, the same again too, over any number of its processes, each with a key
// of its own that the member's identity key endorses.
func TestCosign(t *testing.T) {
	disk, log := storetest.New(), newScribe(t, "consilium.dev/hearts", "a", "b", "c")
	var keys []string
	for i, old := range []int64{0, 3, 3, 5} {
		if i == 2 {
			log.write(t, "d", "e")
		}
		m := remembered(t, disk)
		if m.Kept() != old {
			t.Fatalf("process %d keeps %d lines, want %d", i, m.Kept(), old)
		}
		shown, err := m.Shown(noon)
		if err != nil {
			t.Fatal(err)
		}
		if (old > 0) != (len(shown.Checkpoint) > 0) {
			t.Errorf("process %d keeps %d lines and shows a checkpoint of %d bytes", i, old, len(shown.Checkpoint))
		}
		a := answered(t, m, log.ask(t, old))
		c := witness.Cosignature{Member: "cleveland", Endorsement: shown.Endorsement, Signature: shown.Signature, Line: a.Line}
		at, err := c.Check("hearts", identityKey.Public().(ed25519.PublicKey), witness.Text(log.Checkpoint()))
		if a.State != pb.CosignAnswer_STATE_COSIGNED || err != nil || !at.Equal(noon) {
			t.Errorf("process %d answers %v, cosigned at %s: %v", i, a, at, err)
		}
		if m.Kept() != log.Size() {
			t.Errorf("process %d keeps %d lines, want %d", i, m.Kept(), log.Size())
		}
		keys = append(keys, shown.Endorsement)
	}
	if slices.Sort(keys); len(slices.Compact(keys)) != 4 {
		t.Error("two processes cosign with the same key")
	}
}

// TestCosignRefuses asks for what a witness must not cosign. It answers with what it keeps and keeps it.
func TestCosignRefuses(t *testing.T) {
	first := newScribe(t, "consilium.dev/hearts", "a", "b", "c")
	disk, five := storetest.New(), first
	five.write(t, "d", "e")
	kept := five.ask(t, 0)
	if a := answered(t, remembered(t, disk), kept); a.State != pb.CosignAnswer_STATE_COSIGNED {
		t.Fatal(a)
	}
	five.write(t, "f", "g")
	other, lungs := newScribe(t, "consilium.dev/hearts", "a", "b", "c", "d", "e", "f"), newScribe(t, "consilium.dev/lungs", "a")
	edit := func(change func(*pb.CosignAsked)) *pb.CosignAsked {
		q := five.ask(t, 5)
		change(q)
		return q
	}
	const refused, stale = pb.CosignAnswer_STATE_REFUSED, pb.CosignAnswer_STATE_STALE
	for _, test := range []struct {
		name  string
		q     *pb.CosignAsked
		state pb.CosignAnswer_State
		says  string
	}{
		{"a log under another key", other.ask(t, 5), refused, "signed by another key"},
		{"another federation's log", lungs.ask(t, 0), refused, "signed by another key"},
		{"a key that is none", edit(func(q *pb.CosignAsked) { q.Verifier = "x" }), refused, "signed by another key"},
		{"a checkpoint that nobody signed", edit(func(q *pb.CosignAsked) { q.Checkpoint = []byte("consilium.dev/hearts\n9\n\n\n") }), refused, "checkpoint"},
		{"an altered checkpoint", edit(func(q *pb.CosignAsked) {
			q.Checkpoint = bytes.Replace(q.Checkpoint, []byte("\n7\n"), []byte("\n8\n"), 1)
		}), refused, "not signed"},
		{"a long checkpoint", edit(func(q *pb.CosignAsked) { q.Checkpoint = make([]byte, 4097) }), refused, "longer than any"},
		{"a long proof", edit(func(q *pb.CosignAsked) { q.Proof = make([][]byte, 129) }), refused, "longer than any"},
		{"a short hash", edit(func(q *pb.CosignAsked) { q.Proof[0] = q.Proof[0][1:] }), refused, "a hash of 31 bytes"},
		{"no proof", edit(func(q *pb.CosignAsked) { q.Proof = nil }), refused, "not shown"},
		{"from nothing", five.ask(t, 0), stale, "this witness has seen 5"},
		{"from another size", five.ask(t, 6), stale, "this witness has seen 5"},
		{"what it has passed", &pb.CosignAsked{Old: 3, Checkpoint: kept.Checkpoint, Verifier: five.verifier}, stale, "this witness has seen 5"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := remembered(t, disk)
			a := answered(t, m, test.q)
			if a.State != test.state || a.Line != "" || !bytes.Equal(a.Kept, kept.Checkpoint) || !strings.Contains(a.Reason, test.says) {
				t.Errorf("answer: %v, want %s that says %q", a, test.state, test.says)
			}
			if got := remembered(t, disk).Kept(); m.Kept() != 5 || got != 5 {
				t.Errorf("keeps %d lines, and %d on disk, want 5", m.Kept(), got)
			}
		})
	}
	fresh := remembered(t, storetest.New())
	if a := answered(t, fresh, lungs.ask(t, 0)); a.State != refused || !strings.Contains(a.Reason, `of the log "consilium.dev/lungs"`) {
		t.Errorf("a fresh witness answers another federation's log with %v", a)
	}
}

// TestForks shows a witness two histories that one key has signed, of every pair of sizes. It cosigns one of them.
func TestForks(t *testing.T) {
	disk, kek := storetest.New(), newSealer(t, 2)
	if _, err := ledger.OpenKey(t.Context(), disk, kek, "consilium.dev/hearts"); err != nil {
		t.Fatal(err)
	}
	r, err := disk.Get(t.Context(), "log.key")
	if err != nil {
		t.Fatal(err)
	}
	var key bytes.Buffer
	if _, err := key.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 5; n++ {
		for k := 1; k <= 5; k++ {
			var a, b []string
			for i := range max(n, k) {
				a, b = append(a, fmt.Sprint("a", i)), append(b, fmt.Sprint("b", i))
			}
			one, two := forged(t, key.Bytes(), a[:n]...), forged(t, key.Bytes(), b[:k]...)
			m := remembered(t, storetest.New())
			if x := answered(t, m, one.ask(t, 0)); x.State != pb.CosignAnswer_STATE_COSIGNED {
				t.Fatal(x)
			}
			for old := int64(0); old <= int64(k); old++ {
				if x := answered(t, m, two.ask(t, old)); x.State == pb.CosignAnswer_STATE_COSIGNED || x.Line != "" {
					t.Errorf("after %d lines another history of %d was cosigned, from %d", n, k, old)
				}
			}
			if x := answered(t, m, one.ask(t, int64(n))); x.State != pb.CosignAnswer_STATE_COSIGNED {
				t.Errorf("afterwards the first history: %v", x)
			}
		}
	}
}

// TestCosignCrash stops a witness at each call of its disk, before it has its effect and after, and starts another process. What was
// cosigned is kept, and what was kept without being cosigned is cosigned when it is asked for again.
func TestCosignCrash(t *testing.T) {
	for _, effect := range []storetest.Effect{storetest.Before, storetest.After} {
		for n := 1; ; n++ {
			disk, log := storetest.New(), newScribe(t, "consilium.dev/hearts", "a", "b", "c")
			m := remembered(t, disk)
			answered(t, m, log.ask(t, 0))
			log.write(t, "d")
			disk.FailFrom(n, effect)
			a, err := m.Answer(context.Background(), log.ask(t, 3), noon)
			if err == nil { // there are not so many calls
				if n < 3 {
					t.Errorf("a checkpoint was kept with %d calls of the disk", n-1)
				}
				break
			}
			disk.Heal()
			if err == nil || !participant.IsBroken(err) || a != nil {
				t.Errorf("%s call %d fails: answer %v, %v, want that the disk is broken", effect, n, a, err)
			}
			again := remembered(t, disk)
			if kept := again.Kept(); kept != 3 && kept != 4 {
				t.Errorf("%s call %d: the next process keeps %d lines, want 3 or 4", effect, n, kept)
			}
			if x := answered(t, again, log.ask(t, again.Kept())); x.State != pb.CosignAnswer_STATE_COSIGNED {
				t.Errorf("%s call %d: the next process answers %v", effect, n, x)
			}
			if kept := remembered(t, disk).Kept(); kept != 4 {
				t.Errorf("%s call %d: the process after it keeps %d lines, want 4", effect, n, kept)
			}
		}
	}
}

// TestDamagedMemory: a witness whose memory was altered does not begin as one without any.
func TestDamagedMemory(t *testing.T) {
	for name, damage := range map[string]func(text []byte) (string, []byte){
		"altered": func(text []byte) (string, []byte) {
			text[len(text)-1] ^= 1
			return "witness/00000000000000000003", text
		},
		"cut off":         func(text []byte) (string, []byte) { return "witness/00000000000000000003", text[:len(text)-1] },
		"another's place": func(text []byte) (string, []byte) { return "witness/00000000000000000004", text },
	} {
		t.Run(name, func(t *testing.T) {
			disk, log := storetest.New(), newScribe(t, "consilium.dev/hearts", "a", "b", "c")
			answered(t, remembered(t, disk), log.ask(t, 0))
			const object = "witness/00000000000000000003"
			r, err := disk.Get(t.Context(), object)
			if err != nil {
				t.Fatal(err)
			}
			var text bytes.Buffer
			if _, err := text.ReadFrom(r); err != nil {
				t.Fatal(err)
			}
			if err := disk.Delete(t.Context(), object); err != nil {
				t.Fatal(err)
			}
			as, bad := damage(text.Bytes())
			if err := disk.Put(t.Context(), store.Named(as), bytes.NewReader(bad)); err != nil {
				t.Fatal(err)
			}
			if _, err := remember(t, disk); !participant.IsBroken(err) {
				t.Errorf("a process over it starts with %v, want that the disk is broken", err)
			}
		})
	}
}

func FuzzRemembered(f *testing.F) {
	log := newScribe(f, "consilium.dev/hearts", "a")
	good := []byte("consilium.witness/1\n" + log.verifier + "\n" + string(log.Checkpoint()))
	begun := []byte("consilium.witness/2\n5\n" + log.verifier + "\n" + string(log.Checkpoint()))
	if again, err := participant.Recode(begun); err != nil || !bytes.Equal(again, begun) {
		f.Errorf("a checkpoint of a log that took the place of another is written %q, %v", again, err)
	}
	for _, text := range [][]byte{
		good, good[:len(good)-1], begun, bytes.Replace(begun, []byte("\n5\n"), []byte("\n05\n"), 1), []byte("consilium.witness/2\n0\n"), []byte("consilium.witness/1\n"), nil,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		again, err := participant.Recode(text)
		if err == nil && !bytes.Equal(again, text) {
			t.Errorf("%q was read, and is written %q", text, again)
		}
	})
}

// TestNewLog: where the members agree on a new log, a witness gives up what it has seen of the old one, once for each such epoch, and
// unless they name less of it than it has cosigned.
func TestNewLog(t *testing.T) {
	const cosigned, refused = pb.CosignAnswer_STATE_COSIGNED, pb.CosignAnswer_STATE_REFUSED
	old := newScribe(t, "consilium.dev/hearts", "a", "b", "c")
	head := manifest.OldLog{Lines: 3, Root: old.RootHash()}
	for name, test := range map[string]struct {
		named manifest.OldLog
		want  pb.CosignAnswer_State
	}{
		"all that it has seen":            {head, cosigned},
		"more":                            {manifest.OldLog{Lines: 4, Root: [32]byte{1}}, cosigned},
		"less":                            {manifest.OldLog{Lines: 2, Root: [32]byte{1}}, refused},
		"another history, as long as its": {manifest.OldLog{Lines: 3, Root: [32]byte{1}}, refused},
	} {
		disk := storetest.New()
		answered(t, remembered(t, disk), old.ask(t, 0))
		anew := newScribe(t, "consilium.dev/hearts", "x", "y", "z") // as long, so that nothing may go by the size alone
		m := remembered(t, disk)
		if a := answered(t, m, anew.ask(t, 0)); a.State != refused {
			t.Fatalf("before the members have agreed: %v", a)
		}
		m.Begin(5, test.named)
		if shown, err := m.Shown(noon); err != nil || (len(shown.Checkpoint) == 0) != (test.want == cosigned) {
			t.Errorf("%s: shows %q, %v", name, shown.Checkpoint, err)
		}
		if a := answered(t, m, anew.ask(t, 0)); a.State != test.want {
			t.Errorf("%s: the new log is answered %v", name, a)
		}
		if a := answered(t, m, old.ask(t, m.Kept())); (a.State == cosigned) == (test.want == cosigned) {
			t.Errorf("%s: then the old log is answered %v", name, a)
		}
		if test.want == refused {
			continue
		}
		// It is durable: the same epoch lets no third log begin, and a later one does.
		third := newScribe(t, "consilium.dev/hearts", "p")
		m = remembered(t, disk)
		m.Begin(5, test.named)
		if a := answered(t, m, third.ask(t, 0)); a.State != refused || m.Kept() != 3 {
			t.Errorf("%s: a third log is answered %v, kept are %d lines", name, a, m.Kept())
		}
		m.Begin(7, manifest.OldLog{Lines: 3, Root: anew.RootHash()})
		if a := answered(t, m, third.ask(t, 0)); a.State != cosigned || remembered(t, disk).Kept() != 1 {
			t.Errorf("%s: with a later epoch it is answered %v", name, a)
		}
	}
}

// TestLaterNewLogs: what a witness keeps is of the log which the first epoch with a new log ends. A later epoch, which ends another
// log, neither makes good what that one lacks nor takes away what it allows.
func TestLaterNewLogs(t *testing.T) {
	lost := newScribe(t, "consilium.dev/hearts", "a", "b", "c")
	head := manifest.OldLog{Lines: 3, Root: lost.RootHash()}
	second := newScribe(t, "consilium.dev/hearts", "x", "y", "z", "v", "w")
	short := newScribe(t, "consilium.dev/hearts", "x")
	named := func(s scribe, n int64) manifest.OldLog { return manifest.OldLog{Lines: n, Root: s.RootHash()} }
	for name, test := range map[string]struct {
		named []manifest.OldLog
		begun bool
	}{
		"the first names less, the next more of the second log": {[]manifest.OldLog{{Lines: 2, Root: [32]byte{1}}, named(second, 5)}, false},
		"the first names less, the next what is kept":           {[]manifest.OldLog{{Lines: 2, Root: [32]byte{1}}, head}, true},
		"the first names all, the next a second log, shorter":   {[]manifest.OldLog{head, named(short, 1)}, true},
	} {
		disk := storetest.New()
		answered(t, remembered(t, disk), lost.ask(t, 0))
		m := remembered(t, disk)
		m.Begin(5, test.named...)
		if begun := m.Kept() == 0; begun != test.begun {
			t.Errorf("%s: gives up what it has seen: %v, want %v", name, begun, test.begun)
		}
	}
}

// TestNewLogCrash stops a witness that goes over to a new log at each call of its disk. The next process is bound by the old log, or by
// the new one where that was kept.
func TestNewLogCrash(t *testing.T) {
	old := newScribe(t, "consilium.dev/hearts", "a", "b", "c")
	anew := newScribe(t, "consilium.dev/hearts", "x")
	head := manifest.OldLog{Lines: 3, Root: old.RootHash()}
	for _, effect := range []storetest.Effect{storetest.Before, storetest.After} {
		for n := 1; ; n++ {
			disk := storetest.New()
			m := remembered(t, disk)
			answered(t, m, old.ask(t, 0))
			m.Begin(5, head)
			disk.FailFrom(n, effect)
			_, err := m.Answer(context.Background(), anew.ask(t, 0), noon)
			disk.Heal()
			if err == nil {
				if n < 3 {
					t.Errorf("a checkpoint was kept with %d calls of the disk", n-1)
				}
				break
			}
			again := remembered(t, disk)
			kept := again.Kept()
			again.Begin(5, head)
			if a := answered(t, again, anew.ask(t, again.Kept())); a.State != pb.CosignAnswer_STATE_COSIGNED {
				t.Errorf("%s call %d: the next process, which kept %d lines, answers %v", effect, n, kept, a)
			}
			if kept := remembered(t, disk).Kept(); kept != 1 {
				t.Errorf("%s call %d: then %d lines are kept, want 1", effect, n, kept)
			}
		}
	}
}

package coordinator_test

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/blob"
	"consilium.dev/internal/control"
	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/participant"
	"consilium.dev/internal/round"
	pb "consilium.dev/proto/consilium/v1"
)

// next returns the manifest that follows m, with edits of its text.
func (r *realm) next(t testing.TB, m *manifest.Manifest, edits ...string) *manifest.Manifest {
	t.Helper()
	d := m.Digest()
	return r.manifestOf(t, append(edits, "epoch: 1\n", fmt.Sprintf("epoch: %d\n", m.Epoch()+1), `prev: ""`, `prev: "`+hex.EncodeToString(d[:])+`"`)...)
}

// publish hands a manifest to the coordinator as a person who is at the world's epoch, which is the new one from then on.
func (w *world) publish(m *manifest.Manifest) {
	w.t.Helper()
	r, err := pb.NewFederationClient(w.person("cara").conn).Publish(w.t.Context(), &pb.PublishRequest{Envelope: m.Envelope()})
	if err != nil {
		w.t.Fatal(err)
	}
	if d := m.Digest(); r.Epoch != m.Epoch() || string(r.Manifest) != string(d[:]) || !r.Adopted {
		w.t.Errorf("Publish = epoch %d, %x, adopted %v, want epoch %d, adopted by it", r.Epoch, r.Manifest, r.Adopted, m.Epoch())
	}
	w.manifest = m
}

// without are the edits by which a member is in the manifest no more.
func without(member string) []string {
	return []string{
		fmt.Sprintf("  - {name: %s, governance", member), fmt.Sprintf("#  - {name: %s, governance", member),
		"member: " + member, "member: cleveland",
	}
}

// TestEpoch publishes a manifest while a run trains: everybody follows without anybody's help, the open try costs none, and the
// model has the bits of a run that nobody disturbed. A restart, with the configuration of before, goes on where it was.
func TestEpoch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		one := w.manifest
		council := w.serve()
		w.joinAll()
		undisturbed := w.completed(w.start(plan(t, adam, func(p *entry.Plan) { p.Name, p.Tries = "undisturbed", 1 })))

		run := w.start(plan(t, adam, func(p *entry.Plan) { p.Name, p.Tries = "epochs", 1 }))
		w.books["council"].await(t, "update accepted", "run", run, "round", "1")
		before := time.Now()
		two := w.realm.next(t, one, "rounds_max: 200", "rounds_max: 199")
		w.publish(two)
		for _, m := range hospitals {
			w.books[m].await(t, "manifest adopted", "epoch", "2")
			w.books["council"].awaitMany(t, 2, "admitted", "name", m)
		}
		if took := time.Since(before); took > 15*time.Second {
			t.Errorf("it took %v until all had followed, want one heartbeat at most", took)
		}
		disturbed := w.completed(run)
		if got, want := final(disturbed), final(undisturbed); got != want {
			t.Errorf("the model is %s, and %s of a run that saw one epoch", got.Short(), want.Short())
		}
		for _, f := range only[entry.RoundFailed](w.facts()) {
			if !f.Spared || f.Run != run || f.Try != 1 {
				t.Errorf("%+v, want tries that cost none", f)
			}
		}

		// The coordinator and a member come back with what they were configured with.
		council.stop()
		w.books["council"], w.books["budapest"] = newBook(), newBook()
		w.manifest = one
		w.serve()
		w.join("budapest")
		w.books["council"].await(t, "serving", "epoch", "2")
		w.books["council"].await(t, "admitted", "name", "budapest")
		if found := w.books["budapest"].find("manifest adopted"); len(found) != 0 {
			t.Errorf("budapest adopted again what lies on its disk: %v", found)
		}
		w.manifest = two
		adopted := only[entry.ManifestAdopted](w.facts())
		if len(adopted) != 2 || adopted[0].Enclave != nil || adopted[1].Enclave == nil || len(adopted[1].Members) != 4 {
			t.Errorf("adopted were %+v, want epoch 1 at a boot, and epoch 2 with the enclave's evidence", adopted)
		}
		w.completed(w.start(plan(t, adam, func(p *entry.Plan) { p.Name = "after" })))
	})
}

// TestRevoked cuts a member that a new manifest does not name; the others go on, and one that is new is asked from the next run on.
func TestRevoked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, append(without("switzerland"), "threshold: 3", "threshold: 2")...)
		one := w.manifest
		w.serve()
		for _, m := range hospitals[:3] {
			w.join(m)
		}
		run := w.start(plan(t, adam, func(p *entry.Plan) { p.Rounds, p.Quorum, p.Members = 6, 2, nil }))
		w.books["council"].await(t, "round closed", "run", run, "round", "1")
		cut := w.connect(attest.Participant, "longbeach")
		stream, err := cut.Follow(t.Context(), &pb.FollowRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		two := w.realm.next(t, one, append(without("longbeach"), "threshold: 3", "threshold: 2")...)
		w.publish(two)
		for err == nil {
			_, err = stream.Recv()
		}
		if took := time.Since(began); took > time.Second { // and not only when the epoch's last connection ends
			t.Errorf("the member that is gone was cut after %v, want at once", took)
		}
		w.join("switzerland", func(o *participant.Options) { o.Manifest = two })
		v := w.completed(run)
		last := v.Rounds[len(v.Rounds)-1]
		if got := strings.Join(last.Accepted, " "); got != "budapest cleveland" && got != "cleveland budapest" {
			t.Errorf("the last round was closed with %q, want without the member that is gone and the one that came", got)
		}
		for _, m := range v.Members {
			if want := map[bool]string{true: "left", false: "consented"}[m.Member == "longbeach"]; m.State != want {
				t.Errorf("%s has %s, want %s", m.Member, m.State, want)
			}
		}
		w.books["longbeach"].await(t, "manifest adopted", "epoch", "2")
		v = w.completed(w.start(plan(t, adam, func(p *entry.Plan) { p.Name, p.Quorum = "second", 3 })))
		var names []string
		for _, m := range v.Members {
			names = append(names, m.Member)
		}
		if slices.Sort(names); strings.Join(names, " ") != "budapest cleveland switzerland" {
			t.Errorf("the next run asked %q", names)
		}
	})
}

// TestPublishRefuses: nothing is adopted that does not follow, nor what would leave the federation without its coordinator. What
// was adopted may be published again.
func TestPublishRefuses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		one := w.manifest
		w.serve()
		two := w.realm.next(t, one)
		ada := pb.NewFederationClient(w.person("ada").conn)
		for _, c := range []struct {
			name string
			text []byte
			code codes.Code
			want string
		}{
			{"nothing", nil, codes.InvalidArgument, "envelope"},
			{"a payload", two.Payload(), codes.InvalidArgument, "envelope"},
			{"too few signatures", signedBy(t, two, "budapest", "longbeach"), codes.InvalidArgument, "needs the signatures of 3 of its 4 members, it has 2"},
			{"an epoch left out", w.realm.next(t, two).Envelope(), codes.InvalidArgument, "is of epoch 3, want 2"},
			{"another one before it", w.realm.next(t, w.realm.manifestOf(t, "rounds_max: 200", "rounds_max: 7")).Envelope(), codes.InvalidArgument, "the successor follows"},
			{"another federation", w.realm.next(t, one, "four-hospitals", "five-hospitals").Envelope(), codes.InvalidArgument, "of the federation five-hospitals"},
			{"another build of the coordinator", w.realm.next(t, one, "<launched>", strings.Repeat("ab", 48)).Envelope(), codes.FailedPrecondition, "the own enclave does not pass the manifest of epoch 2"},
			{"a new log", w.realm.next(t, one, "roots:", `old_log: {lines: 3, root: "`+strings.Repeat("ab", 32)+"\"}\nroots:").Envelope(), codes.FailedPrecondition, "a new log begins with epoch 2, and this coordinator has the log of before"},
			{"another key of the coordinator", w.realm.next(t, one, "<coordinator/council>", textOf(t, "coordinator/other")).Envelope(), codes.FailedPrecondition, "does not give the key"},
		} {
			r, err := ada.Publish(t.Context(), &pb.PublishRequest{Envelope: c.text})
			if status.Code(err) != c.code || !strings.Contains(status.Convert(err).Message(), c.want) {
				t.Errorf("%s: %v, %v, want %v and %q", c.name, r, err, c.code, c.want)
			}
		}
		if n := len(only[entry.ManifestAdopted](w.facts())); n != 1 {
			t.Errorf("%d manifests were adopted, want the first", n)
		}
		w.publish(two)
		for _, again := range []*manifest.Manifest{two, one} {
			r, err := pb.NewFederationClient(w.person("cara").conn).Publish(t.Context(), &pb.PublishRequest{Envelope: again.Envelope()})
			if err != nil || r.Adopted || r.Epoch != again.Epoch() {
				t.Errorf("epoch %d again: %v, %v, want no error and nothing new", again.Epoch(), r, err)
			}
		}
		got, err := pb.NewFederationClient(w.person("cara").conn).Manifest(t.Context(), &pb.ManifestRequest{Epoch: 1})
		if err != nil || string(got.Envelope) != string(one.Envelope()) {
			t.Errorf("Manifest(1) = %v", err)
		}
		if n := len(only[entry.ManifestAdopted](w.facts())); n != 2 {
			t.Errorf("%d manifests were adopted, want two", n)
		}
	})
}

// textOf returns somebody's public key as manifests spell it.
func textOf(t testing.TB, who string) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(keyOf(who).Public())
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(der)
}

// signedBy returns an envelope of m with the signatures of those members alone.
func signedBy(t testing.TB, m *manifest.Manifest, members ...string) []byte {
	t.Helper()
	var envelope []byte
	for _, name := range members {
		var err error
		if envelope, err = manifest.Sign(envelope, m.Payload(), keyOf("governance/"+name)); err != nil {
			t.Fatal(err)
		}
	}
	return envelope
}

// TestBehind: a coordinator that is behind its members adopts what they have adopted, from the first of them that dials.
func TestBehind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		one := w.manifest
		w.serve()
		two := w.realm.next(t, one)
		w.join("budapest", func(o *participant.Options) { o.Manifest = two })
		w.books["council"].await(t, "manifest adopted", "epoch", "2")
		w.join("cleveland")
		w.books["cleveland"].await(t, "manifest adopted", "epoch", "2")
		w.manifest = two
		w.books["council"].await(t, "admitted", "name", "cleveland")
		w.books["council"].await(t, "newer manifests sent", "level", "info", "office", "participant", "name", "cleveland")
		if found := w.books["council"].find("peer refused"); len(found) != 0 {
			t.Errorf("members that follow are alarmed about: %v", found)
		}
	})
}

// TestPortProbe: who only looks whether the port is open is no peer that was refused; who sends something else than TLS is.
func TestPortProbe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve()
		probe := func(sent string) {
			conn, err := w.line.dial(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait() // it is listened to: no deadline can be set on a pipe that has an end closed, and a socket's can
			if sent != "" {
				if _, err := conn.Write([]byte(sent)); err != nil {
					t.Error(err)
				}
			}
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
			synctest.Wait()
		}
		probe("")
		w.books["council"].await(t, "connection closed without a byte", "level", "debug")
		if found := w.books["council"].find("peer refused"); len(found) != 0 {
			t.Errorf("a port probe is alarmed about: %v", found)
		}
		probe("G")
		w.books["council"].await(t, "peer refused", "level", "warn", "class", "TLS", "office", "unnamed")
	})
}

// TestConfigured: the configured manifest is the anchor. It may be one that was adopted, or the next; a coordinator or a member
// that has adopted others does not begin.
func TestConfigured(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		one := w.manifest
		two := w.realm.next(t, one)
		three := w.realm.next(t, two)
		sibling := w.realm.next(t, one, "rounds_max: 200", "rounds_max: 7")
		council := w.serve()
		budapest := w.join("budapest")
		w.books["council"].await(t, "admitted", "name", "budapest")
		council.stop()
		budapest.stop()

		began := func(m *manifest.Manifest) error {
			p := w.serve(func(o *coordinator.Options) { o.Manifest = m })
			return p.wait()
		}
		for _, c := range []struct {
			name string
			m    *manifest.Manifest
			want string
		}{
			{"an epoch too many", three, "is of epoch 3, want 2"},
			{"another federation's", w.realm.manifestOf(t, "rounds_max: 200", "rounds_max: 9"), "nor the next"},
		} {
			if err := began(c.m); err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, round.ErrOtherLog) {
				t.Errorf("%s: %v, want %q", c.name, err, c.want)
			}
		}
		// The next one is adopted at start, and everything goes on.
		w.books["council"] = newBook()
		council = w.serve(func(o *coordinator.Options) { o.Manifest = two })
		w.books["council"].await(t, "serving", "epoch", "2")
		budapest = w.join("budapest")
		w.books["budapest"].await(t, "manifest adopted", "epoch", "2")
		w.books["council"].await(t, "admitted", "name", "budapest")
		council.stop()
		budapest.stop()
		if err := began(sibling); err == nil || !strings.Contains(err.Error(), "nor the next") {
			t.Errorf("another manifest of the epoch: %v", err)
		}
		if err := w.join("budapest", func(o *participant.Options) { o.Manifest = sibling }).wait(); err == nil ||
			!strings.Contains(err.Error(), "the configured manifest is of epoch 2, and epoch 2 was adopted") {
			t.Errorf("a member with another manifest of the epoch: %v", err)
		}
		w.books["budapest"] = newBook()
		budapest = w.join("budapest", func(o *participant.Options) { o.Manifest = three })
		w.books["budapest"].await(t, "no coordinator")
		budapest.stop()

		// A manifest that is missing beside the log, or is another one, is found.
		d := w.disks["council"]
		name := "manifest/" + entry.Digest(two.Digest()).String()
		if err := d.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		if err := began(one); err == nil || !strings.Contains(err.Error(), "the manifest of epoch 2: object "+name+": does not exist") {
			t.Errorf("a manifest is missing: %v", err)
		}
		if err := blob.New(d, d.kek).PutNamed(t.Context(), name, sibling.Envelope()); err != nil {
			t.Fatal(err)
		}
		if err := began(one); err == nil || !strings.Contains(err.Error(), "the log has adopted") {
			t.Errorf("another manifest lies there: %v", err)
		}
	})
}

// TestEpochFence: what a member said under an epoch does not count once the next is adopted, though it was under way.
func TestEpochFence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		_, c := w.served()
		w.publish(w.realm.next(t, w.manifest))
		if err := c.DecideAs(t.Context(), 1, round.Consent{Run: "x", Member: "longbeach", Records: 1}); !errors.Is(err, coordinator.ErrEpoch) {
			t.Errorf("a consent of epoch 1 in epoch 2: %v, want %v", err, coordinator.ErrEpoch)
		}
		if err := c.DecideAs(t.Context(), 2, round.Consent{Run: "x", Member: "longbeach", Records: 1}); !errors.Is(err, round.ErrUnknownRun) {
			t.Errorf("a consent of epoch 2: %v, want %v", err, round.ErrUnknownRun)
		}
	})
}

// TestAsk: a member whose owner is asked stays behind until he has accepted, and takes part again within seconds then, also where a
// restart comes in between. What lies on the disk is no answer, nor is the digest of a manifest that does not wait; who accepts an epoch accepts what it follows.
func TestAsk(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		tray := filepath.Join(t.TempDir(), "adopt")
		one := w.manifest
		var desk *pipes
		asks := func(o *participant.Options) {
			desk = newPipes()
			o.Manifest, o.Policy.Adopt, o.Tray, o.Control = one, "ask", tray, desk
		}
		tell := func(q control.Question) error { return w.tell(desk, q) }
		w.serve()
		for _, m := range hospitals[1:] {
			w.join(m)
		}
		budapest := w.join("budapest", asks)
		w.books["council"].await(t, "admitted", "name", "budapest")
		w.publish(w.realm.next(t, w.manifest))
		two := w.manifest
		w.publish(w.realm.next(t, two))
		three := w.manifest
		said := w.books["budapest"].await(t, "a newer manifest waits for its owner: read it, then participant accept DIGEST", "epoch", "3")
		path := filepath.Join(tray, "epoch-3.dsse.json")
		if said["file"] != path {
			t.Errorf("the owner is told of %v, want %s", said["file"], path)
		}
		for file, m := range map[string]*manifest.Manifest{path: three, filepath.Join(tray, "epoch-2.dsse.json"): two} {
			if text, err := os.ReadFile(file); err != nil || string(text) != string(m.Envelope()) {
				t.Errorf("%s is not the signed manifest: %v", file, err)
			}
		}
		v := w.completed(w.start(plan(t, adam, func(p *entry.Plan) { p.Quorum = 3 })))
		if got := fmt.Sprint(v.Rounds[len(v.Rounds)-1].Accepted); strings.Contains(got, "budapest") {
			t.Errorf("a member whose owner has not answered takes part: %s", got)
		}

		// A file beside it is no answer, and another digest names none that waits.
		if err := os.WriteFile(filepath.Join(tray, "epoch-3.accepted"), []byte(entry.Digest(three.Digest()).String()+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := tell(control.Question{Verb: "accept", Manifest: entry.Digest(one.Digest()).String()}); err != nil {
			t.Errorf("accepting what holds already: %v", err)
		}
		if err := tell(control.Question{Verb: "accept", Manifest: strings.Repeat("00", 32)}); err == nil || !strings.Contains(err.Error(), "waits for its owner") {
			t.Errorf("accepting what nobody has signed: %v", err)
		}
		budapest.stop()
		w.books["budapest"] = newBook()
		w.join("budapest", asks)
		w.books["budapest"].await(t, "no coordinator")
		time.Sleep(time.Minute)
		if found := w.books["budapest"].find("manifest adopted"); len(found) > 0 {
			t.Fatalf("adopted without an answer: %v", found)
		}
		if err := tell(control.Question{Verb: "accept", Manifest: entry.Digest(three.Digest()).String()}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		w.books["budapest"].await(t, "following")
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("the member follows %v after the answer, want seconds", took)
		}
		if found := w.books["budapest"].find("manifest adopted"); len(found) != 2 {
			t.Errorf("adopted %v, want epochs 2 and 3", found)
		}
		if left, err := os.ReadDir(tray); err != nil || len(left) != 1 { // but for the stranger's file
			t.Errorf("what was adopted still lies before the owner: %v, %v", left, err)
		}
	})
}

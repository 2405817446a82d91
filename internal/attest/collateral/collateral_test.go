package collateral_test

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"io/fs"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/collateral"
	"consilium.dev/internal/attest/dcap/dcaptest"
	"consilium.dev/internal/attest/sgx"
	"consilium.dev/internal/attest/tdx"
)

// prefix is what names of the test PKI's pieces begin with, a private root's.
var prefix = attest.SimulatedPrefix("test")

// served is a verifier for whose pieces of the private root somebody hands out what a maker would.
type served struct{ attest.Reader }

func (s served) Source(name string) (attest.Service, string, bool) {
	return s.Reader.Source(strings.TrimPrefix(name, prefix))
}

func verifiers(t testing.TB) []attest.Verifier {
	t.Helper()
	roots := map[string]*x509.Certificate{"test": dcaptest.Trusted().Root.Certificate}
	v, err := tdx.NewVerifier(tdx.Options{SimulatedRoots: roots})
	if err != nil {
		t.Fatal(err)
	}
	w, err := sgx.NewVerifier(sgx.Options{SimulatedRoots: roots})
	if err != nil {
		t.Fatal(err)
	}
	return []attest.Verifier{served{v}, served{w}}
}

// maker is a server with the paths of Intel's and AMD's services.
type maker struct {
	*httptest.Server
	mu    sync.Mutex
	files map[string]answer // by path and query
	asked map[string]int
	wait  chan struct{} // what an answer waits for, where it is not nil
}

type answer struct {
	body   []byte
	header string // name of the header with the issuers
	chain  []byte
}

func newMaker(t testing.TB) *maker {
	t.Helper()
	m := &maker{files: map[string]answer{}, asked: map[string]int{}}
	m.Server = httptest.NewServer(http.HandlerFunc(m.answer))
	t.Cleanup(m.Close)
	return m
}

func (m *maker) answer(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	m.asked[r.URL.RequestURI()]++
	a, ok := m.files[r.URL.RequestURI()]
	wait := m.wait
	m.mu.Unlock()
	if wait != nil {
		<-wait
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	if a.header != "" {
		w.Header().Set(a.header, url.QueryEscape(string(a.chain)))
	}
	_, _ = w.Write(a.body)
}

func (m *maker) put(path string, a answer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files[path] = a
}

func (m *maker) questions() map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := map[string]int{}
	maps.Copy(all, m.asked)
	return all
}

// serve lays out what a scene's platform needs, at Intel's paths.
func (m *maker) serve(s *dcaptest.Scene) {
	tee := s.Type.String()
	signer := dcaptest.PEM(s.Signer.Raw, s.Root.Raw)
	m.put("/"+tee+"/certification/v4/tcb?fmspc="+hex.EncodeToString(dcaptest.FMSPC), answer{s.InfoItem().Bytes, "TCB-Info-Issuer-Chain", signer})
	m.put("/"+tee+"/certification/v4/qe/identity", answer{s.IdentityItem().Bytes, "SGX-Enclave-Identity-Issuer-Chain", signer})
	m.put("/sgx/certification/v4/pckcrl?ca=platform&encoding=der", answer{s.Lists[1].Bytes, "SGX-PCK-CRL-Issuer-Chain", dcaptest.PEM(s.Issuer.Raw, s.Root.Raw)})
	m.put("/sgx/certification/v4/rootcacrl", answer{body: []byte(hex.EncodeToString(s.Lists[0].Bytes))})
}

func (m *maker) service(t testing.TB) *collateral.Service {
	t.Helper()
	s, err := collateral.NewService(m.URL, m.URL, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// site is a cache with the verifiers that judge by it.
type site struct {
	*collateral.Cache
	folder string
	log    *observer.ObservedLogs
	tdx    attest.Verifier
	at     time.Time
}

// newSite opens a cache; service is nil where there is no network.
func newSite(t testing.TB, folder string, service *collateral.Service) *site {
	t.Helper()
	core, log := observer.New(zap.InfoLevel)
	s := &site{folder: folder, log: log, at: dcaptest.Now}
	c, err := collateral.Open(collateral.Options{Folder: folder, Service: service, Now: func() time.Time { return s.at }, Log: zap.New(core)}, verifiers(t))
	if err != nil {
		t.Fatal(err)
	}
	all, err := c.Verifiers(verifiers(t))
	if err != nil {
		t.Fatal(err)
	}
	s.Cache, s.tdx = c, all[0]
	return s
}

func (s *site) judge(t testing.TB, scene *dcaptest.Scene, c attest.Collateral) (attest.Claims, error) {
	t.Helper()
	return s.tdx.Verify(t.Context(), attest.Evidence{Type: attest.TDX, Body: scene.Quote(), Collateral: c}, scene.Binding, s.at, nil)
}

// judgeOf is judge for evidence that the participant of that name shows.
func (s *site) judgeOf(t testing.TB, name string, scene *dcaptest.Scene, c attest.Collateral) (attest.Claims, error) {
	t.Helper()
	ctx := attest.ForPeer(t.Context(), attest.Peer{Office: attest.Participant, Name: name})
	return s.tdx.Verify(ctx, attest.Evidence{Type: attest.TDX, Body: scene.Quote(), Collateral: c}, scene.Binding, s.at, nil)
}

// numbered gives a scene's documents that number, and its lists too.
func numbered(n int) *dcaptest.Scene {
	s := dcaptest.NewTDX()
	s.Info["tcbEvaluationDataNumber"], s.Identity["tcbEvaluationDataNumber"] = n, n
	number := func(l *x509.RevocationList) { l.Number = big.NewInt(int64(n)) }
	s.Lists = attest.Collateral{dcaptest.List(s.Root, number), dcaptest.List(s.Issuer, number)}
	return s
}

func names() []string {
	fmspc := hex.EncodeToString(dcaptest.FMSPC)
	return []string{prefix + "intel-platform.crl", prefix + "intel-root.crl", prefix + "tdx-" + fmspc + "-qe_identity.json", prefix + "tdx-" + fmspc + "-tcb_info.json"}
}

func wantClass(t *testing.T, err error, want attest.Class) {
	t.Helper()
	var refusal *attest.Error
	if !errors.As(err, &refusal) || refusal.Class != want {
		t.Errorf("%v, want the class %s", err, want)
	}
}

func wantChecked(t *testing.T, c attest.Claims, err error, number string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	var want []attest.Number
	for _, name := range names() {
		want = append(want, attest.Number{Name: name, Number: number})
	}
	if !c.RevocationChecked || !c.TDX.Platform.TCB.Checked || !slices.Equal(c.Numbers, want) {
		t.Errorf("revocation checked %t, TCB checked %t, numbers %v, want %v", c.RevocationChecked, c.TDX.Platform.TCB.Checked, c.Numbers, want)
	}
}

// TestFetches: a quote alone is judged by what is fetched, once; by what is kept when the service is gone and the program starts again;
// and an auditor judges it, years later, by what the claims say it was judged by.
func TestFetches(t *testing.T) {
	m := newMaker(t)
	scene := numbered(18)
	m.serve(scene)
	folder := filepath.Join(t.TempDir(), "collateral")
	s := newSite(t, folder, m.service(t))
	claims, err := s.judge(t, scene, nil)
	wantChecked(t, claims, err, "18")
	if len(claims.Judged) == 0 {
		t.Fatal("claims do not say by what the quote was judged")
	}
	plain := verifiers(t)[0]
	again, err := plain.Verify(t.Context(), attest.Evidence{Type: attest.TDX, Body: scene.Quote(), Collateral: claims.Judged}, scene.Binding, s.at, nil)
	wantChecked(t, again, err, "18")
	if claims, err = s.judge(t, scene, nil); err != nil {
		t.Fatal(err)
	}
	for path, n := range m.questions() {
		if n != 1 {
			t.Errorf("%s was asked for %d times", path, n)
		}
	}
	if n := len(m.questions()); n != 4 {
		t.Errorf("%d questions, want 4: %v", n, m.questions())
	}

	m.Close()
	offline := newSite(t, folder, m.service(t))
	claims, err = offline.judge(t, scene, nil)
	wantChecked(t, claims, err, "18")
	err = filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		i, err := d.Info()
		if err == nil && i.Mode().Perm() != 0o600 {
			t.Errorf("%s has the mode %o", path, i.Mode().Perm())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestTogether: many that need the same thing at the same time ask for it once.
func TestTogether(t *testing.T) {
	scene := numbered(18)
	folder := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m := &maker{files: map[string]answer{}, asked: map[string]int{}, wait: make(chan struct{})}
		m.serve(scene)
		lis := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		server := &http.Server{Handler: http.HandlerFunc(m.answer)}
		var served sync.WaitGroup
		served.Go(func() { _ = server.Serve(lis) })
		service, err := collateral.NewService("http://localhost:1", "http://localhost:1", "", lis.dial)
		if err != nil {
			t.Fatal(err)
		}
		s := newSite(t, folder, service)
		all, err := s.Want(attest.Evidence{Type: attest.TDX, Body: scene.Quote()})
		if err != nil {
			t.Fatal(err)
		}
		var group sync.WaitGroup
		for range 8 {
			group.Go(func() {
				if _, err := s.Fetch(t.Context(), all); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait() // all wait for an answer, or for who does
		if n := total(m); n != 4 {
			t.Errorf("%d questions, want 4", n)
		}
		close(m.wait)
		group.Wait()
		claims, err := s.judge(t, scene, nil)
		wantChecked(t, claims, err, "18")
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		service.Close()
		served.Wait()
	})
}

// pipes is a listener without a network.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) dial(ctx context.Context, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

// TestPairs: TCB info and QE identity of two recoveries are no pair: neither is taken, and what is kept stays.
func TestPairs(t *testing.T) {
	m := newMaker(t)
	scene := numbered(18)
	m.serve(scene)
	s := newSite(t, t.TempDir(), m.service(t))
	if _, err := s.judge(t, scene, nil); err != nil {
		t.Fatal(err)
	}
	mixed := numbered(19)
	mixed.Identity = scene.Identity
	m.serve(mixed)
	if err := s.Refresh(t.Context()); err == nil || !strings.Contains(err.Error(), "of two recoveries") {
		t.Errorf("fetched a pair of the numbers 19 and 18: %v", err)
	}
	for _, p := range s.Show().Pieces {
		if want := map[bool]string{true: "19", false: "18"}[filepath.Ext(p.Name) == ".crl"]; p.Number != want {
			t.Errorf("%s has the number %s, want %s", p.Name, p.Number, want)
		}
	}
}

// TestRolledBack: what has a lower number than was ever seen is refused, in its class, also by the next process, and also where the piece
// that had the number is gone.
func TestRolledBack(t *testing.T) {
	old := numbered(17)
	for _, c := range []struct {
		name  string
		class attest.Class
		lower func(s *dcaptest.Scene) attest.Collateral
	}{
		{"lists", attest.ClassRevoked, func(s *dcaptest.Scene) attest.Collateral { s.Lists = old.Lists; return s.Collateral() }},
		{"documents", attest.ClassTime, func(s *dcaptest.Scene) attest.Collateral {
			s.Info, s.Identity = old.Info, old.Identity
			return s.Collateral()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			folder := t.TempDir()
			s := newSite(t, folder, nil)
			newer := numbered(18)
			claims, err := s.judge(t, newer, newer.Collateral())
			wantChecked(t, claims, err, "18")
			if claims.Judged != nil {
				t.Error("claims name other collateral than came")
			}

			// What is kept and newer is used in place of what came.
			lower := c.lower(numbered(18))
			claims, err = s.judge(t, newer, lower)
			wantChecked(t, claims, err, "18")

			for _, name := range names() {
				if err := os.Remove(filepath.Join(folder, name)); err != nil {
					t.Fatal(err)
				}
			}
			next := newSite(t, folder, nil)
			_, err = next.judge(t, newer, lower)
			wantClass(t, err, c.class)
			claims, err = next.judge(t, newer, numbered(18).Collateral())
			wantChecked(t, claims, err, "18")
		})
	}
}

// TestRunsOut: what has run out is not used, though its number counts; and nobody is refused for it who brings what holds.
func TestRunsOut(t *testing.T) {
	s := newSite(t, t.TempDir(), nil)
	short := numbered(18)
	if _, err := s.judge(t, short, short.Collateral()); err != nil {
		t.Fatal(err)
	}
	s.at = s.at.AddDate(0, 0, 2) // the lists hold for a day
	claims, err := s.judge(t, short, nil)
	if err != nil || claims.RevocationChecked || !claims.TDX.Platform.TCB.Checked {
		t.Errorf("%v, revocation checked %t, TCB checked %t; want a TCB that is known and no revocation lists", err, claims.RevocationChecked, claims.TDX.Platform.TCB.Checked)
	}
}

// TestSites: what one site exports another takes in without a network, each piece for its signature and none with a lower number.
func TestSites(t *testing.T) {
	m := newMaker(t)
	scene := numbered(18)
	m.serve(scene)
	hub := newSite(t, t.TempDir(), m.service(t))
	if _, err := hub.judge(t, scene, nil); err != nil {
		t.Fatal(err)
	}
	stick := filepath.Join(t.TempDir(), "stick")
	exported, err := hub.Export(stick)
	if err != nil || !slices.Equal(exported, names()) {
		t.Fatalf("exported %v, %v", exported, err)
	}
	if _, err := hub.Export(stick); !errors.Is(err, fs.ErrExist) {
		t.Errorf("exporting over it: %v", err)
	}

	clinic := newSite(t, t.TempDir(), nil)
	done, err := clinic.Import(stick)
	if err != nil || !slices.Equal(done.Fresh, names()) || len(done.Refused) > 0 {
		t.Fatalf("imported %+v, %v", done, err)
	}
	if done, err = clinic.Import(stick); err != nil || !slices.Equal(done.Same, names()) {
		t.Errorf("imported again: %+v, %v", done, err)
	}
	claims, err := clinic.judge(t, scene, nil)
	wantChecked(t, claims, err, "18")

	// Another clinic has seen more, and a stick may be anybody's.
	ahead := newSite(t, t.TempDir(), nil)
	newer := numbered(19)
	if _, err := ahead.judge(t, newer, newer.Collateral()); err != nil {
		t.Fatal(err)
	}
	done, err = ahead.Import(stick)
	if err != nil || len(done.Fresh) > 0 || len(done.Refused) != 4 {
		t.Errorf("imported what is older: %+v, %v", done, err)
	}
	forged := numbered(20)
	forged.InfoBy, forged.IdentityBy = dcaptest.Stranger().TCBSigning, dcaptest.Stranger().TCBSigning
	forge(t, stick, prefix+"tdx-"+hex.EncodeToString(dcaptest.FMSPC)+"-tcb_info.json", forged.InfoItem().Bytes)
	forge(t, stick, prefix+"intel-root.crl", dcaptest.List(dcaptest.Stranger().Root).Bytes)
	third := newSite(t, t.TempDir(), nil)
	done, err = third.Import(stick)
	if err != nil || !slices.Equal(done.Fresh, names()[:1]) || len(done.Refused) != 3 {
		t.Errorf("imported what is forged: %+v, %v", done, err)
	}
}

func write(folder, name string, content []byte) bool {
	return os.WriteFile(filepath.Join(folder, name), content, 0o600) == nil
}

func forge(t *testing.T, folder, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestCorrupted: a file that is not what it was is refused, told, and fetched again.
func TestCorrupted(t *testing.T) {
	m := newMaker(t)
	scene := numbered(18)
	m.serve(scene)
	folder := t.TempDir()
	if _, err := newSite(t, folder, m.service(t)).judge(t, scene, nil); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(folder, names()[0])
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	whole := slices.Clone(raw)
	raw[len(raw)-1] ^= 1 // of the signature
	forge(t, folder, names()[0], raw)
	s := newSite(t, folder, m.service(t))
	if refused := s.Show().Refused; len(refused) != 1 || refused[0].Name != names()[0] {
		t.Errorf("refused %+v", refused)
	}
	if s.log.FilterMessage("a file of collateral is not used").Len() == 0 {
		t.Error("the log does not say that a file is not used")
	}
	if err := s.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(path); err != nil || !slices.Equal(again, whole) || len(s.Show().Refused) != 0 {
		t.Errorf("the file was not fetched again: %v, %+v", err, s.Show().Refused)
	}
}

// TestOutage: what cannot be fetched is told once, what is kept is used, and the service is asked again only after a pause that grows.
func TestOutage(t *testing.T) {
	m := newMaker(t)
	scene := numbered(18)
	m.serve(scene)
	s := newSite(t, t.TempDir(), m.service(t))
	if _, err := s.judge(t, scene, nil); err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	m.files = map[string]answer{}
	m.mu.Unlock()
	told := func() int { return s.log.FilterMessageSnippet("collateral cannot be fetched").Len() }
	for i, step := range []struct {
		after time.Duration
		asks  bool
	}{{0, true}, {59 * time.Second, false}, {time.Second, true}, {119 * time.Second, false}, {time.Second, true}} {
		s.at = s.at.Add(step.after)
		before := total(m)
		err := s.Refresh(t.Context())
		if asks := total(m) > before; asks != step.asks || (err != nil) != step.asks {
			t.Errorf("step %d: asked %t, %v; want %t", i, asks, err, step.asks)
		}
		if told() != 4 {
			t.Errorf("step %d: told %d times, want once for each of 4 pieces", i, told())
		}
		claims, err := s.judge(t, scene, nil)
		wantChecked(t, claims, err, "18")
	}
	m.serve(scene)
	s.at = s.at.Add(time.Hour)
	if err := s.Refresh(t.Context()); err != nil || len(s.Show().Missing) != 0 {
		t.Errorf("%v, missing %v", err, s.Show().Missing)
	}
}

func total(m *maker) int {
	n := 0
	for _, asked := range m.questions() {
		n += asked
	}
	return n
}

// TestWarns: what runs out is told once, a half of its time ahead where it is made for less than 60 days.
func TestWarns(t *testing.T) {
	s := newSite(t, t.TempDir(), nil)
	scene := numbered(18)
	if _, err := s.judge(t, scene, scene.Collateral()); err != nil {
		t.Fatal(err)
	}
	told := func() int { return s.log.FilterMessageSnippet("collateral runs out").Len() }
	for _, step := range []struct {
		at   time.Time
		want int
	}{
		{dcaptest.Now.Add(-time.Second), 0},
		{dcaptest.Now.Add(time.Second), 2},     // the lists, of two days
		{dcaptest.Now.Add(2 * time.Second), 2}, // once
		{dcaptest.Now.AddDate(0, 0, 13).Add(time.Second), 4},
	} {
		s.at = step.at
		if err := s.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if told() != step.want {
			t.Errorf("at %s: told %d times, want %d", step.at, told(), step.want)
		}
	}
}

// TestAttaches: evidence of our own is sent with what is kept, and older pieces that its maker put to it are replaced.
func TestAttaches(t *testing.T) {
	m := newMaker(t)
	scene := numbered(18)
	m.serve(scene)
	s := newSite(t, t.TempDir(), m.service(t))
	for _, with := range []attest.Collateral{nil, numbered(17).Collateral()} {
		a := s.Attester(&machine{scene: scene, with: with})
		e, err := a.Attest(t.Context(), scene.Binding)
		if err != nil {
			t.Fatal(err)
		}
		claims, err := verifiers(t)[0].Verify(t.Context(), e, scene.Binding, s.at, nil)
		wantChecked(t, claims, err, "18")
	}
}

// machine is an attester of one scene.
type machine struct {
	attest.Attester
	scene *dcaptest.Scene
	with  attest.Collateral
}

func (m *machine) Attest(context.Context, attest.Binding) (attest.Evidence, error) {
	return attest.Evidence{Type: attest.TDX, Body: m.scene.Quote(), Collateral: m.with}, nil
}

// TestNumbersFile: a record of numbers that is broken is not passed over.
func TestNumbersFile(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON": "{", "another schema": `{"schema":"x"}`, "no number": `{"schema":"consilium.collateral/1","numbers":{"a":"1x"}}`,
		"negative": `{"schema":"consilium.collateral/1","numbers":{"a":"-1"}}`,
	} {
		folder := t.TempDir()
		forge(t, folder, "numbers.json", []byte(text))
		if _, err := collateral.Open(collateral.Options{Folder: folder}, verifiers(t)); err == nil || !strings.Contains(err.Error(), "numbers.json") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

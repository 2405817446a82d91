package mask_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"consilium.dev/internal/mask"
)

// chance returns a source of chance that tests can repeat.
func chance(seed byte) *rand.ChaCha8 { return rand.NewChaCha8([32]byte{seed}) }

var try = mask.Try{Manifest: [32]byte{1, 2, 3}, Run: "r-7", Round: 3, Try: 2}

// federation is a try of a round among members, in one process.
type federation struct {
	graph   *mask.Graph
	try     mask.Try
	names   []string
	keys    []*mask.Keys
	holds   [][]mask.Shares // by owner and holder; no place: none
	status  []mask.Status
	sealing bool // else shares go as they are, which costs less
}

// run goes through the scheme up to the sum: what the coordinator has when the answers are in.
func (f *federation) run(source *rand.ChaCha8, length int) (masked, plain []uint64, err error) {
	n := len(f.names)
	for range n {
		k, err := mask.NewKeys(source)
		if err != nil {
			return nil, nil, err
		}
		f.keys = append(f.keys, k)
	}
	for i := range n {
		if f.holds = append(f.holds, make([]mask.Shares, n)); f.status[i] == mask.Left {
			continue
		}
		if err := f.share(source, i); err != nil {
			return nil, nil, err
		}
	}
	masked, plain = make([]uint64, length), make([]uint64, length)
	for i, s := range f.status {
		vector := make([]uint64, length)
		for j := range vector {
			vector[j] = source.Uint64()
		}
		if s != mask.Answered {
			continue
		}
		for j, v := range vector {
			plain[j] += v
		}
		terms := []mask.Term{f.keys[i].SelfMask()}
		for _, j := range f.graph.Neighbours(i) {
			if f.status[j] == mask.Left {
				continue
			}
			term, err := f.keys[i].PairMask(f.try, f.names[i], f.names[j], f.keys[j].Public())
			if err != nil {
				return nil, nil, err
			}
			terms = append(terms, term)
		}
		sent := slices.Clone(vector)
		mask.Apply(sent, 0, terms...)
		for j, v := range sent {
			masked[j] += v
		}
	}
	return masked, plain, nil
}

// share has one member seal its shares for its holders, who open them.
func (f *federation) share(source *rand.ChaCha8, i int) error {
	holders := f.graph.Holders(i)
	shares, err := f.keys[i].Split(f.graph.Threshold(), len(holders), source)
	if err != nil {
		return err
	}
	for at, j := range holders {
		if shares[at].X != f.graph.X(i, j) {
			return fmt.Errorf("share at %d, want %d", shares[at].X, f.graph.X(i, j))
		}
		if f.holds[i][j] = shares[at]; j == i || !f.sealing {
			continue
		}
		sealed, err := f.keys[i].Seal(f.try, f.names[i], f.names[j], f.keys[j].Public(), shares[at], source)
		if err != nil {
			return err
		}
		if f.holds[i][j], err = f.keys[j].Open(f.try, f.names[j], f.names[i], f.keys[i].Public(), sealed); err != nil {
			return err
		}
	}
	return nil
}

// members is what the coordinator knows once those of asked have shown their shares.
func (f *federation) members(asked []int) []mask.Member {
	var all []mask.Member
	for i, name := range f.names {
		m := mask.Member{Name: name, Public: f.keys[i].Public(), Status: f.status[i]}
		for _, j := range asked {
			switch s := f.holds[i][j]; {
			case s.X == 0:
			case m.Status == mask.Answered:
				m.Shares = append(m.Shares, s.SelfShare())
			case m.Status == mask.Missing:
				m.Shares = append(m.Shares, s.MaskShare())
			}
		}
		all = append(all, m)
	}
	return all
}

func names(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("m%03d", i)
	}
	return all
}

// TestSum: whoever leaves and whoever is missing, a quorum's shares leave the exact sum of those who answered, and fewer an error.
func TestSum(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		n := rapid.IntRange(2, 7).Draw(r, "members")
		quorum := rapid.IntRange(n/2+1, n).Draw(r, "quorum")
		g, err := mask.NewGraph(n, max(2, quorum), try.GraphSeed())
		if err != nil {
			r.Fatal(err)
		}
		f := &federation{graph: g, try: try, names: names(n)}
		var answered []int
		for i := range n {
			s := rapid.SampledFrom([]mask.Status{mask.Answered, mask.Answered, mask.Answered, mask.Missing, mask.Missing, mask.Left}).Draw(r, "status")
			if f.status = append(f.status, s); s == mask.Answered {
				answered = append(answered, i)
			}
		}
		masked, plain, err := f.run(chance(rapid.Byte().Draw(r, "chance")), rapid.IntRange(1, 1100).Draw(r, "length"))
		if err != nil {
			r.Fatal(err)
		}
		asked := rapid.Permutation(answered).Draw(r, "asked")
		asked = asked[:rapid.SampledFrom([]int{len(asked), len(asked), min(g.Threshold(), len(asked)), len(asked) / 2, 0}).Draw(r, "how many")]
		terms, err := g.Unmask(try, f.members(asked))
		hidden := slices.ContainsFunc(f.status, func(s mask.Status) bool { return s != mask.Left })
		if hidden && len(asked) < g.Threshold() {
			if !errors.Is(err, mask.ErrShares) || terms != nil {
				r.Fatalf("Unmask with %d of %d = %d terms, %v, want %v", len(asked), g.Threshold(), len(terms), err, mask.ErrShares)
			}
			return
		}
		missing := 0
		for _, s := range f.status {
			if s == mask.Missing {
				missing++
			}
		}
		if want := len(answered) * (1 + missing); err != nil || len(terms) != want {
			r.Fatalf("Unmask = %d terms, %v, want %d", len(terms), err, want)
		}
		if len(answered) > 0 && slices.Equal(masked, plain) {
			r.Fatal("the sum came without masks")
		}
		mask.Apply(masked, 0, terms...)
		if !slices.Equal(masked, plain) {
			r.Fatal("the sum without masks is another than that of the vectors")
		}
	})
}

// TestSparse: the same beyond the complete graph, among those few who have masks there.
func TestSparse(t *testing.T) {
	const n = mask.MaxHolders + 1
	g, err := mask.NewGraph(n, n-n/3, try.GraphSeed())
	if err != nil {
		t.Fatal(err)
	}
	f := &federation{graph: g, try: try, names: names(n), status: make([]mask.Status, n)}
	var asked []int
	for i := range n {
		switch {
		case i < 12:
			f.status[i] = mask.Answered
		case i < 16:
			f.status[i] = mask.Missing
		}
		if i%16 < 12 {
			asked = append(asked, i)
		}
	}
	masked, plain, err := f.run(chance(1), 3)
	if err != nil {
		t.Fatal(err)
	}
	terms, err := g.Unmask(try, f.members(asked))
	if err != nil {
		t.Fatal(err)
	}
	if len(terms) <= 12 || len(terms) >= 12+4*12 {
		t.Errorf("%d terms: nobody misses one that is missing, or all do", len(terms))
	}
	mask.Apply(masked, 0, terms...)
	if !slices.Equal(masked, plain) {
		t.Error("the sum without masks is another than that of the vectors")
	}
}

// TestUnmaskRefuses: what is wrong with a member or its shares is found before there are terms.
func TestUnmaskRefuses(t *testing.T) {
	g, err := mask.NewGraph(4, 3, try.GraphSeed())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(all []mask.Member, f *federation) []mask.Member
		want   string
	}{
		{"nothing", func(all []mask.Member, _ *federation) []mask.Member { return all }, ""},
		{"a share too few", func(all []mask.Member, _ *federation) []mask.Member {
			all[0].Shares = all[0].Shares[:2]
			return all
		}, "unmasking m000: shares do not give the secret: 2 of them, want 3"},
		{"a wrong share", func(all []mask.Member, _ *federation) []mask.Member {
			all[1].Shares[0].Y[31] ^= 1
			return all
		}, "unmasking m001: shares do not give the secret: not the self seed that was announced"},
		{"a wrong share of a mask key", func(all []mask.Member, _ *federation) []mask.Member {
			all[3].Shares[2].Y[5] ^= 1
			return all
		}, "unmasking m003: shares do not give the secret: not the mask key that was announced"},
		{"a wrong share of more than are needed", func(all []mask.Member, f *federation) []mask.Member {
			all[1].Shares = append(all[1].Shares, f.holds[1][3].SelfShare())
			all[1].Shares[1].Y[0] ^= 7
			return all
		}, ""},
		{"two wrong shares of one more than are needed", func(all []mask.Member, f *federation) []mask.Member {
			all[1].Shares = append(all[1].Shares, f.holds[1][3].SelfShare())
			all[1].Shares[1].Y[0] ^= 7
			all[1].Shares[3].Y[0] ^= 7
			return all
		}, "unmasking m001: shares do not give the secret: not the self seed that was announced"},
		{"a share twice", func(all []mask.Member, _ *federation) []mask.Member {
			all[1].Shares = append(all[1].Shares, all[1].Shares[0])
			return all
		}, "unmasking m001: shares do not give the secret: two shares at 1"},
		{"a share of another length", func(all []mask.Member, _ *federation) []mask.Member {
			for i := range all[1].Shares {
				all[1].Shares[i].Y = all[1].Shares[i].Y[:31]
			}
			return all
		}, "unmasking m001: shares do not give the secret: they are of 31 bytes, want 32"},
		{"shares of the other kind", func(all []mask.Member, f *federation) []mask.Member {
			for i := range all[0].Shares {
				all[0].Shares[i] = f.holds[0][i].MaskShare()
			}
			return all
		}, "unmasking m000: shares do not give the secret: not the self seed that was announced"},
		{"a holder beyond the graph", func(all []mask.Member, _ *federation) []mask.Member {
			all[0].Shares[0].X = 5
			return all
		}, "unmasking m000: shares do not give the secret: one is at 5, of 4 holders"},
		{"a member less", func(all []mask.Member, _ *federation) []mask.Member { return all[1:] }, "unmasking 3 members of a graph of 4"},
		{"another order", func(all []mask.Member, _ *federation) []mask.Member {
			all[1], all[2] = all[2], all[1]
			return all
		}, "unmasking members that are not in the order of their names: m001 after m002"},
		{"a member twice", func(all []mask.Member, _ *federation) []mask.Member {
			all[2] = all[1]
			return all
		}, "unmasking members that are not in the order of their names: m001 after m001"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &federation{graph: g, try: try, names: names(4), sealing: true, status: []mask.Status{mask.Answered, mask.Answered, mask.Answered, mask.Missing}}
			if _, _, err := f.run(chance(9), 1); err != nil {
				t.Fatal(err)
			}
			terms, err := g.Unmask(try, c.change(f.members([]int{0, 1, 2}), f))
			if got := fmt.Sprint(err); c.want == "" && (err != nil || len(terms) != 6) || c.want != "" && (got != c.want || terms != nil) {
				t.Errorf("Unmask = %d terms, %v, want %s", len(terms), err, c.want)
			}
		})
	}
}

// TestKeys: what is written is read again, and a pair has one seed.
func TestKeys(t *testing.T) {
	source := chance(2)
	a, err := mask.NewKeys(source)
	if err != nil {
		t.Fatal(err)
	}
	b, err := mask.NewKeys(source)
	if err != nil {
		t.Fatal(err)
	}
	again, err := mask.ParseKeys(a.Bytes())
	if err != nil || again.Public() != a.Public() || !bytes.Equal(again.Bytes(), a.Bytes()) {
		t.Errorf("ParseKeys of Bytes = %v, want the same keys", err)
	}
	if p, err := mask.ParsePublic(a.Public().Bytes()); err != nil || p != a.Public() {
		t.Errorf("ParsePublic of Bytes = %v, %v, want the same", p, err)
	}
	ab, err := a.PairMask(try, "a", "b", b.Public())
	if err != nil {
		t.Fatal(err)
	}
	ba, err := b.PairMask(try, "b", "a", a.Public())
	if err != nil || ab.Seed != ba.Seed || ab.Minus || !ba.Minus || ab.Negated() != ba {
		t.Errorf("the masks of a and b are %v and %v, %v", ab.Minus, ba.Minus, err)
	}
	for name, other := range map[string]mask.Try{
		"another manifest": {Run: "r-7", Round: 3, Try: 2}, "another run": {Manifest: try.Manifest, Run: "r-8", Round: 3, Try: 2},
		"another round": {Manifest: try.Manifest, Run: "r-7", Round: 4, Try: 2}, "another try": {Manifest: try.Manifest, Run: "r-7", Round: 3, Try: 3},
	} {
		if term, err := a.PairMask(other, "a", "b", b.Public()); err != nil || term.Seed == ab.Seed {
			t.Errorf("%s: the same seed, %v", name, err)
		}
		if other.GraphSeed() == try.GraphSeed() {
			t.Errorf("%s: the same graph", name)
		}
		if bytes.Equal(mask.Announcement(other, "a", a.Public()), mask.Announcement(try, "a", a.Public())) {
			t.Errorf("%s: the same announcement", name)
		}
	}
	if term, err := a.PairMask(try, "a", "c", b.Public()); err != nil || term.Seed == ab.Seed {
		t.Errorf("another name: the same seed, %v", err)
	}
	if _, err := a.PairMask(try, "a", "a", a.Public()); err == nil {
		t.Error("a has masks with itself")
	}
	a.Wipe()
	if !bytes.Equal(a.Bytes(), make([]byte, mask.SecretSize)) {
		t.Error("what was wiped is still there")
	}
}

// TestKeysRefuses: no keys but those that chance can have drawn, and no points with which every secret is zero.
func TestKeysRefuses(t *testing.T) {
	for name, source := range map[string]string{"none": "", "cut off": strings.Repeat("x", 95), "constant": strings.Repeat("x", 96)} {
		if _, err := mask.NewKeys(strings.NewReader(source)); err == nil {
			t.Errorf("%s: there are keys", name)
		}
	}
	k, err := mask.NewKeys(chance(3))
	if err != nil {
		t.Fatal(err)
	}
	good := k.Public().Bytes()
	for _, b := range [][]byte{nil, good[1:], append(slices.Clone(good), 0)} {
		if _, err := mask.ParsePublic(b); err == nil {
			t.Errorf("ParsePublic of %d bytes is fine", len(b))
		}
		if _, err := mask.ParseKeys(b); err == nil {
			t.Errorf("ParseKeys of %d bytes is fine", len(b))
		}
	}
	// All points of low order (RFC 7748's curve), in each of their encodings below 2^255.
	for _, point := range []string{
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
		"5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	} {
		low, err := hex.DecodeString(point)
		if err != nil {
			t.Fatal(err)
		}
		for at := range 2 {
			b := slices.Clone(good)
			copy(b[32*at:], low)
			if _, err := mask.ParsePublic(b); err == nil {
				t.Errorf("ParsePublic takes %s", point)
			}
		}
		bad := mask.Public{Seal: [32]byte(low), Mask: [32]byte(low)}
		if _, err := k.PairMask(try, "a", "b", bad); err == nil {
			t.Errorf("PairMask takes %s", point)
		}
		if _, err := k.Seal(try, "a", "b", bad, mask.Shares{X: 1}, chance(1)); err == nil {
			t.Errorf("Seal takes %s", point)
		}
	}
}

// TestSeal: sealed shares open for whom, from whom and in which try they were sealed, whole, and else not.
func TestSeal(t *testing.T) {
	source := chance(4)
	var k [3]*mask.Keys
	for i := range k {
		var err error
		if k[i], err = mask.NewKeys(source); err != nil {
			t.Fatal(err)
		}
	}
	shares := mask.Shares{X: 2, Self: mask.Secret{7}, Mask: mask.Secret{31: 8}}
	sealed, err := k[0].Seal(try, "a", "b", k[1].Public(), shares, source)
	if err != nil || len(sealed) != mask.SealedSize {
		t.Fatalf("Seal = %d bytes, %v, want %d", len(sealed), err, mask.SealedSize)
	}
	if got, err := k[1].Open(try, "b", "a", k[0].Public(), sealed); err != nil || got != shares {
		t.Errorf("Open = %v, %v, want what was sealed", got, err)
	}
	if twice, err := k[0].Seal(try, "a", "b", k[1].Public(), shares, source); err != nil || bytes.Equal(twice[:12], sealed[:12]) {
		t.Errorf("sealed again with the same nonce, %v", err)
	}
	if _, err := k[0].Seal(try, "a", "b", k[1].Public(), shares, strings.NewReader("short")); err == nil {
		t.Error("sealed without chance")
	}
	for i := range sealed {
		changed := slices.Clone(sealed)
		changed[i] ^= 0x10
		if _, err := k[1].Open(try, "b", "a", k[0].Public(), changed); err == nil {
			t.Errorf("opens with byte %d changed", i)
		}
		if _, err := k[1].Open(try, "b", "a", k[0].Public(), sealed[:i]); err == nil {
			t.Errorf("opens when cut off at %d", i)
		}
	}
	later := try
	later.Try++
	for name, open := range map[string]func() (mask.Shares, error){
		"in another try":  func() (mask.Shares, error) { return k[1].Open(later, "b", "a", k[0].Public(), sealed) },
		"for another":     func() (mask.Shares, error) { return k[2].Open(try, "c", "a", k[0].Public(), sealed) },
		"by another name": func() (mask.Shares, error) { return k[1].Open(try, "c", "a", k[0].Public(), sealed) },
		"from another":    func() (mask.Shares, error) { return k[1].Open(try, "b", "c", k[2].Public(), sealed) },
		"sent back":       func() (mask.Shares, error) { return k[0].Open(try, "a", "b", k[1].Public(), sealed) },
	} {
		if _, err := open(); err == nil {
			t.Errorf("%s: opens", name)
		}
	}
}

// TestShares: a holder reads what it kept, and nothing at the place of the secret.
func TestShares(t *testing.T) {
	s := mask.Shares{X: 200, Self: mask.Secret{1}, Mask: mask.Secret{2}}
	if got, err := mask.ParseShares(s.Bytes()); err != nil || got != s {
		t.Errorf("ParseShares of Bytes = %v, %v", got, err)
	}
	s.X = 0
	for _, b := range [][]byte{nil, s.Bytes(), s.Bytes()[1:], append(s.Bytes(), 0)} {
		if got, err := mask.ParseShares(b); err == nil {
			t.Errorf("ParseShares of %d bytes = %v, want an error", len(b), got)
		}
	}
	k, err := mask.NewKeys(chance(8))
	if err != nil {
		t.Fatal(err)
	}
	for _, holders := range []int{0, -1, 256} {
		if _, err := k.Split(1, holders, chance(1)); err == nil {
			t.Errorf("Split among %d holders", holders)
		}
	}
	if _, err := k.Split(2, 3, strings.NewReader(strings.Repeat("x", 40))); err == nil {
		t.Error("Split without chance for the mask key")
	}
}

// TestFormats holds what two implementations have to agree on to values that formats.py computes from scratch.
func TestFormats(t *testing.T) {
	want, err := os.ReadFile(filepath.Join("testdata", "formats.txt"))
	if err != nil {
		t.Fatal(err)
	}
	numbered := func(first byte) *mask.Keys {
		b := make([]byte, mask.SecretSize)
		for i := range b {
			b[i] = first + byte(i)
		}
		k, err := mask.ParseKeys(b)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	a, b := numbered(1), numbered(101)
	pair, err := a.PairMask(try, "alpha", "beta", b.Public())
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := a.Seal(try, "alpha", "beta", b.Public(), mask.Shares{X: 9, Self: mask.Secret{1}, Mask: mask.Secret{2}}, bytes.NewReader(make([]byte, 12)))
	if err != nil {
		t.Fatal(err)
	}
	words := make([]uint64, 4)
	mask.Apply(words, 0, mask.Term{Seed: mask.Seed(a.Bytes()[:32])})
	got := fmt.Sprintf("public keys: %x\ndigest of an announcement: %x\nseed of a pair: %x\nsealed shares: %x\nseed of the graph: %x\nfirst words of a mask: %016x %016x %016x %016x\n",
		a.Public().Bytes(), sha256.Sum256(mask.Announcement(try, "alpha", a.Public())), pair.Seed, sealed, try.GraphSeed(), words[0], words[1], words[2], words[3])
	if got != string(want) {
		t.Errorf("formats are\n%swant\n%s", got, want)
	}
}

// TestFormatsAgain runs formats.py, where there is a Python.
func TestFormatsAgain(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil && os.Getenv("CONSILIUM_REQUIRE_ALL") == "" {
		t.Skip("no python3 here")
	} else if err != nil {
		t.Fatal(err)
	}
	got, err := exec.Command(python, filepath.Join("testdata", "formats.py")).Output()
	if err != nil {
		t.Fatal(err)
	}
	if want, err := os.ReadFile(filepath.Join("testdata", "formats.txt")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("formats.py prints\n%swant\n%s%v", got, want, err)
	}
}

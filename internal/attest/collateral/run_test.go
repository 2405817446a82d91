package collateral_test

import (
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/collateral"
	"consilium.dev/internal/attest/dcap/dcaptest"
)

// TestImportWhileRunning: a cache that runs sees within a minute what another process has put into its folder, and goes by the numbers that
// it has seen there.
func TestImportWhileRunning(t *testing.T) {
	folder := t.TempDir()
	first, second := numbered(18), numbered(19)
	site := newSite(t, folder, nil)
	donor := newSite(t, t.TempDir(), nil)
	if _, err := donor.judge(t, first, first.Collateral()); err != nil {
		t.Fatal(err)
	}
	stick := filepath.Join(t.TempDir(), "stick")
	if _, err := donor.Export(stick); err != nil {
		t.Fatal(err)
	}
	at := site.at
	site.at = at.AddDate(1, 0, 0) // what is brought has run out
	synctest.Test(t, func(t *testing.T) {
		stop := site.Start(t.Context(), nil)
		time.Sleep(time.Second)
		other := newSite(t, folder, nil)
		if done, err := other.Import(stick); err != nil || len(done.Fresh) != 4 {
			t.Fatalf("imported %+v, %v", done, err)
		}
		if len(site.Show().Pieces) != 0 {
			t.Error("there is something before it was looked for: the test shows nothing")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := site.Show(); len(got.Pieces) != 4 {
			t.Errorf("after a minute there are %+v", got.Pieces)
		}
		if n := site.log.FilterMessageSnippet("collateral has run out").Len(); n != 4 {
			t.Errorf("told of %d pieces that they have run out, want all four", n)
		}
		// Another process sees more; this one writes its own without lowering that.
		if _, err := other.judge(t, second, second.Collateral()); err != nil {
			t.Fatal(err)
		}
		stop()
	})
	site.at = at
	third := numbered(20)
	third.Info, third.Identity = first.Info, first.Identity // its lists are newer, its documents are not
	if _, err := site.judge(t, third, third.Collateral()); err != nil {
		t.Fatal(err)
	}
	_, err := newSite(t, folder, nil).judge(t, first, attest.Collateral{first.InfoItem(), first.IdentityItem(), {Kind: attest.KindIssuerChain, Bytes: dcaptest.PEM(first.Signer.Raw)}})
	if err != nil { // judged by the kept ones of 19
		t.Fatal(err)
	}
	for _, p := range newSite(t, folder, nil).Show().Pieces {
		if want := map[bool]string{true: "20", false: "19"}[filepath.Ext(p.Name) == ".crl"]; p.Number != want || p.Highest != "" {
			t.Errorf("%s has the number %s (highest %q), want %s", p.Name, p.Number, p.Highest, want)
		}
	}
}

// FuzzImport: whatever files a folder holds, an import makes no panic, and takes in nothing that nobody signed.
func FuzzImport(f *testing.F) {
	s := numbered(18)
	for _, i := range s.Collateral() {
		f.Add("a.der", i.Bytes)
		f.Add("tcb_info.json", i.Bytes)
	}
	f.Add("b-chain.pem", dcaptest.PEM(s.Signer.Raw))
	f.Add("numbers.json", []byte("{}"))
	signed := map[string]bool{}
	for _, i := range s.Collateral() {
		signed[string(i.Bytes)] = true
	}
	f.Fuzz(func(t *testing.T, name string, content []byte) {
		if name != filepath.Base(name) || name == "." || name == ".." || len(name) > 100 || len(content) > 1<<16 {
			return
		}
		folder := t.TempDir()
		if !write(folder, name, content) {
			return
		}
		c, err := collateral.Open(collateral.Options{Folder: t.TempDir()}, verifiers(t))
		if err != nil {
			t.Fatal(err)
		}
		done, err := c.Import(folder)
		if err != nil {
			t.Fatal(err)
		}
		for _, piece := range done.Fresh {
			if !signed[string(content)] {
				t.Errorf("%s was taken in", piece)
			}
		}
	})
}

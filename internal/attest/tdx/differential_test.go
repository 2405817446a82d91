package tdx_test

import (
	"bytes"
	"crypto/x509"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-tdx-guest/abi"
	"github.com/google/go-tdx-guest/pcs"
	pb "github.com/google/go-tdx-guest/proto/tdx"
	"github.com/google/go-tdx-guest/verify"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/dcap/dcaptest"
)

// collateral answers go-tdx-guest's questions to Intel's service from a vector's files.
type collateral attest.Collateral

// Get returns what Intel's service would, with issuer chains in the headers.
func (c collateral) Get(link string) (map[string][]string, []byte, error) {
	of := func(kind attest.Kind, n int) []byte {
		for _, item := range c {
			if item.Kind != kind {
				continue
			}
			if n == 0 {
				return item.Bytes
			}
			n--
		}
		return nil
	}
	chain := func(name string, n int) map[string][]string {
		return map[string][]string{name: {url.QueryEscape(string(of(attest.KindIssuerChain, n)))}}
	}
	switch { // the order of files is dcaptest.Load's
	case strings.Contains(link, "/pckcrl"):
		return chain(pcs.SgxPckCrlIssuerChainPhrase, 2), of(attest.KindCRL, 0), nil
	case strings.Contains(link, "/tcb?"):
		return chain(pcs.TcbInfoIssuerChainPhrase, 0), of(attest.KindTCBInfo, 0), nil
	case strings.Contains(link, "/qe/identity"):
		return chain(pcs.SgxQeIdentityIssuerChainPhrase, 1), of(attest.KindQEIdentity, 0), nil
	}
	return nil, of(attest.KindCRL, 1), nil
}

// library judges a quote by go-tdx-guest.
func library(t *testing.T, quote []byte, v *dcaptest.Vector) error {
	t.Helper()
	root, err := os.ReadFile("../dcap/intel-sgx-root.pem")
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	isList := func(i attest.Item) bool { return i.Kind == attest.KindCRL }
	return verify.RawTdxQuote(quote, &verify.Options{
		CheckRevocations: slices.ContainsFunc(v.Evidence.Collateral, isList), GetCollateral: len(v.Evidence.Collateral) > 0,
		Getter: collateral(v.Evidence.Collateral), TrustedRoots: roots,
		Now: &verify.TimeSet{PckCertChain: v.AtTime, TcbInfo: v.AtTime, QeIdentity: v.AtTime, PckCrl: v.AtTime, RootCaCrl: v.AtTime},
	})
}

// TestAgainstLibrary: go-tdx-guest reads the same fields out of real quotes, and takes those whose standing is the only one that it
// takes, UpToDate. For one it is known to be wrong: from TDX 1.5 on it asks for the standing of the module alone.
func TestAgainstLibrary(t *testing.T) {
	dirs, err := filepath.Glob("testdata/vectors/tdx/*")
	if err != nil || len(dirs) == 0 {
		t.Fatal(dirs, err)
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			v := dcaptest.Load(t, dir, attest.TDX)
			theirs := library(t, v.Evidence.Body, v)
			claims, ours := newVerifier(t).Verify(t.Context(), v.Evidence, v.Binding, v.AtTime, nil)
			if ours != nil {
				if theirs == nil {
					t.Errorf("the library takes what is refused here: %v", ours)
				}
				return
			}
			parsed, err := abi.QuoteToProto(v.Evidence.Body)
			if err != nil {
				t.Fatalf("the library does not read what is taken here: %v", err)
			}
			same(t, claims.TDX, parsed)
			status := claims.TDX.Platform.TCB.Status
			if filepath.Base(dir) == "v4-cmc" && status == "OutOfDate" && theirs == nil {
				return // its known fault
			}
			if (theirs == nil) != (status == "UpToDate" || status == "") {
				t.Errorf("the library: %v; the standing here: %q", theirs, status)
			}
		})
	}
}

// TestAlteredAgainstLibrary: of quotes with one bit altered, the library takes none either.
func TestAlteredAgainstLibrary(t *testing.T) {
	v := dcaptest.Load(t, "testdata/vectors/tdx/v5-td15-gotdxguest", attest.TDX)
	v.Evidence.Collateral = nil
	if err := library(t, v.Evidence.Body, v); err != nil {
		t.Fatal(err)
	}
	for bit := 0; bit < 8*len(v.Evidence.Body); bit += 37 {
		quote := bytes.Clone(v.Evidence.Body)
		quote[bit/8] ^= 1 << (bit % 8)
		if library(t, quote, v) == nil {
			t.Errorf("the library takes a quote with bit %d of byte %#x altered", bit%8, bit/8)
		}
	}
}

// body is what the library's two forms of a quote's body have in common.
type body interface {
	GetTeeTcbSvn() []byte
	GetMrSeam() []byte
	GetMrSignerSeam() []byte
	GetSeamAttributes() []byte
	GetTdAttributes() []byte
	GetXfam() []byte
	GetMrTd() []byte
	GetMrConfigId() []byte
	GetMrOwner() []byte
	GetMrOwnerConfig() []byte
	GetRtmrs() [][]byte
	GetReportData() []byte
}

// same compares fields of claims with the library's.
func same(t *testing.T, d *attest.TrustDomain, parsed any) {
	t.Helper()
	var b body
	switch q := parsed.(type) {
	case *pb.QuoteV4:
		b = q.TdQuoteBody
	case *pb.QuoteV5:
		v5 := q.TdQuoteBodyDescriptor.TdQuoteBodyV5
		if b = v5; !slices.Equal(d.TEETCBSVN2[:], v5.TeeTcbSvn2) || !slices.Equal(d.MRServiceTD[:], v5.MrServiceTd) {
			t.Errorf("TDX 1.5's fields are %x and %x, the library says %x and %x", d.TEETCBSVN2, d.MRServiceTD, v5.TeeTcbSvn2, v5.MrServiceTd)
		}
	default:
		t.Fatalf("the library reads a %T", q)
	}
	for name, pair := range map[string][2][]byte{
		"TEE_TCB_SVN": {d.TEETCBSVN[:], b.GetTeeTcbSvn()}, "MRSEAM": {d.MRSEAM[:], b.GetMrSeam()},
		"MRSIGNERSEAM": {d.MRSignerSEAM[:], b.GetMrSignerSeam()}, "SEAMATTRIBUTES": {d.SEAMAttributes[:], b.GetSeamAttributes()},
		"TDATTRIBUTES": {d.TDAttributes[:], b.GetTdAttributes()}, "XFAM": {d.XFAM[:], b.GetXfam()}, "MRTD": {d.MRTD[:], b.GetMrTd()},
		"MRCONFIGID": {d.MRConfigID[:], b.GetMrConfigId()}, "MROWNER": {d.MROwner[:], b.GetMrOwner()},
		"MROWNERCONFIG": {d.MROwnerConfig[:], b.GetMrOwnerConfig()}, "REPORTDATA": {d.ReportData[:], b.GetReportData()},
		"RTMRs": {slices.Concat(d.RTMR[0][:], d.RTMR[1][:], d.RTMR[2][:], d.RTMR[3][:]), slices.Concat(b.GetRtmrs()...)},
	} {
		if !slices.Equal(pair[0], pair[1]) {
			t.Errorf("%s is %x, the library says %x", name, pair[0], pair[1])
		}
	}
}

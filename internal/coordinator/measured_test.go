package coordinator_test

import (
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/platform"
	"consilium.dev/internal/attest/simulated"
	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/entry"
)

// measuredSet is a reference set of simulated trust domains that demands an event log, and with it the coordinator's office that takes it.
const measuredSet = `  domain:
    type: tdx
    simulated: demo
    mr_td: ["<mrtd>"]
    rtmr: {0: {any: true, reason: "the log is what this is about"}, 1: "<zero48>", 2: "<zero48>", 3: "<zero48>"}
    mr_config_id: {any: true, reason: "likewise"}
    mr_owner: {any: true, reason: "likewise"}
    mr_owner_config: {any: true, reason: "likewise"}
    mr_service_td: {any: true, reason: "likewise"}
    mr_seam: {any: true, reason: "likewise"}
    mr_signer_seam: "<zero48>"
    td_attributes: "0000001000000000"
    xfam: "e702060000000000"
    event_log: required
    piids: {any: true, reason: "simulated machines"}
    tcb_status: [UpToDate]
    advisories: []
    tcb_eval_min: 1
    qe: {isv_svn_min: 8}
    revocation: {max_age: 24h}
offices:
  coordinator: {types: [[sev-snp], [tdx]], sets: [council, domain],`

// booted is a domain's attester that knows the log of its boot.
type booted struct {
	attest.Attester
	log []byte
}

func (b *booted) Covered() attest.Collateral {
	return attest.Collateral{{Kind: attest.KindEventLog, Bytes: b.log}}
}

// TestEventLog: a coordinator in a domain shows the log of its boot with the evidence that its log keeps, and over the channel, so that members who demand one
// take it; and one that has none does not begin.
func TestEventLog(t *testing.T) {
	t.Parallel()
	u16, u32 := binary.LittleEndian.AppendUint16, binary.LittleEndian.AppendUint32
	first := u16(u16(u32([]byte("Spec ID Event03\x00\x00\x00\x00\x00\x00\x02\x00\x02"), 1), 0x0c), 48)
	log := append(u32(append(u32(u32(nil, 1), 3), make([]byte, 20)...), uint32(len(first))), first...)
	digest := [48]byte{7}
	log = u32(append(u16(u32(u32(u32(log, 1), 1), 1), 0x0c), digest[:]...), 0)
	spec := simulated.TDXSpec{RTMR: [4][48]byte{sha512.Sum384(append(make([]byte, 48), digest[:]...))}}
	text, err := os.ReadFile(filepath.Join("..", "transport", "testdata", "intel.json")) // a root with Intel's part, unlike the realm's
	if err != nil {
		t.Fatal(err)
	}
	r := &realm{}
	if r.root, err = simulated.ParseRoot(text); err != nil {
		t.Fatal(err)
	}
	if r.snp, err = r.root.SNP(simulated.SNPSpec{}); err != nil {
		t.Fatal(err)
	}
	if r.judges, err = platform.Verifiers(platform.Options{SimulatedRoots: map[string][][]byte{"demo": r.root.Certificates()}}); err != nil {
		t.Fatal(err)
	}
	domain, err := r.root.TDX(spec)
	if err != nil {
		t.Fatal(err)
	}
	mrtd := simulated.DefaultMRTD()
	m := r.manifestOf(t, "offices:\n  coordinator: {types: [[sev-snp]], sets: [council],", strings.NewReplacer("<zero48>", strings.Repeat("0", 96), "<mrtd>", hex.EncodeToString(mrtd[:])).Replace(measuredSet))
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.realm, w.manifest = r, m
		w.serve(func(o *coordinator.Options) { o.Attester = &booted{domain.Attester(time.Now), log} })
		w.join("cleveland")
		w.books["cleveland"].await(t, "following")
		boots := only[entry.Booted](w.facts())
		if len(boots) != 1 {
			t.Fatalf("%d boots", len(boots))
		}
		k := w.kept(boots[0].Evidence)
		w.judge(k, attest.Binding{ReportData: [64]byte(k.ReportData)}, attest.Peer{Office: attest.Coordinator, Name: "council"})
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.realm, w.manifest = r, m
		p := w.serve(func(o *coordinator.Options) { o.Attester = domain.Attester(time.Now) })
		if err := p.wait(); err == nil || !strings.Contains(err.Error(), "no event log came with the quote") {
			t.Errorf("a coordinator without a log ended with %v", err)
		}
	})
}

package transport_test

import (
	"encoding/hex"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/simulated"
	"consilium.dev/internal/manifest"
)

// intelSets are reference sets of simulated machines of Intel's, judged in every field that a simulated one has a steady value for.
const intelSets = `  tdx:
    type: tdx
    simulated: demo
    mr_td: ["<mrtd>"]
    rtmr: {0: "<zero48>", 1: "<zero48>", 2: "<zero48>", 3: "<zero48>"}
    mr_config_id: "<zero48>"
    mr_owner: "<zero48>"
    mr_owner_config: "<zero48>"
    mr_service_td: "<zero48>"
    mr_seam: {any: true, reason: "a simulated module"}
    mr_signer_seam: "<zero48>"
    td_attributes: "0000001000000000"
    xfam: "e702060000000000"
    event_log: {any: true, reason: "nothing is measured"}
    piids: {any: true, reason: "simulated machines"}
    tcb_status: [UpToDate]
    advisories: []
    tcb_eval_min: 1
    qe: {isv_svn_min: 8}
    revocation: {max_age: 24h}
  sgx:
    type: sgx
    simulated: demo
    mr_enclave: ["<mrenclave>"]
    mr_signer: {any: true, reason: "the enclave is judged"}
    prod_id: 0
    isv_svn_min: 0
    attributes: "0500000000000000e700000000000000"
    attributes_mask: "ffffffffffffffffff00000000000000"
    misc_select: "00000000"
    config_id: "<zero64>"
    config_svn_min: 0
    pck_ca: [platform]
    ppids: {any: true, reason: "simulated machines"}
    tcb_status: [UpToDate]
    advisories: []
    tcb_eval_min: 1
    qe: {isv_svn_min: 8}
    revocation: {max_age: 24h}
offices:
`

// TestIntel: a coordinator in a trust domain and participants in a domain and in an enclave meet over the channel, with all
// collateral; and one whose platform is out of date does not get in.
func TestIntel(t *testing.T) {
	r, m := intelRealm(t)
	old, err := r.root.TDX(simulated.TDXSpec{IntelSpec: simulated.IntelSpec{Status: "OutOfDate", Advisories: []string{"INTEL-SA-00615"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name    string
		who     string
		machine *simulated.Machine
		set     string // "" where it is refused
	}{
		{"in a domain", "north", r.snp, "tdx"},
		{"in an enclave", "south", r.nitro, "sgx"},
		{"in a domain on a platform that is out of date", "north", old, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := r.realEnds(t, m, attest.Participant, test.who)
				e.client.Attester = test.machine.Attester(clock())
				server, client := makeServer(t, e.server), makeClient(t, e.client)
				a, b := net.Pipe()
				s, c := shake(server, client, a, b)
				if test.set == "" {
					if s.err == nil || !strings.Contains(s.err.Error(), "the platform's TCB is OutOfDate") {
						t.Errorf("server: %v, want the platform's standing", s.err)
					}
					return
				}
				if s.err != nil || c.err != nil {
					t.Fatalf("server: %v\nclient: %v", s.err, c.err)
				}
				if got := s.peer.Appraisal.Sets; !slices.Equal(got, []string{test.set}) {
					t.Errorf("the participant matches %q, want %q", got, test.set)
				}
				if got := c.peer.Appraisal.Sets; !slices.Equal(got, []string{"tdx"}) {
					t.Errorf("the coordinator matches %q, want tdx", got)
				}
				if n := len(s.peer.Evidence[0].Collateral); n != 5 {
					t.Errorf("%d pieces of collateral came over, want 5", n)
				}
				checkClose(t, s.conn, c.conn)
			})
		})
	}
}

// intelRealm returns a realm whose machines are a domain and an enclave, in the place of those that other tests have, and its manifest.
func intelRealm(t testing.TB) (*realm, *manifest.Manifest) {
	t.Helper()
	root, err := rootIn("intel.json")
	if err != nil {
		t.Fatal(err)
	}
	domain, err := root.TDX(simulated.TDXSpec{})
	if err != nil {
		t.Fatal(err)
	}
	enclave, err := root.SGX(simulated.SGXSpec{})
	if err != nil {
		t.Fatal(err)
	}
	mrtd, mrenclave := simulated.DefaultMRTD(), simulated.DefaultMREnclave()
	sets := strings.NewReplacer("<mrtd>", hex.EncodeToString(mrtd[:]), "<mrenclave>", hex.EncodeToString(mrenclave[:]),
		"<zero48>", strings.Repeat("00", 48), "<zero64>", strings.Repeat("00", 64)).Replace(intelSets)
	r := &realm{root: root, snp: domain, nitro: enclave}
	return r, r.manifestOf(t, "offices:\n", sets, "coordinator: {types: [[sev-snp]], sets: [snp]", "coordinator: {types: [[tdx]], sets: [tdx]",
		"participant: {types: [[sev-snp], [nitro]], sets: [snp, nitro]", "participant: {types: [[sev-snp], [tdx], [sgx], [nitro]], sets: [snp, tdx, sgx, nitro]")
}

package transport_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/transport"
)

// octets are bytes that JSON shows as hex digits.
type octets []byte

func (o octets) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(o)), nil }

func (o *octets) UnmarshalText(text []byte) (err error) {
	*o, err = hex.DecodeString(string(text))
	return err
}

// transcript is testdata/transcript.json: sessions with everything that they begin from, and everything that follows.
type transcript struct {
	Format   string    `json:"format"`
	Sessions []session `json:"sessions"`
	LogKeys  []logKey  `json:"log_keys"`
}

type session struct {
	Name       string  `json:"name"`
	Federation string  `json:"federation"`
	Epoch      uint64  `json:"epoch"`
	Manifest   octets  `json:"manifest"`
	Client     end     `json:"client"`
	Server     end     `json:"server"`
	EKMC       octets  `json:"ekm_c"`
	EKMS       octets  `json:"ekm_s"`
	EKMF       octets  `json:"ekm_f"`
	Derived    derived `json:"derived"`
}

// end is one side of a session, with the evidence that it shows.
type end struct {
	Office   uint8   `json:"office"`
	Name     string  `json:"name"`
	Nonce    octets  `json:"nonce"`
	SPKI     octets  `json:"spki"`
	Evidence []piece `json:"evidence"`
}

type piece struct {
	Type       uint8  `json:"type"`
	Body       octets `json:"body"`
	Collateral []item `json:"collateral"`
}

type item struct {
	Kind  uint8  `json:"kind"`
	Bytes octets `json:"bytes"`
}

type derived struct {
	HelloC      octets `json:"hello_c"`
	HelloS      octets `json:"hello_s"`
	TH          octets `json:"th"`
	DevicesC    octets `json:"device_seed_c"`
	DevicesS    octets `json:"device_seed_s"`
	PreimageC   octets `json:"preimage_c"`
	PreimageS   octets `json:"preimage_s"`
	BC          octets `json:"b_c"`
	BS          octets `json:"b_s"`
	PersonInput octets `json:"person_input_c"`
	EvidenceC   octets `json:"evidence_c"`
	EvidenceS   octets `json:"evidence_s"`
	FinishedC   octets `json:"finished_c"`
	FinishedS   octets `json:"finished_s"`
	FrameHelloC octets `json:"frame_hello_c"`
}

type logKey struct {
	SPKI       octets `json:"spki"`
	Federation string `json:"federation"`
	Manifest   octets `json:"manifest"`
	Head       octets `json:"head"`
	Preimage   octets `json:"preimage"`
	B          octets `json:"b"`
}

// some returns n bytes that hang on the words.
func some(words string, n int) octets {
	var b []byte
	for sum := sha256.Sum256([]byte(words)); len(b) < n; sum = sha256.Sum256(sum[:]) {
		b = append(b, sum[:]...)
	}
	return b[:n]
}

// given returns the sessions of the file without what follows from them.
func given() transcript {
	all := transcript{Format: "consilium.transcript/1"}
	for _, s := range []session{
		{
			Name: "nitro participant", Federation: "heart", Epoch: 1,
			Client: end{Office: 2, Name: "north", Evidence: []piece{{Type: 5, Body: some("document", 400)}}},
			Server: end{Office: 1, Name: "council", Evidence: []piece{{Type: 1, Body: some("report", 1184), Collateral: []item{
				{1, some("vcek", 90)}, {2, some("list", 70)},
			}}}},
		},
		{
			Name: "person", Federation: "a", Epoch: 1 << 40,
			Client: end{Office: 3, Name: "ada", Evidence: []piece{{Type: 128, Body: some("signature", 64)}}},
			Server: end{Office: 1, Name: "c", Evidence: []piece{{Type: 1, Body: some("report 2", 1184)}}},
		},
		{
			Name: "devices, event log and initdata on both sides", Federation: "four-hospitals", Epoch: 7,
			Client: end{Office: 2, Name: "long-beach", Evidence: []piece{
				{Type: 1, Body: some("report 3", 1184), Collateral: []item{{1, some("vcek 3", 80)}, {10, some("initdata", 33)}}},
				{Type: 32, Body: some("gpu", 200), Collateral: []item{{9, some("rim", 50)}, {7, some("driver", 20)}}},
			}},
			Server: end{Office: 1, Name: "council", Evidence: []piece{
				{Type: 1, Body: some("report 4", 1184), Collateral: []item{{7, some("boot", 5)}, {7, nil}}},
				{Type: 32, Body: some("gpu 2", 1)},
			}},
		},
	} {
		s.Manifest = some(s.Name+" manifest", 32)
		s.EKMC, s.EKMS, s.EKMF = some(s.Name+" C", 32), some(s.Name+" S", 32), some(s.Name+" F", 32)
		s.Client.Nonce, s.Server.Nonce = some(s.Name+" nonce C", 32), some(s.Name+" nonce S", 32)
		s.Client.SPKI, s.Server.SPKI = some(s.Name+" key C", 44), some(s.Name+" key S", 91)
		all.Sessions = append(all.Sessions, s)
	}
	all.LogKeys = []logKey{{SPKI: some("log key", 44), Federation: "heart", Manifest: some("m", 32), Head: some("head", 32)}}
	return all
}

// derive fills in what follows, by the channel's own functions.
func (t *transcript) derive() {
	for i := range t.Sessions {
		s := &t.Sessions[i]
		g := transport.Given{
			Client: s.Client.end(), Server: s.Server.end(), Federation: s.Federation, Epoch: s.Epoch, Manifest: [32]byte(s.Manifest),
			EKMC: s.EKMC, EKMS: s.EKMS, EKMF: s.EKMF, EvidenceC: s.Client.evidence(), EvidenceS: s.Server.evidence(),
		}
		d := transport.Derive(g)
		s.Derived = derived{
			HelloC: d.HelloC, HelloS: d.HelloS, TH: d.TH[:], DevicesC: d.SeedC, DevicesS: d.SeedS, PreimageC: d.PreimageC,
			PreimageS: d.PreimageS, BC: d.BC[:], BS: d.BS[:], PersonInput: d.PersonC, EvidenceC: d.EvidenceC, EvidenceS: d.EvidenceS,
			FinishedC: d.FinishedC, FinishedS: d.FinishedS, FrameHelloC: transport.Frame(1, d.HelloC),
		}
	}
	for i := range t.LogKeys {
		k := &t.LogKeys[i]
		b, preimage := transport.LogKeyBinding(k.SPKI, k.Federation, [32]byte(k.Manifest), [32]byte(k.Head))
		k.B, k.Preimage = b[:], preimage
	}
}

func (e end) end() transport.End {
	out := transport.End{Office: attest.Office(e.Office), Name: e.Name, Nonce: [32]byte(e.Nonce), SPKI: e.SPKI}
	for _, p := range e.Evidence {
		out.Types = append(out.Types, attest.Type(p.Type))
	}
	return out
}

func (e end) evidence() []attest.Evidence {
	var all []attest.Evidence
	for _, p := range e.Evidence {
		one := attest.Evidence{Type: attest.Type(p.Type), Body: p.Body}
		for _, i := range p.Collateral {
			one.Collateral = append(one.Collateral, attest.Item{Kind: attest.Kind(i.Kind), Bytes: i.Bytes})
		}
		all = append(all, one)
	}
	return all
}

var transcriptFile = filepath.Join("testdata", "transcript.json")

// TestTranscript holds the channel's functions against the golden file, which other implementations may be held against.
func TestTranscript(t *testing.T) {
	want := given()
	want.derive()
	text, err := json.MarshalIndent(want, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, '\n')
	if *update {
		if err := os.WriteFile(transcriptFile, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(transcriptFile)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(golden), string(text)); d != "" {
		t.Errorf("testdata/transcript.json (-golden +now):\n%s", d)
	}
	for _, s := range want.Sessions {
		if b, err := transport.ReencodeHello(s.Derived.HelloC); err != nil || !bytes.Equal(b, s.Derived.HelloC) {
			t.Errorf("%s: HELLO_C does not parse: %v", s.Name, err)
		}
		if b, err := transport.ReencodeEvidence(s.Derived.EvidenceS, s.Server.end().Types); err != nil || !bytes.Equal(b, s.Derived.EvidenceS) {
			t.Errorf("%s: EVIDENCE_S does not parse: %v", s.Name, err)
		}
	}
}

// TestTranscriptByOthers has a script that shares no code with the channel compute the transcript, and shows that it would
// notice any value that is another.
func TestTranscriptByOthers(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		if os.Getenv("CONSILIUM_REQUIRE_ALL") == "1" {
			t.Fatal("python3 is not installed, and CONSILIUM_REQUIRE_ALL asks for every check")
		}
		t.Skip("python3 is not installed: the transcript was not computed by the independent script")
	}
	run := func(file string) ([]byte, error) {
		return exec.Command(python, filepath.Join("testdata", "transcript.py"), file).CombinedOutput()
	}
	if out, err := run(transcriptFile); err != nil {
		t.Errorf("the script differs: %v\n%s", err, out)
	}
	altered, values := given(), 0
	altered.derive()
	for i := range altered.Sessions {
		fields := reflect.ValueOf(&altered.Sessions[i].Derived).Elem()
		for _, field := range fields.Fields() {
			values += flip(field.Addr().Interface().(*octets))
		}
	}
	for i := range altered.LogKeys {
		values += flip(&altered.LogKeys[i].B) + flip(&altered.LogKeys[i].Preimage)
	}
	text, err := json.Marshal(altered)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "altered.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%d values computed, %d differ", values, values)
	if out, err := run(file); err == nil || !bytes.Contains(out, []byte(want)) {
		t.Errorf("of a file in which each value is altered the script says, with %v, not %q but:\n%s", err, want, out)
	}
}

// flip alters one bit, of one value.
func flip(o *octets) int {
	*o = bytes.Clone(*o)
	(*o)[len(*o)-1] ^= 1
	return 1
}

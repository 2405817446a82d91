package entry_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/entry"
)

var update = flag.Bool("update", false, "write the golden files anew")

var (
	salt = [16]byte{0: 0xa0, 15: 0x0f}
	at   = time.Date(2026, 3, 1, 12, 34, 56, 789012000, time.UTC)
)

func digest(b byte) entry.Digest { return entry.Digest{0: b, 31: b} }

func blob(b byte) entry.Blob {
	return entry.Blob{Plain: digest(b), Sealed: digest(b + 1), Size: 1 << 40}
}

// facts holds one fact of each kind, every field of it set, under the kind's name.
func facts() map[string]entry.Fact {
	model := blob(0x20)
	shares := []entry.Share{{Member: "budapest", Weight: 234}, {Member: "cleveland", Weight: 242}}
	return map[string]entry.Fact{
		"manifest_adopted": entry.ManifestAdopted{
			Federation: "four-hospitals", Epoch: 2, Manifest: digest(1), Previous: digest(2),
			Witnesses: "none: demonstration on one machine", Members: []entry.Member{"budapest", "cleveland"},
			Spent: entry.Spent{Epsilon: 0.5, Delta: 1e-6, Unit: "participant"}, Budget: entry.Budget{Unit: "participant", Epsilon: 8, Delta: 1e-6},
			Enclave: &entry.Enclave{
				Types: []string{"sev-snp"}, Sets: []string{"snp-coordinator"}, Simulated: "demo", Evidence: blob(14),
			},
			OldLog: entry.LogHead{Lines: 5120, Root: digest(16)},
		},
		"handed_over": entry.HandedOver{Epoch: 2, Size: 57, Cosigned: blob(15)},
		"booted": entry.Booted{
			Coordinator: "council", Instance: strings.Repeat("0f", 16), Version: "v0.1.0", Types: []string{"sev-snp"},
			Sets: []string{"snp-coordinator"}, Simulated: "demo", LogKey: "four-hospitals+5a1c2f00+AXyz", Evidence: blob(3), Since: at.Add(-time.Minute),
		},
		"admitted": entry.Admitted{
			Office: "participant", Name: "budapest", Instance: strings.Repeat("1e", 16), Types: []string{"nitro"},
			Sets: []string{"nitro-participant"}, Any: []string{"nitro-participant.modules: simulated <modules> & no others"},
			Simulated: "demo", Evidence: []entry.Digest{digest(5)}, Binding: digest(6), Numbers: []entry.Number{{Name: "sev-snp-Genoa.crl", Number: "5"}}, Kept: blob(7), Issued: at, Expires: at.Add(time.Hour),
		},
		"run_created": entry.RunCreated{
			Run: "0011223344556677", Request: "r-1", Lead: "lead", Manifest: digest(1),
			Members: []entry.Member{"budapest", "cleveland"}, Plan: plan(), Initial: &model, Model: digest(8),
		},
		"consented": entry.Consented{Run: "0011223344556677", Member: "budapest", Records: 234},
		"declined":  entry.Declined{Run: "0011223344556677", Member: "cleveland", Rule: "least_participants"},
		"left":      entry.Left{Run: "0011223344556677", Member: "cleveland", Reason: "the study has ended here"},
		"round_opened": entry.RoundOpened{
			Run: "0011223344556677", Round: 1, Try: 2, Kind: entry.Training, Base: &model, Model: digest(9),
			Selected: shares, Bound: 1.5e-11, Deadline: at.Add(90 * time.Second), Clip: 0.75, Early: entry.Absent,
		},
		"update_accepted": entry.UpdateAccepted{
			Run: "0011223344556677", Round: 1, Try: 2, Member: "budapest", Update: digest(10),
			Weight: 234, Bytes: 192, Resent: 64, Staleness: 3,
		},
		"update_refused": entry.UpdateRefused{
			Run: "0011223344556677", Round: 1, Try: 2, Member: "cleveland", Update: digest(11),
			Reason: "value",
		},
		"masks_agreed": entry.MasksAgreed{Run: "0011223344556677", Round: 1, Try: 2, Members: []entry.Member{"budapest", "cleveland"}},
		"unmasking": entry.Unmasking{
			Run: "0011223344556677", Round: 1, Try: 2, Members: []entry.Member{"budapest", "cleveland"}, Early: entry.Absent,
		},
		"round_failed": entry.RoundFailed{Run: "0011223344556677", Round: 1, Try: 1, Reason: "quorum", Spared: true, Unmade: true},
		"round_closed": entry.RoundClosed{
			Run: "0011223344556677", Round: 1, Try: 2, Kind: entry.Training, Base: digest(9), Model: digest(12),
			Blob: blob(13), State: &model, Members: []entry.Contribution{{Member: "budapest", Weight: 234, Update: digest(10), Effect: "clipped", Staleness: 3}},
			Spent: entry.Spent{Epsilon: 0.5, Delta: 1e-6, Unit: "participant"}, Clip: 0.875, Early: entry.ReportGoal,
		},
		"evaluated": entry.Evaluated{
			Run: "0011223344556677", Round: 1, Member: "budapest", Model: digest(12),
			Metrics: []entry.Metric{{Set: "test", Name: "loss", Value: 0.418835, Count: 59, Better: "min"}},
		},
		"run_ended": entry.RunEnded{Run: "0011223344556677", Outcome: "failed", Reason: "round 1 failed 3 times", Early: entry.Absent},
		"tag_moved": entry.TagMoved{Tag: "champion", From: digest(8), Model: digest(12), By: "lead"},
		"dropped":   entry.Dropped{Run: "0011223344556677", Rounds: []int{0, 1, 3}, Kept: entry.Duration(720 * time.Hour)},
	}
}

func plan() entry.Plan {
	return entry.Plan{
		Name: "heart", Note: "a café's \"first\"\tplan", Trainer: "builtin/logistic",
		Strategy: entry.Strategy{Name: "fedadam", Params: map[string]any{"beta1": 0.9, "beta2": 0.99}},
		Rounds:   50, Quorum: 3, ReportGoal: 4, Members: []entry.Member{"budapest", "cleveland"}, Deadline: entry.Duration(90 * time.Second),
		Grace: entry.Duration(30 * time.Second), MaxTime: entry.Duration(72 * time.Hour), Tries: 3,
		MaxAbs: 16, Resolution: 1e-9, Encoding: "bf16", TopK: 0.01, Masks: true, Seed: 1<<53 - 1, Local: entry.Local{Steps: 5, Epochs: 2, LearningRate: 0.1, Batch: 32, L2: 0.01},
		Standardize: &entry.Standardize{MaxAbs: 1 << 20, Given: map[string]entry.Scale{"age": {Mean: 54.5, Scale: 9.25}}}, Privacy: &entry.Privacy{
			Unit: "participant", ClipNorm: 0.5, NoiseMultiplier: 1.25, Delta: 1e-5,
			Adaptive:        &entry.AdaptiveClip{Quantile: 0.5, LearningRate: 0.2, CountStddev: 1.5},
			ExpectedRecords: 500, SamplingRate: 0.25,
		},
		Schema: json.RawMessage(`{"columns":[{"name":"age","kind":"number"}]}`),
	}
}

// TestGolden holds each kind's line against testdata/KIND.json. Logs hold such lines: they may not change.
func TestGolden(t *testing.T) {
	all := facts()
	for _, kind := range entry.Kinds() {
		f, ok := all[kind]
		if !ok {
			t.Errorf("there is no fact of the kind %s here, and so no golden line", kind)
			continue
		}
		t.Run(kind, func(t *testing.T) {
			path := filepath.Join("testdata", kind+".json")
			line := entry.Encode(salt, at, f)
			if *update {
				if err := os.WriteFile(path, append(line, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			golden, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			want := bytes.TrimSuffix(golden, []byte("\n"))
			if diff := cmp.Diff(string(want), string(line)); diff != "" {
				t.Errorf("Encode (-golden +got):\n%s", diff)
			}
			got, err := entry.Decode(want)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(entry.Line{Salt: salt, At: at, Fact: f}, got); diff != "" {
				t.Errorf("Decode (-want +got):\n%s", diff)
			}
		})
	}
	paths, err := filepath.Glob("testdata/*.json")
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) != len(entry.Kinds()) || len(all) != len(entry.Kinds()) {
		t.Errorf("%d golden lines and %d facts for %d kinds", len(paths), len(all), len(entry.Kinds()))
	}
}

// TestGoldenIsWhole fails where a fact above leaves a field zero: its name would stand in no golden line.
func TestGoldenIsWhole(t *testing.T) {
	for kind, f := range facts() {
		zeroFields(reflect.ValueOf(f), kind, func(path string) { t.Errorf("%s is zero", path) })
	}
}

func zeroFields(v reflect.Value, path string, report func(string)) {
	switch {
	case v.IsZero():
		report(path)
	case v.Kind() == reflect.Pointer:
		zeroFields(v.Elem(), path, report)
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct:
		zeroFields(v.Index(0), path+"[0]", report)
	case v.Kind() == reflect.Struct && v.Type() != reflect.TypeFor[time.Time]():
		for i := range v.NumField() {
			zeroFields(v.Field(i), path+"."+v.Type().Field(i).Name, report)
		}
	}
}

// TestInstants finds every instant in every kind of fact by reflection: Decode must know them, to hold them to UTC.
func TestInstants(t *testing.T) {
	for kind, f := range facts() {
		var want []time.Time
		for i := range reflect.TypeOf(f).NumField() {
			if v, ok := reflect.ValueOf(f).Field(i).Interface().(time.Time); ok {
				want = append(want, v)
			}
		}
		if got := entry.Instants(f); !slices.Equal(got, want) {
			t.Errorf("Instants(%s) = %v, want %v", kind, got, want)
		}
	}
}

// A case of TestDecodeRefuses replaces one thing in a good line of the kind.
func TestDecodeRefuses(t *testing.T) {
	const hex32 = "a000000000000000000000000000000f"
	for _, test := range []struct {
		name, kind, old, new, want string
	}{
		{"nothing", "consented", "*", "", "not JSON"},
		{"cut off", "consented", "}}", "}", "not JSON"},
		{"two lines", "consented", "}}", "}}{}", "not JSON"},
		{"a newline after it", "consented", "}}", "}}\n", "white space"},
		{"a newline before it", "consented", `{"salt"`, "\n" + `{"salt"`, "white space"},
		{"a blank inside", "consented", `,"kind"`, `, "kind"`, "white space"},
		{"a word after it", "consented", "}}", "}}x", "not JSON"},
		{"not UTF-8", "consented", "budapest", "buda\xffpest", "not UTF-8"},
		{"a list", "consented", "*", "[]", "cannot unmarshal"},
		{"null", "consented", "*", "null", "salt"},

		{"unknown kind", "consented", `"consented"`, `"agreed"`, `kind "agreed" of a fact is unknown`},
		{"no kind", "consented", `"kind":"consented",`, ``, "unknown"},
		{"another kind", "consented", `"consented"`, `"declined"`, "unknown field"},
		{"kind in upper case", "consented", `"consented"`, `"Consented"`, "unknown"},
		{"long kind", "consented", `"consented"`, `"` + strings.Repeat("x", 1000) + `"`, "unknown"},

		{"unknown field of the line", "consented", `{"salt"`, `{"sult":1,"salt"`, "unknown field"},
		{"unknown field of the fact", "consented", `"records":234`, `"records":234,"more":1`, "unknown field"},
		{"unknown field below", "round_opened", `"weight":234`, `"weight":234,"more":1`, "unknown field"},
		{"field in another case", "consented", `"records"`, `"Records"`, "not as it would be written"},
		{"missing field", "consented", `,"records":234`, ``, "not as it would be written"},
		{"missing fact", "consented", `,"fact":{"run":"0011223344556677","member":"budapest","records":234}`, ``, "consented"},
		{"field out of its place", "consented", `"member":"budapest","records":234`, `"records":234,"member":"budapest"`, "not as it would be written"},
		{"doubled salt", "consented", `{"salt"`, `{"salt":"` + hex32 + `","salt"`, "not as it would be written"},
		{"doubled field", "consented", `"records":234`, `"records":234,"records":234`, "not as it would be written"},
		{"doubled field in another case", "consented", `"records":234`, `"records":234,"RECORDS":234`, "not as it would be written"},
		{"doubled name of a map", "run_created", `"beta1":0.9`, `"beta1":0.9,"beta1":0.9`, "not as it would be written"},
		{"doubled name in the schema", "run_created", `"kind":"number"`, `"kind":"number","kind":"number"`, "doubled field"},
		{"null for a field", "consented", `"budapest"`, `null`, "not as it would be written"},
		{"null for the fact", "consented", `{"run":"0011223344556677","member":"budapest","records":234}`, `null`, "not as it would be written"},
		{"an empty field that is left out", "run_ended", `"round 1 failed 3 times"`, `""`, "not as it would be written"},
		{"number as text", "consented", `234`, `"234"`, "cannot unmarshal"},
		{"number in another form", "consented", `234`, `2.34e2`, "cannot unmarshal"},
		{"fraction in another form", "evaluated", `0.418835`, `4.18835e-1`, "not as it would be written"},
		{"digest in upper case", "consented", "*", "", ""}, // made below

		{"salt cut", "consented", hex32, hex32[:31], "a salt of 31 characters"},
		{"salt long", "consented", hex32, hex32 + "0", "a salt of 33 characters"},
		{"salt very long", "consented", hex32, hex32 + hex32, "a salt of 64 characters"},
		{"salt not hex", "consented", hex32, "g" + hex32[1:], "lower-case hex"},
		{"salt in upper case", "consented", hex32, "A" + hex32[1:], "not as it would be written"},
		{"no salt", "consented", `"salt":"` + hex32 + `",`, ``, "a salt of 0 characters"},

		{"at with an offset", "consented", "789012Z", "789012+01:00", "an instant that is not written as"},
		{"at with the offset zero", "consented", "789012Z", "789012+00:00", "an instant that is not written as"},
		{"at with nanoseconds", "consented", "789012Z", "789012001Z", "an instant that is not written as"},
		{"at with milliseconds", "consented", "789012Z", "789Z", "an instant that is not written as"},
		{"at without a fraction", "consented", ".789012Z", "Z", "an instant that is not written as"},
		{"at with a comma", "consented", ".789012Z", ",789012Z", "not as it would be written"},
		{"at on the 30th of February", "consented", "2026-03-01", "2026-02-30", "an instant that is not written as"},
		{"expiry not UTC", "admitted", `13:34:56.789012Z"}`, `14:34:56.789012+01:00"}`, "an instant that is not UTC"},
		{"deadline not UTC", "round_opened", `12:36:26.789012Z"`, `12:36:26.789012+00:00"`, "an instant that is not UTC"},
	} {
		t.Run(test.name, func(t *testing.T) {
			line := string(entry.Encode(salt, at, facts()[test.kind]))
			switch {
			case test.name == "digest in upper case":
				line = string(entry.Encode(salt, at, entry.TagMoved{Model: entry.Digest{0xab}}))
				line, test.want = strings.Replace(line, `"ab`, `"AB`, 1), "lower case"
			case test.old == "*":
				line = test.new
			case !strings.Contains(line, test.old):
				t.Fatalf("the line has no %q: %s", test.old, line)
			default:
				line = strings.Replace(line, test.old, test.new, 1)
			}
			got, err := entry.Decode([]byte(line))
			if err == nil {
				t.Fatalf("Decode took %s\nas %+v", line, got)
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("Decode = %v, want %q in it", err, test.want)
			}
			if diff := cmp.Diff(entry.Line{}, got); diff != "" {
				t.Errorf("Decode refused and gave a line: %s", diff)
			}
		})
	}
}

// Another spelling of the same characters is no other line: JSON libraries differ in what they escape.
func TestDecodeTakesEscapes(t *testing.T) {
	want := facts()["run_created"]
	line := strings.Replace(string(entry.Encode(salt, at, want)), "café", `caf\u00e9`, 1)
	line = strings.Replace(line, `\t`, `\u0009`, 1)
	got, err := entry.Decode([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got.Fact); diff != "" {
		t.Error(diff)
	}
}

// A line at the limit passes, one byte more does not, neither way.
func TestMaxLine(t *testing.T) {
	room := entry.MaxLine - len(entry.Encode(salt, at, entry.RunEnded{Reason: "x"})) + 1
	full := entry.RunEnded{Reason: strings.Repeat("x", room)}
	if err := entry.Check(full); err != nil {
		t.Errorf("Check of a line of the most bytes = %v", err)
	}
	line := entry.Encode(salt, at, full)
	if len(line) != entry.MaxLine {
		t.Errorf("the line has %d bytes, want %d", len(line), entry.MaxLine)
	}
	if _, err := entry.Decode(line); err != nil {
		t.Errorf("Decode of it = %v", err)
	}
	if err := entry.Check(entry.RunEnded{Reason: strings.Repeat("x", room+1)}); err == nil || !strings.Contains(err.Error(), "want at most") {
		t.Errorf("Check of one byte more = %v", err)
	}
	if _, err := entry.Decode(append(line, ' ')); err == nil || !strings.Contains(err.Error(), "want at most") {
		t.Errorf("Decode of one byte more = %v", err)
	}
	// Nothing grows by what only HTML minds: a plan that came in 256 KiB stays as long as it is.
	if err := entry.Check(entry.RunEnded{Reason: strings.Repeat("<", room)}); err != nil {
		t.Errorf("Check of as many characters of HTML = %v", err)
	}
}

type stranger struct{ entry.Fact }

// What others can send must not reach the log where it could not be read again.
func TestCheckRefuses(t *testing.T) {
	opened := facts()["round_opened"].(entry.RoundOpened)
	for _, test := range []struct {
		name string
		fact entry.Fact
		want string
	}{
		{"nothing", nil, "not one of the facts"},
		{"a pointer", &entry.RunEnded{}, "not one of the facts"},
		{"a stranger's", stranger{entry.RunEnded{}}, "not one of the facts"},
		{"NaN", entry.Evaluated{Metrics: []entry.Metric{{Value: math.NaN()}}}, "unsupported value"},
		{"infinity", entry.RoundClosed{Spent: entry.Spent{Epsilon: math.Inf(1)}}, "unsupported value"},
		{"text that is not UTF-8", entry.Declined{Rule: "a\xffb"}, "not UTF-8"},
		{"schema that is not UTF-8", entry.RunCreated{Plan: entry.Plan{Schema: json.RawMessage("{\"\xff\":1}")}}, "UTF-8"},
		{"schema that is not JSON", entry.RunCreated{Plan: entry.Plan{Schema: json.RawMessage("{")}}, "unexpected end"},
		{"schema with a doubled name", entry.RunCreated{Plan: entry.Plan{Schema: json.RawMessage(`{"a":{"b":1,"b":1}}`)}}, "doubled"},
		{"too long", entry.Evaluated{Metrics: make([]entry.Metric, 20000)}, "want at most"},
		{"deadline of another zone", func() entry.Fact {
			opened.Deadline = opened.Deadline.In(time.FixedZone("", 3600))
			return opened
		}(), "not UTC"},
		{"deadline in the year 10000", func() entry.Fact {
			opened.Deadline = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
			return opened
		}(), "year"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := entry.Check(test.fact)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Check = %v, want an error with %q", err, test.want)
			}
			wantPanic(t, func() { entry.Encode(salt, at, test.fact) })
		})
	}
	for kind, f := range facts() {
		if err := entry.Check(f); err != nil {
			t.Errorf("Check(%s) = %v", kind, err)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	f := facts()["run_ended"]
	wantPanic(t, func() { entry.Encode(salt, at.Add(time.Nanosecond), f) })
	wantPanic(t, func() { entry.Encode(salt, time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), f) })
	zone := entry.Encode(salt, at.In(time.FixedZone("", -3600)), f)
	if want := entry.Encode(salt, at, f); !bytes.Equal(zone, want) {
		t.Errorf("Encode of the same instant in another zone = %s, want %s", zone, want)
	}
}

func wantPanic(t *testing.T, f func()) {
	t.Helper()
	defer func() {
		if cause := fmt.Sprint(recover()); !strings.HasPrefix(cause, "entry: ") {
			t.Errorf("panic(%s), want one of this package", cause)
		}
	}()
	f()
}

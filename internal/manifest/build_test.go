package manifest_test

import (
	"fmt"
	"strings"
	"testing"

	"consilium.dev/internal/manifest"
)

// Every refusal once, by name. Lines are those of testdata/manifest.yaml.
func textsRefused(t *testing.T) {
	text := read(t, "manifest.yaml")
	long := strings.Repeat("a", 64)
	const none = `{none: true, reason: "demonstration on one machine"}`
	two := func(quorum string) string { return `{quorum: ` + quorum + `, members: [cleveland, budapest]}` }
	for _, test := range []struct {
		name  string
		pairs []string // replaced in the text
		want  string
	}{
		{"unknown field", []string{"epoch: 1", "epoch: 1\nepohc: 2"}, `line 6: unknown field "epohc" in the document`},
		{"unknown field below", []string{"smt: false, abi_min", "smtt: false, abi_min"}, `unknown field "smtt" in reference_sets.snp-coordinator.policy`},
		{"missing field", []string{"epoch: 1\n", "# epoch: 1\n"}, `field "epoch" is missing`},
		{"missing field below", []string{"vmpl: 0\n", "\n"}, `line 23: reference_sets.snp-coordinator: field "vmpl" is missing`},
		{"doubled field", []string{"epoch: 1", "epoch: 1\nepoch: 1"}, `line 6: field "epoch" stands twice`},
		{"doubled field below", []string{"guest_svn_min: 1", "vmpl: 0\n    guest_svn_min: 1"}, `field "vmpl" stands twice`},
		{"empty document", []string{text, ""}, "document"},
		{"a list", []string{text, "- 1"}, "the document: is a list, want a group of fields"},
		{"two documents", []string{"epoch: 1", "---\nepoch: 1"}, "document"},
		{"anchor", []string{"schema: consilium", "schema: &x consilium"}, "anchors"},
		{"merge", []string{"epoch: 1", "<<: {epoch: 1}"}, "anchors"},
		{"null", []string{"epoch: 1\n", "epoch:\n"}, "epoch: is nothing, want a number"},
		{"list as a name", []string{"epoch: 1", "? [a]\n: 1\nepoch: 1"}, "name must be plain text"},
		{"deep", []string{"strategies: [", "strategies: [" + strings.Repeat("[", 20) + strings.Repeat("]", 20) + ", "}, "levels deep"},
		{"wide", []string{"strategies: [", "strategies: [" + strings.Repeat("x,", 2200)}, "more than 1024 items"},
		{"too long", []string{"epoch: 1", "#" + strings.Repeat("x", 1<<20) + "\nepoch: 1"}, "want at most"},
		{"payload too long", []string{`reason: "demonstration on`, `reason: "` + strings.Repeat("x", 1<<19)}, "want 1 to 300"},
		{"timestamp", []string{"federation: four-hospitals", "federation: 2026-01-01"}, "needs quotes"},
		{"binary", []string{"federation: four-hospitals", "federation: !!binary aGk="}, "federation"},
		{"own tag", []string{"federation: four-hospitals", "federation: !hi four"}, "federation"},

		{"schema", []string{"manifest/1", "manifest/2"}, "schema: is \"consilium.manifest/2\", want one of consilium.manifest/1"},
		{"federation", []string{"federation: four-hospitals", "federation: Four"}, "line 4: federation: \"Four\" must be made of"},
		{"federation empty", []string{"federation: four-hospitals", "federation: \"\""}, "federation: has 0 bytes, want 1 to 63"},
		{"federation long", []string{"federation: four-hospitals", "federation: " + long}, "federation: has 64 bytes, want 1 to 63"},
		{"epoch 0", []string{"epoch: 1", "epoch: 0"}, "epoch: is 0, want a whole number from 1"},
		{"epoch not whole", []string{"epoch: 1", "epoch: 1.0"}, "epoch: is 1.0, want a whole number"},
		{"epoch in hex", []string{"epoch: 1", "epoch: 0x1"}, "\"0x1\" is not a decimal number"},
		{"epoch with a leading zero", []string{"epoch: 1", "epoch: 01"}, "is not a decimal number"},
		{"epoch beyond 2^53", []string{"epoch: 1", "epoch: 9007199254740992"}, "want a whole number from 1 to 9007199254740991"},
		{"epoch as text", []string{"epoch: 1", "epoch: \"1\""}, "epoch: is text, want a number"},
		{"prev at epoch 1", []string{`prev: ""`, `prev: "` + long + `"`}, "prev: must be empty at epoch 1, and only there"},
		{"no prev at epoch 2", []string{"epoch: 1", "epoch: 2"}, "prev: must be empty at epoch 1, and only there"},
		{"prev short", []string{"epoch: 1", "epoch: 2", `prev: ""`, `prev: "ab"`}, "prev: want 32 bytes as 64 lower-case hex digits"},
		{"prev upper case", []string{"epoch: 1", "epoch: 2", `prev: ""`, `prev: "` + strings.ToUpper(long) + `"`}, "prev: want 32 bytes"},

		{"k of n/2", []string{"threshold: 3", "threshold: 2"}, "line 7: threshold: is 2 of 4 members, want more than half: 3 to 4"},
		{"k of 0", []string{"threshold: 3", "threshold: 0"}, "threshold: is 0"},
		{"k above n", []string{"threshold: 3", "threshold: 5"}, "threshold: is 5 of 4 members"},
		{"member twice", []string{"{name: budapest", "{name: cleveland"}, `line 10: members[1].name: two members are named "cleveland"`},
		{"member without identity", []string{", identity: \"" + public(t, "identity budapest") + "\"", ""}, `members[1]: field "identity" is missing`},
		{
			"key twice",
			[]string{public(t, "identity longbeach"), public(t, "governance cleveland")},
			"members[3].identity: the same key stands in members[0].governance",
		},
		{
			"person's key is a member's",
			[]string{public(t, "person lead"), public(t, "identity budapest")},
			"people[0].key: the same key stands in members[1].identity",
		},
		{
			"coordinator's key is a person's",
			[]string{public(t, "identity council"), public(t, "person lead")},
			"coordinators[0].identity: the same key stands in people[0].key",
		},
		{"key cut", []string{public(t, "identity budapest"), "MCowBQYDK2VwAyEA"}, "members[1].identity: is not an Ed25519 public key"},
		{"key with a line break", []string{public(t, "identity budapest"), `MCow\nBQYDK2VwAyEA`}, "members[1].identity: want 1 to 64 bytes in padded standard base64"},
		{"key of another kind", []string{public(t, "identity budapest"), p256}, "members[1].identity"},
		{"person of no member", []string{"member: cleveland", "member: boston"}, `line 14: people[0].member: there is no member "boston"`},
		{"person twice", []string{"{name: auditor", "{name: lead"}, `people[1].name: two people are named "lead"`},
		{"person's right", []string{"may: [audit]", "may: [admin]"}, `people[1].may[0]: is "admin", want one of lead, audit`},
		{"person's right twice", []string{"may: [audit]", "may: [audit, audit]"}, "people[1].may[1]: stands twice in its list"},
		{"person without rights", []string{"may: [audit]", "may: []"}, "people[1].may: is empty"},
		{"coordinator twice", []string{"\nwitnesses", "\n  - {name: council, identity: \"" + public(t, "x") + "\"}\nwitnesses"}, "two coordinators are named"},
		{"witnesses", []string{"none: true", "none: false"}, "witnesses.none: is false"},
		{"witnesses without reason", []string{`, reason: "demonstration on one machine"`, ""}, `witnesses: field "reason" is missing`},
		{"witnesses of neither kind", []string{none, `{quorum: 3}`}, `witnesses: field "members" is missing`},
		{"witnesses of both kinds", []string{none, `{none: true, reason: "x", quorum: 3}`}, `line 18: unknown field "quorum" in witnesses`},
		{"witnesses as a list", []string{none, `[cleveland]`}, "witnesses: is a list, want a group of fields"},
		{"no witnesses", []string{none, `{quorum: 1, members: []}`}, "witnesses.members: is empty"},
		{"quorum of half", []string{none, two("1")}, "line 18: witnesses.quorum: is 1 of 2 witnesses, want more than half: 2 to 2"},
		{"quorum of two of four", []string{none, `{quorum: 2, members: [cleveland, budapest, switzerland, longbeach]}`}, "witnesses.quorum: is 2 of 4 witnesses, want more than half: 3 to 4"},
		{"quorum of 0", []string{none, two("0")}, "witnesses.quorum: is 0, want a whole number from 1"},
		{"quorum above the witnesses", []string{none, two("3")}, "witnesses.quorum: is 3 of 2 witnesses"},
		{"quorum as text", []string{none, two(`"2"`)}, "witnesses.quorum: is text, want a number"},
		{"witness twice", []string{none, `{quorum: 2, members: [cleveland, cleveland]}`}, "witnesses.members[1]: stands twice in its list"},
		{"witness that is no member", []string{none, `{quorum: 2, members: [cleveland, boston]}`}, `line 18: witnesses.members[1]: there is no member "boston"`},
		{"witness of a person's name", []string{none, `{quorum: 1, members: [lead]}`}, `there is no member "lead"`},
		{"old log at epoch 1", []string{"roots:", "old_log: {lines: 5, root: \"" + strings.Repeat("ab", 32) + "\"}\nroots:"}, "old_log: there is no log before epoch 1"},
		{"old log without lines", []string{"roots:", "old_log: {lines: 0, root: \"" + strings.Repeat("ab", 32) + "\"}\nroots:"}, "old_log.lines: is 0, want a whole number from 1"},
		{"old log without root", []string{"roots:", "old_log: {lines: 5}\nroots:"}, `old_log: field "root" is missing`},
		{"old log with a short root", []string{"roots:", "old_log: {lines: 5, root: ab}\nroots:"}, "old_log.root: want 32 bytes"},
		{"reason with control characters", []string{"demonstration on one", `demonstration\x1b[2J one`}, "witnesses.reason: holds characters that do not print"},

		{"root not base64", []string{`demo: ["MIIB`, `demo: ["*IIB`}, "roots.demo[0]: want 1 to 8192 bytes"},
		{"root not a certificate", []string{`demo: ["MIIB`, `demo: ["AAAA`}, "roots.demo[0]: is not a certificate"},
		{"root unused", []string{"roots: ", "roots:\n  other: [\"" + "AAAA\"]"}, "no set is about evidence of the root \"other\""},
		{"roots empty", []string{"  demo: [", "  {}\n#  demo: ["}, "roots: is empty"},
		{"root without certificates", []string{"  demo: [", "  demo: []\n#  demo: ["}, "roots.demo: is empty"},
		{"root with too many certificates", []string{`demo: ["MIIB`, `demo: [` + strings.Repeat(`"AAAA", `, 8) + `"MIIB`}, "roots.demo: has 9 certificates, want at most 8"},
		{"root's name", []string{"  demo: [", "  Demo: ["}, "roots.Demo: \"Demo\" must be made of"},
		{"root unknown", []string{"simulated: demo", "simulated: dmeo"}, `reference_sets.snp-coordinator: there is no root "dmeo"`},

		{"set's name", []string{"  snp-coordinator:", "  SNP:"}, "reference_sets.SNP: \"SNP\" must be made of"},
		{"set without type", []string{"type: sev-snp\n", "\n"}, `reference_sets.snp-coordinator: field "type" is missing`},
		{"set of a type without fields", []string{"type: sev-snp", "type: cca"}, "reference_sets.snp-coordinator.type: is \"cca\", want one of sev-snp, tdx, sgx, nitro"},
		{"set unused", []string{"sets: [snp-participant, nitro-participant]", "sets: [nitro-participant]"}, "no office uses this set"},
		{"product line", []string{"[Genoa]", "[Rome]"}, "product_lines[0]: is \"Rome\", want one of Milan, Genoa, Turin"},
		{"measurement short", []string{`measurements: ["a1`, `measurements: ["`}, "measurements[0]: want 48 bytes as 96"},
		{"measurement twice", []string{strings.Repeat("a2", 48), strings.Repeat("a1", 48)}, "measurements[1]: stands twice"},
		{"measurement zero", []string{strings.Repeat("a1", 48), strings.Repeat("00", 48)}, "measurements[0]: is all zero"},
		{"measurement as a number", []string{`"` + strings.Repeat("a1", 48) + `"`, strings.Repeat("11", 48)}, "put it in quotes"},
		{"measurements empty", []string{`["` + strings.Repeat("b1", 48) + `"]`, "[]"}, "measurements: is empty"},
		{"measurements any", []string{`["` + strings.Repeat("b1", 48) + `"]`, `{any: true, reason: "x"}`}, "measurements: is a group of fields, want a list"},
		{"debug", []string{"debug: false", "debug: true"}, "policy.debug: is true: a debug enclave hides nothing"},
		{"debug any", []string{"debug: false", `debug: {any: true, reason: "x"}`}, "policy.debug: is a group of fields"},
		{"yes for true", []string{"smt: false, abi", "smt: no, abi"}, "policy.smt"},
		{"True for true", []string{"tsme: true", "tsme: True"}, `write true or false instead of "True"`},
		{"any false", []string{"single_socket: {any: true", "single_socket: {any: false"}, "single_socket.any: is false"},
		{"any without reason", []string{`single_socket: {any: true, reason: "demonstration"}`, "single_socket: {any: true}"}, `single_socket: field "reason" is missing`},
		{"any with an empty reason", []string{`single_socket: {any: true, reason: "demonstration"}`, `single_socket: {any: true, reason: ""}`}, "single_socket.reason: has 0 bytes"},
		{"any as a word", []string{`single_socket: {any: true, reason: "demonstration"}`, "single_socket: any"}, "single_socket: is text, want true or false"},
		{"abi as a number", []string{`abi_min: "1.55"`, "abi_min: 1.55"}, "abi_min: is a number, want text: put it in quotes"},
		{"abi", []string{`abi_min: "1.55"`, `abi_min: "1"`}, "abi_min: want a version such as 1.55"},
		{"vmpl", []string{"vmpl: 0", "vmpl: 4"}, "vmpl: is 4, want a whole number from 0 to 3"},
		{"tcb missing", []string{", microcode: 72", ""}, `tcb_min: field "microcode" is missing`},
		{"tcb beyond a byte", []string{"microcode: 72", "microcode: 256"}, "tcb_min.microcode: is 256"},
		{"fmc without Turin", []string{"{bootloader: 9", "{fmc: 1, bootloader: 9"}, `unknown field "fmc"`},
		{"Turin without fmc", []string{"[Genoa]", "[Genoa, Turin]"}, `tcb_min: field "fmc" is missing`},
		{"host data", []string{`host_data: "00`, `host_data: "`}, "host_data: want 32 bytes"},
		{"chip ids empty", []string{`chip_ids: {any: true, reason: "simulated chips"}`, "chip_ids: []"}, "chip_ids: is empty"},
		{"chip id zero", []string{`chip_ids: {any: true, reason: "simulated chips"}`, `chip_ids: ["` + strings.Repeat("00", 64) + `"]`}, "chip_ids[0]: is all zero"},
		{"revocation", []string{`revocation: {any: true, reason: "no CRL in the demonstration"}`, "revocation: {max_age: 1y}"}, "revocation.max_age: is \"1y\""},
		{"pcr missing", []string{`2: "` + strings.Repeat("c2", 48), `3: "` + strings.Repeat("c2", 48)}, "pcrs: index 2 is missing"},
		{"pcrs empty", []string{"pcrs: {", "pcrs: {}\n#"}, "pcrs: is empty"},
		{"pcr index", []string{"{0: ", "{32: "}, "pcrs.32: want an index from 0 to 31"},
		{"pcr index in hex", []string{"{0: ", "{0x0: "}, "pcrs.0x0: want an index"},
		{"pcr zero", []string{strings.Repeat("c1", 48), strings.Repeat("00", 48)}, "pcrs.1: is all zero"},
		{"max age", []string{"max_age: 5m", "max_age: 0s"}, "max_age: is \"0s\", want whole seconds"},
		{"max age fraction", []string{"max_age: 5m", "max_age: 1500ms"}, "max_age: is \"1500ms\""},
		{"max age long", []string{"max_age: 5m", "max_age: 25h"}, "at most 24h"},

		{"office missing", []string{"  coordinator: {types", "#  coordinator: {types"}, `offices: field "coordinator" is missing`},
		{"office's set unknown", []string{"sets: [snp-coordinator]", "sets: [snp]"}, "offices.coordinator.sets[0]: there is no such reference set"},
		{"office's set twice", []string{"sets: [snp-coordinator]", "sets: [snp-coordinator, snp-coordinator]"}, "sets[1]: stands twice"},
		{"office's set of another type", []string{"sets: [snp-coordinator]", "sets: [snp-coordinator, nitro-participant]"}, "judges nitro, which is not among the office's types"},
		{"office's type without set", []string{"types: [[sev-snp]]", "types: [[sev-snp], [nitro]]"}, "no set of the office judges nitro"},
		{"office's type twice", []string{"types: [[sev-snp]]", "types: [[sev-snp], [sev-snp]]"}, "types[1]: stands twice"},
		{"office with two platforms at once", []string{"types: [[sev-snp]]", "types: [[sev-snp, nitro]]"}, "names 2 types"},
		{"office's type unknown", []string{"types: [[sev-snp]]", "types: [[snp]]"}, `is "snp", want one of sev-snp, tdx, sgx, nitro`},
		{"ttl", []string{"appraisal_ttl: 1h", "appraisal_ttl: 25h"}, "appraisal_ttl: is \"25h\""},
		{"pq", []string{"pq: require", "pq: off"}, "pq: is \"off\", want one of require, prefer"},

		{"strategy twice", []string{"[fedavg, fedadam]", "[fedavg, fedavg]"}, "runs.strategies[1]: stands twice"},
		{"strategies empty", []string{"[fedavg, fedadam]", "[]"}, "runs.strategies: is empty"},
		{"trainer", []string{"[builtin/logistic]", "[\"builtin logistic\"]"}, "runs.trainers[0]: \"builtin logistic\" must be made of"},
		{"least participants", []string{"least_participants: 3", "least_participants: 5"}, "is 5, but there are 4 members"},
		{"least participants 0", []string{"least_participants: 3", "least_participants: 0"}, "least_participants: is 0"},
		{"max_abs 0", []string{"max_abs: 1048576", "max_abs: 0"}, "max_abs: is 0, want a number above 0"},
		{"max_abs infinite", []string{"max_abs: 1048576", "max_abs: .inf"}, "is not a decimal number"},
		{"max_abs beyond float32", []string{"max_abs: 1048576", "max_abs: 1e39"}, "max_abs: is 1e39, want a number above 0"},
		{"rounds", []string{"rounds_max: 200", "rounds_max: 2000000"}, "rounds_max: is 2000000"},
		{"records", []string{"rounds_max: 200", "rounds_max: 200\n  records_max: 536870913"}, "records_max: is 536870913, want a whole number from 1 to 536870912"},
		{"no records", []string{"rounds_max: 200", "rounds_max: 200\n  records_max: 0"}, "records_max: is 0"},
		{"privacy of a unit that there is not", []string{"rounds_max: 200", "rounds_max: 200\n  privacy: {unit: patient, epsilon: 8, delta: 1.0e-5}"}, "privacy.unit"},
		{"privacy without a bound", []string{"rounds_max: 200", "rounds_max: 200\n  privacy: {unit: participant, epsilon: 1001, delta: 1.0e-5}"}, "epsilon: is 1001"},
		{"privacy without delta", []string{"rounds_max: 200", "rounds_max: 200\n  privacy: {unit: participant, epsilon: 8, delta: 0}"}, "delta: is 0"},
		{"reader", []string{"models: [lead]", "models: [cleveland]"}, `readers.models[0]: there is no person "cleveland"`},
		{"readers empty", []string{"metrics: [lead]", "metrics: []"}, "readers.metrics: is empty"},
	} {
		t.Run(test.name, func(t *testing.T) {
			payload, err := manifest.Build([]byte(edited(t, text, test.pairs...)))
			if err == nil {
				t.Fatalf("Build took it: %s", payload)
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("Build = %v\nwant %q in it", err, test.want)
			}
			if !strings.Contains(err.Error(), "line ") && !strings.Contains(err.Error(), "document") && test.name != "too long" {
				t.Errorf("Build = %v\nwhich names no line", err)
			}
		})
	}
}

// p256 is a public key of another kind, PKIX in base64.
const p256 = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q=="

func TestBuildNamesAllFaults(t *testing.T) {
	text := edited(t, read(t, "manifest.yaml"), "rounds_max: 200", "rounds_max: 0", "epoch: 1", "epoch: -1", "vmpl: 0", "vmlp: 0")
	_, err := manifest.Build([]byte(text))
	if err == nil {
		t.Fatal("Build took it")
	}
	at := -1
	for _, want := range []string{
		"line 5: epoch: is -1", `line 23: reference_sets.snp-coordinator: field "vmpl" is missing`,
		`line 28: unknown field "vmlp" in reference_sets.snp-coordinator`, "runs.rounds_max: is 0",
	} {
		next := strings.Index(err.Error(), want)
		if next <= at {
			t.Errorf("Build = %v\nwant %q in it, after those of the lines before", err, want)
		}
		at = next
	}
}

// Each list is within its limit, and the text within its own, but the manifest would not fit into an envelope.
func TestBuildBoundsThePayload(t *testing.T) {
	var digests strings.Builder
	for i := range 1024 {
		fmt.Fprintf(&digests, "%q, ", fmt.Sprintf("%096x", i+1))
	}
	text, list := read(t, "manifest.yaml"), "measurements: ["+strings.TrimSuffix(digests.String(), ", ")+"]"
	text = edited(t, text, `measurements: ["`+strings.Repeat("b1", 48)+`"]`, list)
	if _, err := manifest.Build([]byte(text)); err != nil {
		t.Errorf("Build of a list of 1024 = %v", err)
	}
	from, to := strings.Index(text, "  snp-participant:"), strings.Index(text, "  nitro-participant:")
	whole := text[from:to]
	for i := range 5 {
		set := fmt.Sprintf("snp-%d", i)
		text = edited(t, text, whole, whole+strings.Replace(whole, "snp-participant", set, 1))
		text = edited(t, text, "sets: [snp-participant,", "sets: [snp-participant, "+set+",")
	}
	_, err := manifest.Build([]byte(text))
	if err == nil || !strings.Contains(err.Error(), "the manifest has 6") || !strings.Contains(err.Error(), "want at most 524288") {
		t.Errorf("Build of %d bytes = %v, want that the manifest is too long", len(text), err)
	}
}

func TestBuildBoundsItsAnswer(t *testing.T) {
	var text strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&text, "f%d: 1\n", i)
	}
	_, err := manifest.Build([]byte(text.String()))
	if err == nil || len(err.Error()) > 10_000 {
		t.Errorf("Build = %d bytes of faults, want at most 10000", len(err.Error()))
	}
}

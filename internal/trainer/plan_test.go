package trainer_test

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/trainer"
)

const minute = entry.Duration(time.Minute)

// least is a plan with nothing in it that has a default.
const least = `name: least
rounds: 3
quorum: 2
local: {learning_rate: 0.5}
schema:
  columns:
    - {name: x, use: number}
    - {name: y, use: label, above: 0}
`

func TestParsePlanDefaults(t *testing.T) {
	got, err := trainer.ParsePlan([]byte(least))
	if err != nil {
		t.Fatal(err)
	}
	want := entry.Plan{
		Name: "least", Trainer: "builtin/logistic", Strategy: entry.Strategy{Name: "fedavg"}, Rounds: 3, Quorum: 2,
		Deadline: 10 * minute, Tries: 3, MaxAbs: 16, Local: entry.Local{Steps: 1, LearningRate: 0.5},
		Schema: []byte(`{"columns":[{"name":"x","use":"number"},{"above":0,"name":"y","use":"label"}]}`),
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("plan (-got +want):\n%s", diff)
	}
}

func TestParsePlan(t *testing.T) {
	text := `name: all
note: of every key
trainer: builtin/logistic
strategy: {name: fedadam, params: {learning_rate: 1, tau: 1e-8, bias_correction: adam}}
rounds: 7
members: [north, south, west]
deadline: 90s
tries: 5
max_abs: 0.5
resolution: 1e-9
encoding: int8
seed: 9007199254740991
local: {steps: 20, learning_rate: 0.25, batch: 32, l2: 0.125}
standardize: {max_abs: 1024}
schema: {header: true, columns: [{name: x, use: number, count: 2}, {name: y, use: label, above: 0.5}]}
`
	got, err := trainer.ParsePlan([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := entry.Plan{
		Name: "all", Note: "of every key", Trainer: trainer.Logistic,
		Strategy: entry.Strategy{Name: "fedadam", Params: map[string]any{"learning_rate": 1.0, "tau": 1e-8, "bias_correction": "adam"}},
		Rounds:   7, Quorum: 3, Members: []entry.Member{"north", "south", "west"}, Deadline: entry.Duration(90 * time.Second),
		Tries: 5, MaxAbs: 0.5, Resolution: 1e-9, Encoding: "int8", Seed: 1<<53 - 1,
		Local:       entry.Local{Steps: 20, LearningRate: 0.25, Batch: 32, L2: 0.125},
		Standardize: &entry.Standardize{MaxAbs: 1024},
		Schema:      []byte(`{"columns":[{"count":2,"name":"x","use":"number"},{"above":0.5,"name":"y","use":"label"}],"header":true}`),
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("plan (-got +want):\n%s", diff)
	}
	d, err := trainer.Describe(got)
	if err != nil {
		t.Fatal(err)
	}
	if names := []string{"linear.bias", "linear.weight", "standardize.mean", "standardize.scale"}; len(d.Layout) != 4 {
		t.Errorf("layout = %v, want %v", d.Layout, names)
	}
	if err := d.Layout.Validate(); err != nil || d.Layout.Len() != 7 {
		t.Errorf("layout of %d values: %v, want a valid one of 7", d.Layout.Len(), err)
	}
}

// TestDescribe: an update may move bias and weights by max_abs, and the tensors of standardising not at all.
func TestDescribe(t *testing.T) {
	d, err := trainer.Describe(plan(2, true))
	if err != nil {
		t.Fatal(err)
	}
	spec := aggregate.Spec{Ranges: d.Training}
	for name, c := range map[string]struct {
		update []float32
		good   bool
	}{
		"at the limit":   {[]float32{16, -16, 16, 0, 0, 0, 0}, true},
		"bias beyond":    {[]float32{17, 0, 0, 0, 0, 0, 0}, false},
		"weight beyond":  {[]float32{0, 0, -17, 0, 0, 0, 0}, false},
		"mean moved":     {[]float32{0, 0, 0, 0x1p-40, 0, 0, 0}, false},
		"scale moved":    {[]float32{0, 0, 0, 0, 0, 0, 0x1p-40}, false},
		"value too many": {make([]float32, 8), false},
	} {
		if err := spec.Check(c.update); (err == nil) != c.good {
			t.Errorf("%s: Check = %v, want it good: %t", name, err, c.good)
		}
	}
	plain, err := trainer.Describe(plan(2, false))
	if err != nil || plain.Statistics != nil || plain.Layout.Len() != 3 || len(plain.Training) != 1 {
		t.Errorf("Describe without standardising = %v, %v, want three values and no statistics", plain, err)
	}
}

// TestParsePlanRefuses changes the least plan in one place each.
func TestParsePlanRefuses(t *testing.T) {
	for _, c := range []struct{ name, old, new, want string }{
		{"empty", least, "", "document"},
		{"too long", "name: least", "name: least # " + strings.Repeat("x", 256<<10), "at most 262144 are allowed"},
		{"unknown key", "rounds:", "epochs: 3\nrounds:", `line 2, column 1: unknown key "epochs"`},
		{"unknown key of a group", "learning_rate", "lr: 1, learning_rate", `unknown key "lr"`},
		{"doubled key", "quorum: 2", "quorum: 2\nrounds: 4", `line 4`},
		{"alias", "quorum: 2", "quorum: &q 2\ntries: *q", "line 3: anchors"},
		{"word for a number", "rounds: 3", "rounds: three", "line 2"},
		{"word for a duration", "quorum: 2", "quorum: 2\ndeadline: soon", "duration"},
		{"no schema", least[strings.Index(least, "schema:"):], "", "plan: key schema is missing"},
		{"schema of another kind", least[strings.Index(least, "schema:"):], "schema: [1]", "all of it: want an object"},
		{"fault in the schema", "use: number", "use: numeral", `x: use is "numeral", want`},
		{"unknown key in the schema", "use: number", "use: number, unit: mg", `unknown field "unit"`},
		{"number that two versions of YAML read differently", "rounds: 3", "rounds: 010", "line 2: a number with leading zeros"},
		{"levels that are numbers", "use: number", "use: category, levels: [1, 2]", `columns.levels: want text, as in "1", not a JSON number`},
		{"infinity in the schema", "above: 0", "above: .inf", "plan: schema has no JSON"},
		{"no quorum", "quorum: 2\n", "", "quorum is 0, want 1 to 65536"},
		{"no rate", "{learning_rate: 0.5}", "{steps: 1}", "local.learning_rate is 0, want above 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(least, c.old, c.new, 1)
			if text == least {
				t.Fatalf("the plan has no %q", c.old)
			}
			if _, err := trainer.ParsePlan([]byte(text)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("ParsePlan = %v, want an error with %q", err, c.want)
			} else if strings.Contains(err.Error(), "\n") || !strings.HasPrefix(err.Error(), "plan") {
				t.Errorf("ParsePlan = %q, want one line that begins with plan", err)
			}
		})
	}
}

// buffer is the strategy of asynchronous rounds.
func buffer(size float64) entry.Strategy {
	return entry.Strategy{Name: "fedbuff", Params: map[string]any{"buffer_size": size}}
}

// TestParseBuffer: a quorum that is left out is the buffer's size under an asynchronous strategy.
func TestParseBuffer(t *testing.T) {
	text := strings.Replace(least, "quorum: 2\n", "strategy: {name: fedbuff, params: {buffer_size: 2}}\nmembers: [a, b, c]\n", 1)
	p, err := trainer.ParsePlan([]byte(text))
	if err != nil || p.Quorum != 2 {
		t.Errorf("quorum %d, %v, want 2", p.Quorum, err)
	}
	_, err = trainer.ParsePlan([]byte(strings.Replace(text, "buffer_size: 2", "buffer_size: 4", 1)))
	if want := "plan: buffer_size 4 of strategy fedbuff, of 3 members"; err == nil || err.Error() != want {
		t.Errorf("a buffer for more than there are: %v, want %s", err, want)
	}
}

// TestCheckPlan changes a good plan in one place each, at both ends of what is allowed and beyond.
func TestCheckPlan(t *testing.T) {
	list := func(n int) []entry.Member {
		var all []entry.Member
		for i := range n {
			all = append(all, entry.Member(strings.Repeat("m", 1+i%60)+strings.Repeat("n", i/60)))
		}
		return all
	}
	nan, inf := math.NaN(), math.Inf(1)
	for _, c := range []struct {
		name   string
		change func(*entry.Plan)
		want   string // "" for a plan that is good
	}{
		{"good", func(*entry.Plan) {}, ""},
		{"no name", func(p *entry.Plan) { p.Name = "" }, "name has 0 bytes, want 1 to 64"},
		{"longest name", func(p *entry.Plan) { p.Name = strings.Repeat("x", 64) }, ""},
		{"long name", func(p *entry.Plan) { p.Name = strings.Repeat("x", 65) }, "name has 65 bytes"},
		{"name that is no text", func(p *entry.Plan) { p.Name = "a\xff" }, "name has 2 bytes"},
		{"name with a newline", func(p *entry.Plan) { p.Name = "a\nb" }, `name holds '\n'`},
		{"name with an escape", func(p *entry.Plan) { p.Name = "a\x1b[31m" }, `name holds '\x1b'`},
		{"long note", func(p *entry.Plan) { p.Note = strings.Repeat("x", 1025) }, "note has 1025 bytes"},
		{"unknown trainer", func(p *entry.Plan) { p.Trainer = "builtin/mlp" }, `trainer "builtin/mlp" is unknown, want builtin/logistic`},
		{"no trainer", func(p *entry.Plan) { p.Trainer = "" }, `trainer "" is unknown`},
		{"unknown strategy", func(p *entry.Plan) { p.Strategy.Name = "krumm" }, `strategy "krumm" is unknown`},
		{"unknown parameter", func(p *entry.Plan) { p.Strategy.Params = map[string]any{"tau": 1.0} }, `strategy fedavg has no parameter "tau"`},
		{"parameter out of bounds", func(p *entry.Plan) { p.Strategy.Params = map[string]any{"learning_rate": -1.0} }, "learning_rate of strategy fedavg is -1"},
		{"member without a name", func(p *entry.Plan) { p.Members = []entry.Member{"a", ""} }, "a member's name has 0 bytes"},
		{"member twice", func(p *entry.Plan) { p.Members = []entry.Member{"a", "b", "a"} }, "member a is listed twice"},
		{"too many members", func(p *entry.Plan) { p.Members = list(1<<16 + 1) }, "65537 members, at most 65536"},
		{"no rounds", func(p *entry.Plan) { p.Rounds = 0 }, "rounds is 0, want 1 to 65536"},
		{"most rounds", func(p *entry.Plan) { p.Rounds = 1 << 16 }, ""},
		{"too many rounds", func(p *entry.Plan) { p.Rounds = 1<<16 + 1 }, "rounds is 65537"},
		{"quorum below 0", func(p *entry.Plan) { p.Quorum = -1 }, "quorum is -1"},
		{"quorum too large", func(p *entry.Plan) { p.Quorum = 1<<16 + 1 }, "quorum is 65537"},
		{"quorum of all listed", func(p *entry.Plan) { p.Members, p.Quorum = []entry.Member{"a", "b"}, 2 }, ""},
		{"quorum beyond those listed", func(p *entry.Plan) { p.Members, p.Quorum = []entry.Member{"a", "b"}, 3 }, "quorum is 3, but only 2 members are listed"},
		{"buffer", func(p *entry.Plan) { p.Strategy = buffer(4) }, ""},
		{"buffer of no size", func(p *entry.Plan) { p.Strategy = entry.Strategy{Name: "fedbuff"} }, "strategy fedbuff needs the parameter buffer_size"},
		{"buffer below the quorum", func(p *entry.Plan) { p.Strategy, p.Quorum = buffer(2), 3 }, "quorum 3; the buffer of strategy fedbuff is full with 2 updates"},
		{"buffer beyond those listed", func(p *entry.Plan) {
			p.Strategy, p.Members = buffer(4), []entry.Member{"a", "b", "c"}
		}, "buffer_size 4 of strategy fedbuff, of 3 members"},
		{"buffer and another goal", func(p *entry.Plan) { p.Strategy, p.ReportGoal = buffer(4), 5 }, "report_goal 5; strategy fedbuff closes a round with 4 updates"},
		{"no tries", func(p *entry.Plan) { p.Tries = 0 }, "tries is 0, want 1 to 100"},
		{"too many tries", func(p *entry.Plan) { p.Tries = 101 }, "tries is 101"},
		{"shortest deadline", func(p *entry.Plan) { p.Deadline = entry.Duration(time.Second) }, ""},
		{"short deadline", func(p *entry.Plan) { p.Deadline = entry.Duration(time.Second - 1) }, "deadline is 999.999999ms, want 1s to 720h0m0s"},
		{"long deadline", func(p *entry.Plan) { p.Deadline = entry.Duration(30*24*time.Hour + 1) }, "deadline is 720h0m0.000000001s"},
		{"report goal below the quorum", func(p *entry.Plan) { p.Quorum, p.ReportGoal = 2, 1 }, "report_goal is"},
		{"report goal of the quorum", func(p *entry.Plan) { p.ReportGoal = p.Quorum }, ""},
		{"report goal beyond the members", func(p *entry.Plan) {
			p.Members = []entry.Member{"a", "b", "c", "d"}
			p.ReportGoal = 5
		}, "report_goal is 5, more than members are asked"},
		{"report goal beyond all", func(p *entry.Plan) { p.ReportGoal = 1<<16 + 1 }, "report_goal is"},
		{"report goal below 0", func(p *entry.Plan) { p.ReportGoal = -1 }, "report_goal is -1"},
		{"short grace", func(p *entry.Plan) { p.Grace = 1 }, "grace is 1ns, want 1s"},
		{"long grace", func(p *entry.Plan) { p.Grace = entry.Duration(30*24*time.Hour + 1) }, "grace is"},
		{"grace", func(p *entry.Plan) { p.Grace = minute }, ""},
		{"max_time below 0", func(p *entry.Plan) { p.MaxTime = -minute }, "max_time is -1m0s"},
		{"max_time", func(p *entry.Plan) { p.MaxTime = minute }, ""},
		{"long max_time", func(p *entry.Plan) { p.MaxTime = entry.Duration(10*365*24*time.Hour + 1) }, "max_time is"},
		{"deadline below 0", func(p *entry.Plan) { p.Deadline = -minute }, "deadline is -1m0s"},
		{"largest seed", func(p *entry.Plan) { p.Seed = 1<<53 - 1 }, ""},
		{"seed that JSON rounds", func(p *entry.Plan) { p.Seed = 1 << 53 }, "seed is 9007199254740992, want at most 2^53-1"},
		{"max_abs 0", func(p *entry.Plan) { p.MaxAbs = 0 }, "max_abs is 0"},
		{"max_abs NaN", func(p *entry.Plan) { p.MaxAbs = nan }, "max_abs is NaN"},
		{"max_abs infinite", func(p *entry.Plan) { p.MaxAbs = inf }, "max_abs is +Inf"},
		{"resolution below 0", func(p *entry.Plan) { p.Resolution = -1 }, "resolution is -1, want 0 to max_abs"},
		{"resolution beyond max_abs", func(p *entry.Plan) { p.Resolution = 17 }, "resolution is 17"},
		{"resolution NaN", func(p *entry.Plan) { p.Resolution = nan }, "resolution is NaN"},
		{"masks", func(p *entry.Plan) { p.Masks = true }, ""},
		{"masks with a quorum of one", func(p *entry.Plan) { p.Masks, p.Members = true, []entry.Member{"a", "b", "c", "d"} }, "masks: a quorum of 1 of 4 members, want 2 to 4"},
		{"masks and an encoding", func(p *entry.Plan) { p.Masks, p.Encoding = true, "bf16" }, "masks with the encoding bf16"},
		{"masks and a rule that looks at updates", func(p *entry.Plan) { p.Masks, p.Strategy.Name = true, "median" }, "masks with strategy median"},
		{"unknown encoding", func(p *entry.Plan) { p.Encoding = "fp4" }, `encoding "fp4" is unknown, want bf16, int8 or top-k`},
		{"top-k", func(p *entry.Plan) { p.Encoding, p.TopK = "top-k", 0.01 }, ""},
		{"top-k of all", func(p *entry.Plan) { p.Encoding, p.TopK = "top-k", 1 }, ""},
		{"top-k without a share", func(p *entry.Plan) { p.Encoding = "top-k" }, "top_k is 0, want above 0 to 1"},
		{"top-k of more than all", func(p *entry.Plan) { p.Encoding, p.TopK = "top-k", 1.5 }, "top_k is 1.5, want above 0 to 1"},
		{"top-k of less than nothing", func(p *entry.Plan) { p.Encoding, p.TopK = "top-k", -0.1 }, "top_k is -0.1"},
		{"top-k NaN", func(p *entry.Plan) { p.Encoding, p.TopK = "top-k", nan }, "top_k is NaN"},
		{"a share of another encoding", func(p *entry.Plan) { p.Encoding, p.TopK = "bf16", 0.1 }, "top_k is 0.1, want it with encoding top-k only"},
		{"a share of none", func(p *entry.Plan) { p.TopK = 0.1 }, "top_k is 0.1, want it with encoding top-k only"},
		{"top-k with a robust rule", func(p *entry.Plan) { p.Encoding, p.TopK, p.Strategy.Name = "top-k", 0.1, "median" }, ""},
		{"top-k with control variates", func(p *entry.Plan) { p.Encoding, p.TopK, p.Strategy.Name = "top-k", 0.1, "scaffold" }, "encoding top-k with strategy scaffold"},
		{"top-k with late updates", func(p *entry.Plan) { p.Encoding, p.TopK, p.Strategy = "top-k", 0.1, buffer(2) }, "encoding top-k with strategy fedbuff"},
		{"top-k with masks", func(p *entry.Plan) { p.Encoding, p.TopK, p.Masks = "top-k", 0.1, true }, "masks with the encoding top-k"},
		{"no steps", func(p *entry.Plan) { p.Local.Steps = 0 }, "local.steps is 0, want 1 to 1048576"},
		{"too many steps", func(p *entry.Plan) { p.Local.Steps = 1<<20 + 1 }, "local.steps is 1048577"},
		{"steps and epochs", func(p *entry.Plan) { p.Local.Epochs = 1 }, "local.steps and local.epochs are both given, want one of them"},
		{"epochs", func(p *entry.Plan) { p.Local.Steps, p.Local.Epochs = 0, 3 }, ""},
		{"epochs below 0", func(p *entry.Plan) { p.Local.Steps, p.Local.Epochs = 0, -1 }, "local.epochs is -1, want 1 to 1048576"},
		{"too many epochs", func(p *entry.Plan) { p.Local.Steps, p.Local.Epochs = 0, 1<<20+1 }, "local.epochs is 1048577"},
		{"mu as far as it goes", func(p *entry.Plan) { p.Strategy = prox(2) }, ""},
		{"mu too large for the rate", func(p *entry.Plan) { p.Strategy = prox(2.5) }, "local.learning_rate times mu is 1.25, want at most 1"},
		{"mu below 0", func(p *entry.Plan) { p.Strategy = prox(-1) }, "parameter mu of strategy fedprox is -1, want 0 to 1e+06"},
		{"rate 0", func(p *entry.Plan) { p.Local.LearningRate = 0 }, "local.learning_rate is 0, want above 0"},
		{"rate NaN", func(p *entry.Plan) { p.Local.LearningRate = nan }, "local.learning_rate is NaN"},
		{"rate infinite", func(p *entry.Plan) { p.Local.LearningRate = inf }, "local.learning_rate is +Inf"},
		{"batch below 0", func(p *entry.Plan) { p.Local.Batch = -1 }, "local.batch is -1"},
		{"batch too large", func(p *entry.Plan) { p.Local.Batch = 1<<29 + 1 }, "local.batch is 536870913"},
		{"l2 below 0", func(p *entry.Plan) { p.Local.L2 = -0.1 }, "local.l2 is -0.1"},
		{"l2 NaN", func(p *entry.Plan) { p.Local.L2 = nan }, "local.l2 is NaN"},
		{"least mean square", func(p *entry.Plan) { p.Standardize.MaxAbs = 0x1p-64 }, ""},
		{"largest mean square", func(p *entry.Plan) { p.Standardize.MaxAbs = 0x1p120 }, ""},
		{"mean square 0", func(p *entry.Plan) { p.Standardize.MaxAbs = 0 }, "standardize.max_abs is 0"},
		{"mean square without a grid", func(p *entry.Plan) { p.Standardize.MaxAbs = 0x1p-65 }, "standardize.max_abs is"},
		{"mean square beyond float32", func(p *entry.Plan) { p.Standardize.MaxAbs = 0x1p121 }, "standardize.max_abs is"},
		{"mean square NaN", func(p *entry.Plan) { p.Standardize.MaxAbs = nan }, "standardize.max_abs is NaN"},
		{"no schema", func(p *entry.Plan) { p.Schema = nil }, "schema: EOF"},
		{"schema without a label", func(p *entry.Plan) { p.Schema = []byte(`{"columns":[{"name":"x","use":"number"}]}`) }, "0 columns are the label"},
		{"several faults", func(p *entry.Plan) { p.Name, p.Rounds, p.Local.Steps = "", 0, 0 }, "name has 0 bytes, want 1 to 64 of text; rounds is 0, want 1 to 65536; local.steps is 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := plan(2, true)
			c.change(&p)
			err := trainer.CheckPlan(p)
			_, described := trainer.Describe(p)
			if (err == nil) != (described == nil) {
				t.Errorf("CheckPlan = %v, but Describe = %v", err, described)
			}
			switch {
			case c.want == "" && err != nil:
				t.Errorf("CheckPlan = %v, want no error", err)
			case c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), "plan: ") || !strings.Contains(err.Error(), c.want)):
				t.Errorf("CheckPlan = %v, want an error with %q", err, c.want)
			case err != nil && strings.Contains(err.Error(), "\n"):
				t.Errorf("CheckPlan = %q, want one line", err)
			}
		})
	}
}

func prox(mu float64) entry.Strategy {
	return entry.Strategy{Name: "fedprox", Params: map[string]any{"mu": mu}}
}

// TestSteps: a member takes the plan's steps, or as many as its passes have.
func TestSteps(t *testing.T) {
	for _, c := range []struct {
		local entry.Local
		rows  int64
		want  int
	}{
		{entry.Local{Steps: 7}, 100, 7},
		{entry.Local{Steps: 7, Batch: 10}, 100, 7},
		{entry.Local{Epochs: 3}, 100, 3},
		{entry.Local{Epochs: 3, Batch: 10}, 100, 30},
		{entry.Local{Epochs: 3, Batch: 10}, 101, 33},
		{entry.Local{Epochs: 3, Batch: 10}, 9, 3},
		{entry.Local{Epochs: 1 << 20, Batch: 1}, 1 << 29, 1 << 20},
	} {
		if got := trainer.Steps(entry.Plan{Local: c.local}, c.rows); got != c.want {
			t.Errorf("Steps(%+v, %d) = %d, want %d", c.local, c.rows, got, c.want)
		}
	}
}

// TestParseEpochs: a plan that names epochs names no steps.
func TestParseEpochs(t *testing.T) {
	p, err := trainer.ParsePlan([]byte(strings.Replace(least, "{learning_rate: 0.5}", "{learning_rate: 0.5, epochs: 4}", 1)))
	if err != nil || p.Local.Epochs != 4 || p.Local.Steps != 0 {
		t.Errorf("plan has %+v, %v, want 4 epochs and no steps", p.Local, err)
	}
	if _, err := trainer.ParsePlan([]byte(strings.Replace(least, "{learning_rate: 0.5}", "{learning_rate: 0.5, steps: 0}", 1))); err == nil {
		t.Error("a plan of 0 steps is taken")
	}
}

// FuzzParsePlan: no text makes ParsePlan panic, and what it accepts can be described.
func FuzzParsePlan(f *testing.F) {
	text, err := os.ReadFile(filepath.Join(examples, "plan.yaml"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(text))
	f.Add(least)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := trainer.ParsePlan([]byte(text))
		if err != nil {
			return
		}
		d, err := trainer.Describe(p)
		if err != nil {
			t.Fatalf("Describe of what ParsePlan accepts = %v, want no error", err)
		}
		if err := d.Layout.Validate(); err != nil {
			t.Fatalf("layout: %v", err)
		}
	})
}

// TestParsePrivacy reads the block that docs/operating.md shows, and refuses what does not go with noise.
func TestParsePrivacy(t *testing.T) {
	const block = `privacy:
  unit: participant
  clip_norm: 0.5
  noise_multiplier: 4
  delta: 1.0e-5
  adaptive: {quantile: 0.5, learning_rate: 0.2, count_stddev: 3}
`
	text := strings.Replace(least, "quorum: 2\n", "quorum: 3\n", 1) + block
	p, err := trainer.ParsePlan([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := &entry.Privacy{
		Unit: "participant", ClipNorm: 0.5, NoiseMultiplier: 4, Delta: 1e-5,
		Adaptive: &entry.AdaptiveClip{Quantile: 0.5, LearningRate: 0.2, CountStddev: 3},
	}
	if diff := cmp.Diff(p.Privacy, want); diff != "" {
		t.Errorf("privacy (-got +want):\n%s", diff)
	}
	for _, c := range []struct{ old, new, want string }{
		{"quorum: 3", "quorum: 2", "quorum 2 of a run with privacy"},
		{"name: least", "name: least\nstrategy: {name: median}", "strategy median in a run with privacy"},
		{"name: least", "name: least\nstrategy: {name: fednova}", "strategy fednova in a run with privacy"},
		{"name: least", "name: least\nencoding: top-k\ntop_k: 0.5", "encoding top-k in a run with privacy"},
		{"name: least", "name: least\nmax_abs: 0.25", "clip_norm is 0.5, want at most max_abs"},
		{"unit: participant", "unit: patient", `unit "patient", want participant or record`},
		{"noise_multiplier: 4", "noise_multiplier: 0", "noise multiplier 0"},
		{"count_stddev: 3", "count_stddev: 2", "take a count_stddev above 2"},
		{"delta: 1.0e-5", "delta: 1", "delta 1, want"},
	} {
		if _, err := trainer.ParsePlan([]byte(strings.Replace(text, c.old, c.new, 1))); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.new, err, c.want)
		}
	}
}

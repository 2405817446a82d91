package trainer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/codec"
	"consilium.dev/internal/dataset"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/round"
	"consilium.dev/internal/strictyaml"
)

// The limits of a plan. A manifest may set closer ones.
const (
	maxPlan        = 256 << 10 // bytes
	maxRounds      = 1 << 16
	maxTries       = 100
	maxSteps       = 1 << 20
	maxMembers     = 1 << 16
	minDeadline    = time.Second
	maxDeadline    = 30 * 24 * time.Hour
	maxTime        = 10 * 365 * 24 * time.Hour
	maxSeed        = 1<<53 - 1
	defaultMaxAbs  = 16
	defaultTries   = 3
	defaultTimeout = 10 * time.Minute

	unset    = math.MinInt      // steps that a plan does not name
	unsetAbs = -math.MaxFloat64 // a max_abs that it does not name
)

// planFile is a plan as its lead writes it.
type planFile struct {
	entry.Plan `yaml:",inline"`
	Schema     yaml.Node `yaml:"schema"`
}

// ParsePlan reads the plan that a lead wrote, a YAML document of at most 256 KiB with the keys of [entry.Plan] and, under
// schema, what [dataset.ParseSchema] describes. Unknown and doubled keys are errors. Left out have defaults: trainer
// builtin/logistic, strategy fedavg, quorum all listed members (there is no default where none is listed) or an asynchronous strategy's buffer_size, deadline 10m, tries
// 3, max_abs 16 (with privacy of single records clip_norm * expected_records), resolution 0 (2^-36 of max_abs), report_goal 0 (all that can come), grace 0 (2m), max_time 0 (none), encoding none, top_k 0 (no share), local.steps 1 (where epochs is left out too), batch 0 (all rows), l2 0; without standardize there is no round 0.
// The plan that it returns has passed [CheckPlan].
func ParsePlan(yamlText []byte) (entry.Plan, error) {
	if len(yamlText) > maxPlan {
		return entry.Plan{}, fmt.Errorf("plan has %d bytes, at most %d are allowed", len(yamlText), maxPlan)
	}
	f := planFile{Plan: entry.Plan{
		Trainer: Logistic, Strategy: entry.Strategy{Name: "fedavg"}, Deadline: entry.Duration(defaultTimeout),
		Tries: defaultTries, MaxAbs: unsetAbs, Local: entry.Local{Steps: unset},
	}}
	if err := strictyaml.Load(yamlText, &f); err != nil {
		return entry.Plan{}, fmt.Errorf("plan: %w", err)
	}
	p := f.Plan
	numbers(p.Strategy.Params)
	if p.Quorum == 0 {
		p.Quorum = len(p.Members)
		if s, err := aggregate.NewStrategy(p.Strategy.Name, p.Strategy.Params); err == nil && s.Buffer().Size() > 0 {
			p.Quorum = s.Buffer().Size()
		}
	}
	if p.MaxAbs == unsetAbs {
		p.MaxAbs = defaultMaxAbs
		if p.PerRecord() { // so that no member's sum is cut off
			p.MaxAbs = p.Privacy.ClipNorm * float64(p.Privacy.ExpectedRecords)
		}
	}
	if p.Local.Steps == unset {
		p.Local.Steps = 1
		if p.Local.Epochs != 0 {
			p.Local.Steps = 0
		}
	}
	var err error
	if p.Schema, err = schemaJSON(&f.Schema); err != nil {
		return entry.Plan{}, err
	}
	if err := CheckPlan(p); err != nil {
		return entry.Plan{}, err
	}
	return p, nil
}

// DecodePlan reads a plan as it travels and rests: JSON, at most 256 KiB, without unknown keys and with nothing behind it. What
// the plan says is not judged: [CheckPlan] and [Describe] do that.
func DecodePlan(text []byte) (entry.Plan, error) {
	var p entry.Plan
	if len(text) > maxPlan {
		return p, fmt.Errorf("plan has more than %d bytes", maxPlan)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return p, fmt.Errorf("plan: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return p, errors.New("plan: something follows the plan")
	}
	return p, nil
}

// numbers makes the numbers among a strategy's parameters float64, as they are in JSON: YAML has whole numbers too.
func numbers(params map[string]any) {
	for name, v := range params {
		switch v := v.(type) {
		case int:
			params[name] = float64(v)
		case int64:
			params[name] = float64(v)
		case uint64:
			params[name] = float64(v)
		}
	}
}

// schemaJSON turns the schema's YAML into the JSON that travels in the plan.
func schemaJSON(n *yaml.Node) (json.RawMessage, error) {
	if n.IsZero() {
		return nil, errors.New("plan: key schema is missing")
	}
	var tree any
	if err := n.Decode(&tree); err != nil {
		return nil, fmt.Errorf("plan: schema: %w", err)
	}
	text, err := json.Marshal(tree)
	if err != nil {
		return nil, fmt.Errorf("plan: schema has no JSON: %w", err)
	}
	return text, nil
}

// CheckPlan reports why a plan cannot be run, whoever asks: fields that are missing or outside their bounds, a trainer or a
// strategy that this version does not have, a schema that means nothing. What the members allow is not its business.
func CheckPlan(p entry.Plan) error {
	_, err := check(p)
	return err
}

// check is CheckPlan, and returns the schema.
func check(p entry.Plan) (dataset.Schema, error) {
	s, err := dataset.ParseSchema(p.Schema)
	if err == nil {
		err = inOne(checkNames(p), checkRounds(p), checkNumbers(p), checkStandardize(p.Standardize, s), checkLocal(p.Local, p.PerRecord()), checkStrategy(p), checkPrivacy(p))
	}
	if err != nil {
		return dataset.Schema{}, fmt.Errorf("plan: %w", err)
	}
	return s, nil
}

// inOne joins errors as the faults of one document.
func inOne(all ...error) error {
	var said strictyaml.Faults
	for _, err := range all {
		if err != nil && !slices.Contains(said, err.Error()) { // where two look at a field, since much follows from it
			said = append(said, err.Error())
		}
	}
	if len(said) == 0 {
		return nil
	}
	return said
}

func checkNames(p entry.Plan) error {
	if err := checkText("name", p.Name, 1, 64); err != nil {
		return err
	}
	if err := checkText("note", p.Note, 0, 1024); err != nil {
		return err
	}
	if p.Trainer != Logistic {
		return fmt.Errorf("trainer %.64q is unknown, want %s", p.Trainer, Logistic)
	}
	if len(p.Members) > maxMembers {
		return fmt.Errorf("%d members, at most %d are allowed", len(p.Members), maxMembers)
	}
	seen := map[entry.Member]bool{}
	for _, m := range p.Members {
		if err := checkText("a member's name", string(m), 1, 64); err != nil {
			return err
		}
		if seen[m] {
			return fmt.Errorf("member %s is listed twice", m)
		}
		seen[m] = true
	}
	return checkEncoding(p)
}

// checkEncoding judges how updates are made coarser. Where an update is shortened for the sake of privacy, nobody knows how much of what a member
// sends is lost, and so not what is left for its next round.
func checkEncoding(p entry.Plan) error {
	way := codec.Lossy(p.Encoding)
	if err := way.Check(); err != nil || way != codec.TopK {
		if err == nil && p.TopK != 0 {
			err = fmt.Errorf("top_k is %v, want it with encoding %s only", p.TopK, codec.TopK)
		}
		return err
	}
	switch {
	case !(p.TopK > 0 && p.TopK <= 1):
		return fmt.Errorf("top_k is %v, want above 0 to 1: the share of an update's values that is sent", p.TopK)
	case p.Privacy != nil:
		return fmt.Errorf("encoding %s in a run with privacy, want another one or none", way)
	}
	return nil
}

// checkStrategy judges a strategy by itself and with what participants are to do.
func checkStrategy(p entry.Plan) error {
	s, err := aggregate.NewStrategy(p.Strategy.Name, p.Strategy.Params)
	if err != nil {
		return err
	}
	if pull := float64(p.Local.LearningRate * s.Local().Mu); pull > 1 {
		return fmt.Errorf("local.learning_rate times mu is %v, want at most 1: each step would go beyond the model that it is drawn back to", pull)
	}
	if p.Quorum < s.Least() {
		return fmt.Errorf("quorum is %d, but strategy %s makes a model of %d updates or more", p.Quorum, s.Name(), s.Least())
	}
	if codec.Lossy(p.Encoding) == codec.TopK {
		switch {
		case s.Local().Controlled: // their size is another, and they would compete for places with the model's values
			return fmt.Errorf("encoding %s with strategy %s, whose updates hold control variates; want another one or none", codec.TopK, s.Name())
		case s.Buffer().Size() > 0: // and its member would take for sent what is not
			return fmt.Errorf("encoding %s with strategy %s, to which a late update counts for less; want another one or none", codec.TopK, s.Name())
		}
	}
	if m := entry.Member(s.Member()); m != "" && len(p.Members) > 0 && !slices.Contains(p.Members, m) {
		return fmt.Errorf("strategy %s measures by the updates of %.64q, who is not among the members listed", s.Name(), m)
	}
	if err := round.CheckMasks(p, len(p.Members)); err != nil {
		return err
	}
	return round.CheckBuffer(p, s, len(p.Members))
}

// private are the strategies whose sum is of updates as they come, each with weight 1: what noise is reckoned for.
var private = []string{"fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "fedprox"}

// checkPrivacy judges what a plan with noise asks for, and what goes with it.
func checkPrivacy(p entry.Plan) error {
	if p.Privacy == nil {
		return nil
	}
	if err := round.CheckPrivacy(p); err != nil {
		return err
	}
	can := private
	if p.PerRecord() {
		can = perRecord
	}
	if !slices.Contains(can, p.Strategy.Name) {
		return fmt.Errorf("strategy %s in a run with privacy of unit %s, want one of %s", p.Strategy.Name, p.Privacy.Unit, strings.Join(can, ", "))
	}
	if p.Privacy.ClipNorm > p.MaxAbs {
		return fmt.Errorf("privacy.clip_norm is %v, want at most max_abs, %v", p.Privacy.ClipNorm, p.MaxAbs)
	}
	if p.PerRecord() {
		return checkRecords(p)
	}
	return nil
}

// checkText accepts printable text of so many bytes, fit for one line of a log or a terminal.
func checkText(what, t string, least, most int) error {
	if len(t) < least || len(t) > most || !utf8.ValidString(t) {
		return fmt.Errorf("%s has %d bytes, want %d to %d of text", what, len(t), least, most)
	}
	for _, r := range t {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("%s holds %q, which cannot be printed", what, r)
		}
	}
	return nil
}

func checkRounds(p entry.Plan) error {
	deadline := time.Duration(p.Deadline)
	if s, err := aggregate.NewStrategy(p.Strategy.Name, p.Strategy.Params); err == nil { // a quorum that is left out follows from it
		if err := round.CheckBufferSize(s, len(p.Members)); err != nil {
			return err
		}
	}
	switch {
	case p.Rounds < 1 || p.Rounds > maxRounds:
		return fmt.Errorf("rounds is %d, want 1 to %d", p.Rounds, maxRounds)
	case p.Quorum < 1 || p.Quorum > maxMembers:
		return fmt.Errorf("quorum is %d, want 1 to %d", p.Quorum, maxMembers)
	case len(p.Members) > 0 && p.Quorum > len(p.Members):
		return fmt.Errorf("quorum is %d, but only %d members are listed", p.Quorum, len(p.Members))
	case p.ReportGoal != 0 && p.ReportGoal < p.Quorum:
		return fmt.Errorf("report_goal is %d, want the quorum, %d, or more (or none)", p.ReportGoal, p.Quorum)
	case p.ReportGoal > maxMembers || len(p.Members) > 0 && p.ReportGoal > len(p.Members):
		return fmt.Errorf("report_goal is %d, more than members are asked", p.ReportGoal)
	case p.Grace != 0 && outside(p.Grace, minDeadline, maxDeadline):
		return fmt.Errorf("grace is %v, want %v to %v (or none)", time.Duration(p.Grace), minDeadline, maxDeadline)
	case p.MaxTime != 0 && outside(p.MaxTime, minDeadline, maxTime):
		return fmt.Errorf("max_time is %v, want %v to %v (or none)", time.Duration(p.MaxTime), minDeadline, maxTime)
	case p.Tries < 1 || p.Tries > maxTries:
		return fmt.Errorf("tries is %d, want 1 to %d", p.Tries, maxTries)
	case deadline < minDeadline || deadline > maxDeadline:
		return fmt.Errorf("deadline is %v, want %v to %v", deadline, minDeadline, maxDeadline)
	case p.Seed > maxSeed:
		return fmt.Errorf("seed is %d, want at most 2^53-1", p.Seed)
	}
	return nil
}

func outside(d entry.Duration, least, most time.Duration) bool {
	return time.Duration(d) < least || time.Duration(d) > most
}

func checkNumbers(p entry.Plan) error {
	if p.PerRecord() { // a max_abs that is left out follows from it
		if err := round.CheckExpected(*p.Privacy); err != nil {
			return err
		}
	}
	if err := aggregate.CheckMaxAbs(p.MaxAbs); err != nil {
		return err
	}
	if !(p.Resolution >= 0 && p.Resolution <= p.MaxAbs) {
		return fmt.Errorf("resolution is %v, want 0 to max_abs", p.Resolution)
	}
	return nil
}

// checkStandardize judges what columns are to be standardised by.
func checkStandardize(s *entry.Standardize, schema dataset.Schema) error {
	switch {
	case s == nil:
		return nil
	case len(s.Given) == 0 && !(s.MaxAbs >= 0x1p-64 && s.MaxAbs <= 0x1p120): // so that roots and low parts have grids too
		return fmt.Errorf("standardize.max_abs is %v, want 2^-64 to 2^120", s.MaxAbs)
	case len(s.Given) > 0 && s.MaxAbs != 0:
		return errors.New("standardize has both max_abs, for a round of statistics, and given, which needs none: want one of them")
	}
	for _, name := range slices.Sorted(maps.Keys(s.Given)) {
		g := s.Given[name]
		switch {
		case !slices.Contains(schema.Features(), name):
			return fmt.Errorf("standardize.given has %.64q, which is no feature of the schema", name)
		case !(math.Abs(g.Mean) <= 0x1p64):
			return fmt.Errorf("standardize.given: the mean of %s is %v, want -2^64 to 2^64", name, g.Mean)
		case !(g.Scale >= 0x1p-64 && g.Scale <= 0x1p64):
			return fmt.Errorf("standardize.given: the scale of %s is %v, want 2^-64 to 2^64", name, g.Scale)
		}
	}
	return nil
}

// checkLocal judges what participants do between base and update; still reports that they take no steps of their own.
func checkLocal(l entry.Local, still bool) error {
	switch {
	case l.Steps != 0 && l.Epochs != 0:
		return errors.New("local.steps and local.epochs are both given, want one of them")
	case l.Epochs < 0 || l.Epochs > maxSteps:
		return fmt.Errorf("local.epochs is %d, want 1 to %d", l.Epochs, maxSteps)
	case l.Epochs == 0 && (l.Steps < 1 || l.Steps > maxSteps):
		return fmt.Errorf("local.steps is %d, want 1 to %d", l.Steps, maxSteps)
	case !still && !(l.LearningRate > 0 && l.LearningRate <= math.MaxFloat32):
		return fmt.Errorf("local.learning_rate is %v, want above 0", l.LearningRate)
	case l.Batch < 0 || l.Batch > dataset.MaxRows:
		return fmt.Errorf("local.batch is %d, want 0 (all rows) to %d", l.Batch, dataset.MaxRows)
	case !(l.L2 >= 0 && l.L2 <= math.MaxFloat32):
		return fmt.Errorf("local.l2 is %v, want 0 or more", l.L2)
	}
	return nil
}

// Steps returns how many local steps a member with so many training rows takes in a round: the plan's number, or as many as its passes
// take, in which the last step of a pass may have fewer rows than the others. There are 2^20 at most.
func Steps(p entry.Plan, rows int64) int {
	l := p.Local
	if l.Epochs == 0 {
		return l.Steps
	}
	pass := int64(1)
	if l.Batch > 0 {
		pass = max((rows+int64(l.Batch)-1)/int64(l.Batch), 1)
	}
	return int(min(int64(l.Epochs)*pass, maxSteps))
}

// Scale returns what makes the mean of a training round's updates what the strategy's [aggregate.Optimizer] steps along: it multiplies the
// values of the mean from lo on, in place. weights are those of the members whose updates are in it, in the order of their names, out of asked
// who were asked. The same plan and weights give the same bits on every processor.
func Scale(p entry.Plan, weights []int64, asked int) (func(lo int, mean []float64), error) {
	d, err := Describe(p)
	if err != nil {
		return nil, err
	}
	s, err := aggregate.NewStrategy(p.Strategy.Name, p.Strategy.Params)
	if err != nil {
		return nil, err
	}
	t := aggregate.Turnout{Weights: weights, Rate: p.Local.LearningRate, Asked: asked}
	for _, w := range weights {
		t.Steps = append(t.Steps, Steps(p, w))
	}
	factor, control := s.Factor(t), 1.0
	if d.Control > 0 {
		control = s.ControlFactor(t)
	}
	return func(lo int, mean []float64) {
		controls := min(max(d.Control-lo, 0), len(mean))
		multiply(mean[:controls], control)
		multiply(mean[controls:], factor)
	}, nil
}

func multiply(v []float64, factor float64) {
	if factor == 1 {
		return
	}
	for i, x := range v {
		v[i] = float64(factor * x)
	}
}

package round_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/round"
)

var update = flag.Bool("update", false, "write the scenarios' traces anew; read the difference before it is committed")

// TestScenarios plays the scenarios in testdata: commands, "----", and the trace that they leave. An empty line ends a trace,
// and # begins a comment. After each command time passes until nothing follows from it any more, as in the coordinator's loop,
// and the state is compared with a replay of its log.
//
//	limits KEY=VALUE ...                        of what is created or adopted after it: members, leads, quorum, rounds, runs, max_abs,
//	                                            trainer, strategy
//	adopt EPOCH MANIFEST [PREVIOUS]             a manifest
//	create RUN [KEY=VALUE ...]                  request, lead, members, quorum, rounds, tries, deadline, max_abs, resolution,
//	                                            standardize (its max_abs), trainer, strategy, initial, report_goal, grace,
//	                                            max_time, masks, buffer (the size of fedbuff's), max_staleness, normalize
//	consent RUN MEMBER RECORDS                  decline RUN MEMBER RULE
//	query RUN ROUND.TRY MEMBER UPDATE [WEIGHT [BASE [MODEL]]]
//	offer RUN ROUND.TRY MEMBER UPDATE WEIGHT [BASE [MODEL]]    BASE is the round whose base model it was trained from
//	reject RUN ROUND.TRY MEMBER UPDATE REASON [TIMES]
//	begin RUN                                   the combination that Todo asks for; finish RUN brings its outcome
//	combine RUN                                 both
//	evaluate RUN ROUND MEMBER [SET/NAME=VALUE/ROWS/BETTER ...]
//	leave RUN MEMBER [REASON]                   seen MEMBER connected, gone or paused: known only until a crash
//	announce RUN MEMBER...                      answers what Todo asks of the members about masks, as likewise do
//	share RUN MEMBER...                         and unveil RUN MEMBER...; spoil RUN says that what is left
//	                                            when the masks have come off is no sum, wrong RUN that they do not
//	advance DURATION                            boot     crash: memory is lost, the log replayed, and a process boots
//	cancel RUN                                  by a fact that no input leads to yet
//	todo                                        show RUN
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("scenarios: %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(want))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(want) {
				t.Errorf("%s, - got + want:\n%s", file, cmp.Diff(strings.Split(got, "\n"), strings.Split(string(want), "\n")))
			}
		})
	}
}

// play returns the scenario with the traces that its commands leave now.
func play(t *testing.T, text string) string {
	t.Helper()
	s := &script{
		TB: t, now: start, state: round.New(), held: map[string]entry.Digest{}, names: map[entry.Digest]string{},
		veils: map[string]round.Veil{}, begun: map[string]round.Combine{}, leads: []string{"lin"}, sighted: map[entry.Member]round.Sighting{},
		limits: round.Limits{
			Members: []entry.Member{"a", "b", "c", "d"}, Strategies: []string{"fedavg"}, Trainers: []string{"builtin/logistic"},
			LeastParticipants: 2, MaxAbs: 1024, RoundsMax: 10, OpenRuns: 2,
		},
	}
	var out strings.Builder
	skip := false // the old trace
	for line := range strings.Lines(strings.TrimRight(text, "\n") + "\n") {
		switch command := strings.TrimSpace(line); {
		case skip && command != "":
			continue
		case command == "----":
			out.WriteString(line)
			out.WriteString(s.trace.String())
			s.trace.Reset()
			skip = true
			continue
		case command != "" && command[0] != '#':
			s.do(strings.Fields(command))
		}
		skip = false
		out.WriteString(line)
	}
	if s.trace.Len() > 0 {
		t.Fatalf("the last commands have no ---- after them; they left:\n%s", s.trace.String())
	}
	return out.String()
}

// script is a coordinator without a network, a disk or numbers, as a scenario sees it.
type script struct {
	testing.TB
	now     time.Time
	state   *round.State
	log     []entry.Line
	held    map[string]entry.Digest // memory: what a crash erases
	veils   map[string]round.Veil   // memory, too
	begun   map[string]round.Combine
	sighted map[entry.Member]round.Sighting // memory, too
	limits  round.Limits
	leads   []string
	names   map[entry.Digest]string
	trace   strings.Builder
}

func (s *script) printf(format string, args ...any) { fmt.Fprintf(&s.trace, format+"\n", args...) }

func (s *script) do(args []string) {
	name, args := args[0], args[1:]
	switch name {
	case "limits":
		s.limit(options(s, args))
	case "advance":
		s.now = s.now.Add(s.duration(args[0]))
	case "crash":
		clear(s.held)
		clear(s.begun)
		clear(s.veils)
		clear(s.sighted)
		s.state = s.replay()
		s.decide(round.Boot{})
	case "seen":
		s.sighted[entry.Member(args[0])] = round.Sighting{Last: s.now, Connected: args[1] == "connected", Paused: args[1] == "paused"}
	case "begin", "combine":
		s.begin(args[0])
		if name == "combine" {
			s.finish(args[0])
		}
	case "finish":
		s.finish(args[0])
	case "announce", "share", "unveil":
		for _, m := range args[1:] {
			s.veil(name, args[0], entry.Member(m))
		}
	case "spoil":
		c := s.begun[args[0]]
		delete(s.begun, args[0])
		s.decide(round.Spoil{Run: c.Run, Round: c.Round, Try: c.Try, Reason: "an update is none"})
	case "wrong":
		c := s.begun[args[0]]
		delete(s.begun, args[0])
		key := tryKey(c.Run, c.Round, c.Try)
		v := s.veils[key]
		v.Wrong, v.Why = len(v.Shown), "a share is wrong"
		s.veils[key] = v
		s.settle()
	case "todo":
		for _, a := range s.state.Todo(s.view()) {
			s.printf("%s", s.action(a))
		}
	case "show":
		s.show(args[0])
	default:
		s.decide(s.input(name, args))
	}
	s.settle()
}

// input reads the commands that are one input each.
func (s *script) input(name string, args []string) round.Input {
	arg := func(i int) string {
		if i >= len(args) {
			return ""
		}
		return args[i]
	}
	member := func(i int) entry.Member { return entry.Member(arg(i)) }
	switch name {
	case "adopt":
		epoch := uint64(s.number(arg(0)))
		return round.Adopt{
			Fact: entry.ManifestAdopted{
				Federation: "f", Epoch: epoch, Manifest: s.digest(arg(1)), Previous: s.digest(arg(2)), Members: s.limits.Members,
			},
			Limits: s.limits, Leads: s.leads,
		}
	case "boot":
		return round.Boot{}
	case "create":
		return s.create(arg(0), options(s, args[1:]))
	case "consent":
		return round.Consent{Run: arg(0), Member: member(1), Records: s.number(arg(2))}
	case "decline":
		return round.Decline{Run: arg(0), Member: member(1), Rule: arg(2)}
	case "leave":
		return round.Leave{Run: arg(0), Member: member(1), Reason: strings.Join(args[min(len(args), 2):], " ")}
	case "query":
		n, attempt := s.try(arg(1))
		return round.Query{
			Run: arg(0), Round: n, Try: attempt, Member: member(2), Update: s.digest(arg(3)), Weight: s.number(arg(4)),
			Source: round.Source{Base: int(s.number(arg(5))), Model: s.digest(arg(6))},
		}
	case "offer":
		n, attempt := s.try(arg(1))
		return round.Offer{
			Run: arg(0), Round: n, Try: attempt, Member: member(2), Update: s.digest(arg(3)), Weight: s.number(arg(4)), Bytes: 8,
			Source: round.Source{Base: int(s.number(arg(5))), Model: s.digest(arg(6))},
		}
	case "reject":
		n, attempt := s.try(arg(1))
		in := round.Reject{Run: arg(0), Round: n, Try: attempt, Member: member(2), Update: s.digest(arg(3)), Reason: arg(4)}
		for range max(s.number(arg(5)), 1) - 1 {
			s.decide(in)
		}
		return in
	case "cancel":
		return round.Cancel{Run: arg(0), By: "lin", Reason: strings.Join(args[1:], " ")}
	case "evaluate":
		return s.evaluation(arg(0), int(s.number(arg(1))), member(2), args[3:])
	}
	s.Fatalf("unknown command %s", name)
	return nil
}

func (s *script) create(run string, o map[string]string) round.Create {
	or := func(key, otherwise string) string {
		if v, ok := o[key]; ok {
			return v
		}
		return otherwise
	}
	p := entry.Plan{
		Name: run, Trainer: or("trainer", "builtin/logistic"), Strategy: entry.Strategy{Name: or("strategy", "fedavg")},
		Rounds: int(s.number(or("rounds", "1"))), Quorum: int(s.number(or("quorum", "3"))), Tries: int(s.number(or("tries", "2"))),
		Deadline: entry.Duration(s.duration(or("deadline", "1m"))), MaxAbs: s.float(or("max_abs", "16")),
		Resolution: s.float(or("resolution", "0")), ReportGoal: int(s.number(or("report_goal", "0"))),
		Grace: entry.Duration(s.duration(or("grace", "0"))), MaxTime: entry.Duration(s.duration(or("max_time", "0"))), Masks: or("masks", "") == "true",
	}
	if m := or("reference", ""); m != "" {
		p.Strategy.Params = map[string]any{"reference": m}
	}
	if n := or("buffer", ""); n != "" {
		p.Strategy = entry.Strategy{Name: "fedbuff", Params: map[string]any{
			"buffer_size": s.float(n), "max_staleness": s.float(or("max_staleness", "65536")), "normalize": or("normalize", "buffer_size"),
		}}
	}
	f := entry.RunCreated{Run: run, Request: or("request", run), Lead: or("lead", "lin"), Plan: p}
	for m := range strings.SplitSeq(or("members", "a,b,c,d"), ",") {
		f.Members = append(f.Members, entry.Member(m))
	}
	if x := or("standardize", ""); x != "" {
		f.Plan.Standardize = &entry.Standardize{MaxAbs: s.float(x)}
	} else if x := or("initial", "zeros"); x != "none" {
		f.Initial, f.Model = &entry.Blob{Plain: s.digest(x)}, s.digest(x)
	}
	return round.Create{Fact: f, Limits: s.limits}
}

func (s *script) limit(o map[string]string) {
	for key, v := range o {
		switch key {
		case "members":
			s.limits.Members = nil
			for m := range strings.SplitSeq(v, ",") {
				s.limits.Members = append(s.limits.Members, entry.Member(m))
			}
		case "leads":
			s.leads = strings.Split(v, ",")
		case "quorum":
			s.limits.LeastParticipants = int(s.number(v))
		case "rounds":
			s.limits.RoundsMax = int(s.number(v))
		case "runs":
			s.limits.OpenRuns = int(s.number(v))
		case "max_abs":
			s.limits.MaxAbs = s.float(v)
		case "trainer":
			s.limits.Trainers = strings.FieldsFunc(v, func(c rune) bool { return c == ',' })
		case "strategy":
			s.limits.Strategies = strings.FieldsFunc(v, func(c rune) bool { return c == ',' })
		default:
			s.Fatalf("unknown limit %s", key)
		}
	}
}

func (s *script) evaluation(run string, number int, m entry.Member, figures []string) round.Evaluation {
	in := round.Evaluation{Run: run, Round: number, Member: m}
	if r, ok := s.state.Run(run); ok {
		for _, t := range r.Rounds {
			if t.Round == number && t.State == "closed" {
				in.Model = t.Model
			}
		}
	}
	for _, text := range figures {
		if text == "model=zeros" {
			in.Model = s.digest("zeros")
			continue
		}
		set, rest, _ := strings.Cut(text, "/")
		name, rest, _ := strings.Cut(rest, "=")
		values := strings.Split(rest, "/")
		if len(values) != 3 {
			s.Fatalf("figure %s, want SET/NAME=VALUE/ROWS/BETTER", text)
		}
		in.Metrics = append(in.Metrics, entry.Metric{
			Set: set, Name: name, Value: s.float(values[0]), Count: s.number(values[1]), Better: values[2],
		})
	}
	return in
}

// begin remembers what Todo asks to combine now; finish hands it in as it was.
func (s *script) begin(run string) {
	for _, a := range s.state.Todo(s.view()) {
		if c, ok := a.(round.Combine); ok && c.Run == run {
			s.begun[run] = c
			s.printf("%s", s.action(c))
			return
		}
	}
	s.printf("nothing is to be combined")
}

func (s *script) finish(run string) {
	c, ok := s.begun[run]
	if !ok {
		return
	}
	delete(s.begun, run)
	model := mean(c.Base, c.Members)
	s.names[model] = fmt.Sprintf("mean(%s)", strings.Join(s.updates(c.Members), " "))
	s.decide(round.Combined{
		Run: c.Run, Round: c.Round, Try: c.Try, Members: c.Members, Model: model, Blob: entry.Blob{Plain: model}, Early: c.Early,
	})
}

// veil is a member's answer to what Todo asks it about masks, in memory as a coordinator has it.
func (s *script) veil(how, run string, m entry.Member) {
	stage := map[string]round.Stage{"announce": round.Announce, "share": round.Share, "unveil": round.Show}[how]
	in, v, key := round.Veiled{Run: run, Round: 1, Try: 1, Stage: stage, Member: m}, round.Veil{}, ""
	if r, ok := s.state.Run(run); ok && len(r.Rounds) > 0 {
		t := r.Rounds[len(r.Rounds)-1]
		in.Round, in.Try = t.Round, t.Try
	}
	key = tryKey(run, in.Round, in.Try)
	v = s.veils[key]
	for _, a := range s.state.Todo(s.view()) {
		if a, ok := a.(round.Mask); ok && a.Run == run && a.Stage == round.Share && v.Among == nil {
			v.Among = a.Among
		}
	}
	if _, err := s.state.Decide(s.now, in); err != nil {
		s.printf("refused (%s): %v", round.Reason(err), err)
		return
	}
	to := map[round.Stage]*[]entry.Member{round.Announce: &v.Announced, round.Share: &v.Shared, round.Show: &v.Shown}[stage]
	*to = append(slices.Clone(*to), m)
	slices.Sort(*to)
	s.veils[key] = v
	s.settle()
}

// decide is the loop's: what follows is written and applied.
func (s *script) decide(in round.Input) {
	facts, err := s.state.Decide(s.now, in)
	if err != nil {
		s.printf("refused (%s): %v", round.Reason(err), err)
		return
	}
	if len(facts) == 0 {
		if _, ticks := in.(round.Tick); !ticks {
			s.printf("ok")
		}
	}
	s.apply(facts...)
	if o, ok := in.(round.Offer); ok {
		if f, fresh := last(facts).(entry.UpdateAccepted); fresh {
			o.Round, o.Try = f.Round, f.Try
		}
		s.held[tryKey(o.Run, o.Round, o.Try)+string(o.Member)] = o.Update
	}
}

func last(facts []entry.Fact) entry.Fact {
	if len(facts) == 0 {
		return nil
	}
	return facts[len(facts)-1]
}

func (s *script) apply(facts ...entry.Fact) {
	for _, f := range facts {
		s.log = append(s.log, entry.Line{At: s.now, Fact: f})
		if err := s.state.Apply(s.now, f); err != nil {
			s.Fatalf("Apply(%+v): %v", f, err)
		}
		s.printf("%s", s.fact(f))
	}
}

func (s *script) settle() {
	for before := -1; before != len(s.log); {
		before = len(s.log)
		s.decide(round.Tick{Held: s.holds, Seen: s.seen, Veils: s.veilOf})
	}
	if again := s.replay(); !reflect.DeepEqual(s.state, again) {
		s.Fatalf("the state differs from its replay:\n%s", cmp.Diff(s.state.Runs(), again.Runs()))
	}
}

func (s *script) replay() *round.State {
	again := round.New()
	for _, l := range s.log {
		if err := again.Apply(l.At, l.Fact); err != nil {
			s.Fatalf("replaying %+v: %v", l.Fact, err)
		}
	}
	return again
}

func (s *script) view() round.View {
	return round.View{Now: s.now, Held: s.holds, Seen: s.seen, Veils: s.veilOf}
}

func (s *script) veilOf(run string, number, try int) round.Veil {
	return s.veils[tryKey(run, number, try)]
}

// seen takes whoever the scenario does not speak of for connected.
func (s *script) seen(m entry.Member) round.Sighting {
	if at, ok := s.sighted[m]; ok {
		return at
	}
	return round.Sighting{Last: s.now, Connected: true}
}

func (s *script) holds(run string, number, attempt int, m entry.Member) (entry.Digest, bool) {
	d, ok := s.held[tryKey(run, number, attempt)+string(m)]
	return d, ok
}

// digest makes a digest of a name, "" is none, and remembers the name.
func (s *script) digest(name string) entry.Digest {
	if name == "" {
		return entry.Digest{}
	}
	d := digest(name)
	s.names[d] = name
	return d
}

func (s *script) updates(members []entry.Contribution) []string {
	var out []string
	for _, c := range members {
		text := fmt.Sprintf("%s:%s*%d", c.Member, s.names[c.Update], c.Weight)
		if c.Staleness > 0 {
			text += fmt.Sprintf("-%d", c.Staleness)
		}
		out = append(out, text)
	}
	return out
}

func options(t testing.TB, args []string) map[string]string {
	out := map[string]string{}
	for _, a := range args {
		key, v, ok := strings.Cut(a, "=")
		if !ok {
			t.Fatalf("option %s, want KEY=VALUE", a)
		}
		out[key] = v
	}
	return out
}

func (s *script) number(text string) int64 {
	if text == "" {
		return 0
	}
	n, err := strconv.ParseInt(text, 0, 64)
	if err != nil {
		s.Fatal(err)
	}
	return n
}

func (s *script) float(text string) float64 {
	x, err := strconv.ParseFloat(text, 64)
	if err != nil {
		s.Fatal(err)
	}
	return x
}

func (s *script) duration(text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		s.Fatal(err)
	}
	return d
}

func (s *script) try(text string) (number, attempt int) {
	a, b, ok := strings.Cut(text, ".")
	if !ok {
		s.Fatalf("try %s, want ROUND.TRY", text)
	}
	return int(s.number(a)), int(s.number(b))
}

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

// event is one line of go test -json, see "go doc test2json" and "go help buildjson".
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build-output
	FailedBuild string // of a package's fail: whose build failed
	Test        string
	Elapsed     float64
	Output      string
}

// name is one test.
type name struct{ pkg, test string }

// skip is a test that was skipped.
type skip struct {
	name
	reason string
}

// allowance lets tests of a package skip on any machine.
type allowance struct {
	pkg  string
	test *regexp.Regexp
}

// report is what tests came to.
type report struct {
	out     io.Writer
	strict  bool
	allowed []allowance
	output  map[name]*strings.Builder // of tests and packages that have not ended
	builds  map[string]*strings.Builder
	failing map[string]int // tests that failed, by package
	done    map[string]int // tests that ended, by package
	failed  []name
	skipped []skip
	passed  int
}

func newReport(out io.Writer, strict bool) *report {
	return &report{
		out: out, strict: strict, output: map[name]*strings.Builder{}, builds: map[string]*strings.Builder{},
		failing: map[string]int{}, done: map[string]int{},
	}
}

// expect reads the file of tests that may skip: lines of a package's path, a regular expression for whole test names, and
// why; and lines that begin with #.
func (r *report) expect(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		words := strings.Fields(line)
		if len(words) < 3 {
			return fmt.Errorf("%s: %q is not a package, a test and a reason", file, line)
		}
		test, err := regexp.Compile("^(?:" + words[1] + ")$")
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		r.allowed = append(r.allowed, allowance{words[0], test})
	}
	return nil
}

// read takes the events of a whole run.
func (r *report) read(events io.Reader) error {
	lines := bufio.NewReader(events)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				fmt.Fprintf(r.out, "%s", line) // what go test says beside its events
			} else {
				r.take(e)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading what go test says: %w", err)
		}
	}
}

func (r *report) take(e event) {
	if e.Action == "build-output" {
		write(r.builds, e.ImportPath, e.Output)
		return
	}
	n := name{e.Package, e.Test}
	if e.Action == "output" {
		write(r.output, n, e.Output)
		return
	}
	if e.Action != "pass" && e.Action != "fail" && e.Action != "skip" {
		return
	}
	said := taken(r.output, n)
	if e.Test == "" {
		r.ended(e, said)
		return
	}
	r.done[e.Package]++
	switch e.Action {
	case "pass":
		r.passed++
	case "skip":
		r.skipped = append(r.skipped, skip{n, because(said)})
	case "fail":
		r.failing[e.Package]++
		r.failed = append(r.failed, n)
		fmt.Fprintf(r.out, "%s", said)
	}
}

// ended takes a package's own end. One that failed without a failing test did not build, or broke outside its tests.
func (r *report) ended(e event, said string) {
	took := time.Duration(e.Elapsed * float64(time.Second)).Round(10 * time.Millisecond)
	switch e.Action {
	case "pass":
		fmt.Fprintf(r.out, "ok    %-45s %5d tests %8s\n", e.Package, r.done[e.Package], took)
	case "fail":
		fmt.Fprintf(r.out, "%s%s", taken(r.builds, e.FailedBuild), said)
		for _, n := range r.running(e.Package) { // when it ended: where it hung or broke, their output says why
			fmt.Fprintf(r.out, "%s--- never ended: %s\n", taken(r.output, n), n.test)
			r.failing[e.Package]++
			r.failed = append(r.failed, n)
		}
		fmt.Fprintf(r.out, "FAIL  %-45s %5d tests %8s\n", e.Package, r.done[e.Package], took)
		if r.failing[e.Package] == 0 {
			r.failed = append(r.failed, name{pkg: e.Package})
		}
	}
}

// running returns the tests of a package that have said something and not ended.
func (r *report) running(pkg string) []name {
	var all []name
	for n := range r.output {
		if n.pkg == pkg && n.test != "" {
			all = append(all, n)
		}
	}
	slices.SortFunc(all, func(a, b name) int { return strings.Compare(a.test, b.test) })
	return all
}

func write[K comparable](to map[K]*strings.Builder, k K, text string) {
	if to[k] == nil {
		to[k] = &strings.Builder{}
	}
	to[k].WriteString(text)
}

func taken[K comparable](from map[K]*strings.Builder, k K) string {
	b := from[k]
	delete(from, k)
	if b == nil {
		return ""
	}
	return b.String()
}

var (
	headline = regexp.MustCompile(`^\s*(=== |--- )`)
	place    = regexp.MustCompile(`^\s*[A-Za-z0-9_]+\.go:\d+: `)
	unset    = regexp.MustCompile(`\bCONSILIUM_[A-Z]+ (is not set|names no folder)`)
)

// because returns the last thing that a skipped test said.
func because(said string) string {
	why := "no reason given"
	for line := range strings.Lines(said) {
		if line = strings.TrimRight(line, "\n"); line != "" && !headline.MatchString(line) {
			why = strings.TrimSpace(place.ReplaceAllString(line, ""))
		}
	}
	return why
}

// counts reports whether a skip may stay one.
func (r *report) counts(s skip) bool {
	if !r.strict || unset.MatchString(s.reason) {
		return true
	}
	for _, a := range r.allowed {
		if strings.TrimPrefix(s.pkg, "consilium.dev/") == a.pkg && a.test.MatchString(s.test) {
			return true
		}
	}
	return false
}

// summarize prints the end of the report and reports whether all went well. err is how go test ended.
func (r *report) summarize(err error) bool {
	failed := len(r.failed)
	if len(r.skipped) > 0 {
		fmt.Fprintln(r.out, "\nskipped:")
	}
	skipped := 0
	for _, s := range r.skipped {
		mark := ""
		if r.counts(s) {
			skipped++
		} else {
			failed++
			mark = "  NOT ALLOWED under CONSILIUM_REQUIRE_ALL"
		}
		fmt.Fprintf(r.out, "  %s %s: %s%s\n", strings.TrimPrefix(s.pkg, "consilium.dev/"), s.test, s.reason, mark)
	}
	if len(r.failed) > 0 {
		fmt.Fprintln(r.out, "\nfailed:")
	}
	for _, n := range r.failed {
		fmt.Fprintf(r.out, "  %s %s\n", strings.TrimPrefix(n.pkg, "consilium.dev/"), n.test)
	}
	if err != nil && len(r.failed) == 0 { // interrupted, or no test was run at all
		fmt.Fprintf(r.out, "\ngo test: %v\n", err)
		failed++
	}
	fmt.Fprintf(r.out, "\n%d passed, %d failed, %d skipped\n", r.passed, failed, skipped)
	return failed == 0 && r.passed > 0
}

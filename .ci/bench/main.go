// Bench runs the benchmarks that the table of rows names, and prints, last, a table of ratios with their targets and with what was
// reached before. It exits with 1 if a ratio misses its target or was not measured. Run it at the root of the module:
//
//	bench [-only REGEXP] [-keep]
//
// A ratio is of two things that one benchmark measures by turns, so that both see the same machine; figures by themselves say little
// on a machine that others use. With -keep what was reached is written to .ci/bench/baseline.txt.
package main

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
)

// kept is the file of what was reached.
const kept = ".ci/bench/baseline.txt"

// row is one ratio. It is a metric of a benchmark, or that of one benchmark over the same of another.
type row struct {
	what   string // unique
	pkg    string
	bench  string // its name, as go test prints it, without "Benchmark"
	metric string
	over   string  // of the same function as bench; empty: the metric is a ratio by itself
	least  float64 // target; 0: none
	most   float64 // target; 0: none
	absent string  // why the benchmark may not measure it on some machines; empty: it must
}

func main() {
	only := flag.String("only", "", "`regexp` of the rows to measure")
	keep := flag.Bool("keep", false, "write what was reached to "+kept)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := run(ctx, *only, *keep)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

func run(ctx context.Context, only string, keep bool) (ok bool, err error) {
	match, err := regexp.Compile(only)
	if err != nil {
		return false, err
	}
	before, err := readKept()
	if err != nil {
		return false, err
	}
	asked := slices.DeleteFunc(slices.Clone(rows), func(r row) bool { return !match.MatchString(r.what) })
	if len(asked) == 0 {
		return false, fmt.Errorf("no row is called %q", only)
	}
	seen := results{}
	for _, f := range functions(asked) {
		if err := f.run(ctx, seen); err != nil {
			return false, err
		}
	}
	ok, reached := report(os.Stdout, asked, seen, before)
	if keep {
		maps.Copy(before, reached)
		err = writeKept(before)
	}
	return ok, err
}

// function is a benchmark function of a package, which is run once for all rows that want something of it.
type function struct{ pkg, name string }

func functions(rows []row) []function {
	var all []function
	for _, r := range rows {
		name, _, _ := strings.Cut(r.bench, "/")
		if f := (function{r.pkg, name}); !slices.Contains(all, f) {
			all = append(all, f)
		}
	}
	return all
}

// run runs the benchmark, shows what it prints, and notes its metrics.
func (f function) run(ctx context.Context, into results) error {
	cmd := exec.CommandContext(ctx, "go", "test", f.pkg, "-run", "^$", "-bench", "^Benchmark"+f.name+"$", "-timeout", "0")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.MultiWriter(os.Stdout, &out), os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return into.note(f.pkg, &out)
}

// results are metrics by package, benchmark and unit.
type results map[[3]string]float64

// suffix is what go test puts behind a benchmark's name: the number of processors.
var suffix = regexp.MustCompile(`-\d+$`)

// note reads what go test has printed: a benchmark's name, how often it ran, and pairs of a number and its unit.
func (all results) note(pkg string, out io.Reader) error {
	s := bufio.NewScanner(out)
	for s.Scan() {
		words := strings.Fields(s.Text())
		name, found := strings.CutPrefix(s.Text(), "Benchmark")
		if !found || len(words) < 4 {
			continue
		}
		name = suffix.ReplaceAllString(strings.Fields(name)[0], "")
		for i := 2; i+1 < len(words); i += 2 {
			v, err := strconv.ParseFloat(words[i], 64)
			if err != nil {
				return fmt.Errorf("reading what %s printed: %q: %w", pkg, s.Text(), err)
			}
			all[[3]string{pkg, name, words[i+1]}] = v
		}
	}
	return s.Err()
}

// ratio returns what came of a row, and whether it was measured.
func (all results) ratio(r row) (float64, bool) {
	v, ok := all[[3]string{r.pkg, r.bench, r.metric}]
	if !ok || r.over == "" {
		return v, ok
	}
	w, ok := all[[3]string{r.pkg, r.over, r.metric}]
	return v / w, ok
}

// report prints the table, and says whether every target is met and what was reached.
func report(to io.Writer, rows []row, seen results, before map[string]string) (ok bool, reached map[string]string) {
	ok, reached = true, map[string]string{}
	fmt.Fprintf(to, "\n%s/%s, %d cores\n", runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ratio\tmeasured\ttarget\treached before\t")
	for _, r := range rows {
		target := "-"
		switch {
		case r.least > 0:
			target = fmt.Sprintf(">= %.2f", r.least)
		case r.most > 0:
			target = fmt.Sprintf("<= %.2f", r.most)
		}
		old := before[r.what]
		if old == "" {
			old = "-"
		}
		v, measured := seen.ratio(r)
		switch {
		case !measured && r.absent != "":
			fmt.Fprintf(w, "%s\t-\t%s\t%s\t%s\n", r.what, target, old, r.absent)
			continue
		case !measured:
			ok = false
			fmt.Fprintf(w, "%s\t-\t%s\t%s\tNOT MEASURED\n", r.what, target, old)
			continue
		}
		verdict := ""
		if v < r.least || r.most > 0 && v > r.most || v != v {
			ok, verdict = false, "MISSED"
		}
		reached[r.what] = fmt.Sprintf("%.2f", v)
		fmt.Fprintf(w, "%s\t%.2f\t%s\t%s\t%s\n", r.what, v, target, old, verdict)
	}
	w.Flush()
	return ok, reached
}

// readKept returns what was reached before: a line "VALUE  ROW" for each.
func readKept() (map[string]string, error) {
	text, err := os.ReadFile(kept)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	all := map[string]string{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		value, what, found := strings.Cut(line, "  ")
		if !found {
			return nil, fmt.Errorf("%s: %q, want a value, two spaces and a row", kept, line)
		}
		all[what] = value
	}
	return all, nil
}

// writeKept writes the rows' values, in the table's order.
func writeKept(all map[string]string) error {
	text := []byte("# What was reached, by bench -keep: a value, two spaces, a row.\n")
	for _, r := range rows {
		if v := all[r.what]; v != "" {
			text = fmt.Appendf(text, "%s  %s\n", v, r.what)
		}
	}
	return os.WriteFile(kept, text, 0o644)
}

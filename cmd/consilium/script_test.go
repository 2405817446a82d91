package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"consilium.dev/internal/daemon"
	"consilium.dev/internal/tunnel/tunneltest"
)

var update = flag.Bool("update", false, "write the golden files anew; read the difference before it is committed")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"consilium": main})
}

// TestScripts runs every script in testdata. The coordinator and the participants in them are real processes.
func TestScripts(t *testing.T) {
	bin := buildPrograms(t)
	federation := makeFederation(t, bin)
	golden, err := filepath.Abs(filepath.Join("testdata", "golden"))
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:      "testdata",
		Deadline: time.Now().Add(4 * patienceOfScripts), // of all of them together
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", e.Getenv("PATH")+string(os.PathListSeparator)+bin)
			e.Setenv("BIN", bin)
			e.Setenv("GOLDEN", golden)
			e.Setenv("ATTEST", filepath.Join(golden, "..", "..", "..", "..", "internal", "attest")) // its real evidence
			e.Setenv("XDG_CONFIG_HOME", filepath.Join(e.WorkDir, "xdg"))
			e.Setenv("TZ", "UTC")
			if os.Getenv("GORACE") == "" { // or each consilium that talks to somebody would sleep for a second before it exits
				e.Setenv("GORACE", "atexit_sleep_ms=0")
			}
			e.Values[processKey{}] = map[string]*process{}
			e.Values[federationKey{}] = federation
			e.Values[testKey{}] = t
			e.Defer(func() { // also when the script has failed
				for _, p := range e.Values[processKey{}].(map[string]*process) {
					p.cmd.Process.Kill() //nolint:errcheck // it may have ended
					<-p.done
				}
			})
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"federation": scriptFederation,
			"exits":      scriptExits,
			"start":      scriptStart,
			"waitlog":    scriptWaitLog,
			"signal":     scriptSignal,
			"ended":      scriptEnded,
			"edit":       scriptEdit,
			"mode":       scriptMode,
			"golden":     scriptGolden,
			"setenv":     scriptSetenv,
			"sha256":     scriptSHA256,
			"occupy":     scriptOccupy,
			"newer":      scriptNewer,
			"waitfor":    scriptWaitFor,
			"proxy":      scriptProxy,
			"rogue":      scriptRogue,
			"makers":     scriptMakers,
		},
	})
}

// scriptWaitFor runs a program again and again until what it prints matches.
func scriptWaitFor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: waitfor REGEXP PROGRAM [ARG...]")
	}
	want := regexp.MustCompile(args[0])
	var last string
	for end := time.Now().Add(patienceOfScripts); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if err := ts.Exec(args[1], args[2:]...); err != nil {
			ts.Logf("%s: %v", args[1], err)
		}
		if last = ts.ReadFile("stdout"); want.MatchString(last) {
			return
		}
	}
	ts.Fatalf("%q does not come to match %q:\n%s", args[1:], args[0], last)
}

type (
	processKey    struct{}
	federationKey struct{}
	testKey       struct{}
)

// buildPrograms builds the three programs as make build does and returns their folder.
func buildPrograms(t *testing.T) string {
	t.Helper()
	bin := t.TempDir()
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", bin+string(filepath.Separator),
		"consilium.dev/cmd/consilium", "consilium.dev/cmd/coordinator", "consilium.dev/cmd/participant")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the programs: %v\n%s", err, out)
	}
	return bin
}

// scriptNewer builds the coordinator of another version: of the same sources, but for the version's number.
func scriptNewer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: newer VERSION FILE")
	}
	source, err := filepath.Abs(filepath.Join("..", "..", "internal", "daemon", "daemon.go"))
	ts.Check(err)
	text, err := os.ReadFile(source)
	ts.Check(err)
	changed := strings.Replace(string(text), `const Version = "`+daemon.Version+`"`, `const Version = "`+args[0]+`"`, 1)
	if changed == string(text) {
		ts.Fatalf("%s does not say its version", source)
	}
	ts.Check(os.WriteFile(ts.MkAbs("daemon.go"), []byte(changed), 0o600))
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{source: ts.MkAbs("daemon.go")}})
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs("overlay.json"), overlay, 0o600))
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-overlay", ts.MkAbs("overlay.json"), "-o", ts.MkAbs(args[1]), "consilium.dev/cmd/coordinator")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		ts.Fatalf("building version %s: %v\n%s", args[0], err, out)
	}
}

// scriptFederation puts a federation into the script's folder, with a coordinator at a port that was free a moment ago.
func scriptFederation(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: federation")
	}
	address := "127.0.0.1:" + strconv.Itoa(freePort(ts))
	from := ts.Value(federationKey{}).(string)
	ts.Check(filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := ts.MkAbs(strings.TrimPrefix(strings.TrimPrefix(path, from), string(filepath.Separator)))
		if d.IsDir() {
			return os.MkdirAll(to, 0o700)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(to, bytes.ReplaceAll(text, []byte("127.0.0.1:7443"), []byte(address)), 0o600)
	}))
	ts.Setenv("ADDRESS", address)
}

// scriptProxy starts an HTTP proxy, PROXY, that lets one user go to council.invalid:7443, which is the federation's coordinator, and
// to nobody.invalid:7443, where nobody listens.
func scriptProxy(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: proxy USER PASSWORD")
	}
	leads := map[string]string{"council.invalid:7443": ts.Getenv("ADDRESS"), "nobody.invalid:7443": "127.0.0.1:1"}
	p := tunneltest.Start(ts.Value(testKey{}).(testing.TB), tunneltest.Options{
		User: args[0], Password: args[1], Reach: func(address string) (string, bool) { real, ok := leads[address]; return real, ok },
	})
	ts.Setenv("PROXY", p.Address())
}

var ports struct {
	mu    sync.Mutex
	given map[int]bool
}

// freePort returns a port that is free now and that no other script has been given.
func freePort(ts *testscript.TestScript) int {
	ports.mu.Lock()
	defer ports.mu.Unlock()
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		port := l.Addr().(*net.TCPAddr).Port
		ts.Check(l.Close())
		if !ports.given[port] {
			if ports.given == nil {
				ports.given = map[int]bool{}
			}
			ports.given[port] = true
			return port
		}
	}
}

// scriptOccupy listens at an address until the script ends.
func scriptOccupy(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: occupy ADDRESS")
	}
	l, err := net.Listen("tcp", args[0])
	ts.Check(err)
	ts.Defer(func() { l.Close() })
}

// scriptExits runs a program that must exit with that code. Its output is there for stdout and stderr.
func scriptExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARGUMENT...]")
	}
	got := 0
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("%s exits with %d, want %s", strings.Join(args[1:], " "), got, args[0])
	}
}

// process is a program that runs beside the script. What it says is collected in text.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended

	mu   sync.Mutex // guards what follows
	text bytes.Buffer
	news chan struct{} // closed and made anew with each write
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.news)
	p.news = make(chan struct{})
	return p.text.Write(b)
}

func (p *process) look() (string, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String(), p.news
}

// scriptStart starts a program under a name.
func scriptStart(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: start NAME PROGRAM [ARGUMENT...]")
	}
	program := args[1]
	switch {
	case program == "consilium": // which is this test's binary
	case strings.Contains(program, "/"):
		program = ts.MkAbs(program)
	default:
		program = filepath.Join(ts.Getenv("BIN"), program)
	}
	p := &process{cmd: exec.Command(program, args[2:]...), done: make(chan struct{}), news: make(chan struct{})}
	p.cmd.Dir = ts.MkAbs(".")
	p.cmd.Env = append(os.Environ(), "CONSILIUM_CONFIG="+ts.Getenv("CONSILIUM_CONFIG"), "HTTPS_PROXY="+ts.Getenv("HTTPS_PROXY"))
	p.cmd.Stdout, p.cmd.Stderr = p, p
	ts.Check(p.cmd.Start())
	go func() {
		p.cmd.Wait() //nolint:errcheck // ended looks at the exit code
		close(p.done)
	}()
	ts.Value(processKey{}).(map[string]*process)[args[0]] = p
}

func running(ts *testscript.TestScript, name string) *process {
	p := ts.Value(processKey{}).(map[string]*process)[name]
	if p == nil {
		ts.Fatalf("there is no process %q", name)
	}
	return p
}

// patienceOfScripts bounds every wait of a script; it passes only when something hangs.
const patienceOfScripts = 2 * time.Minute

// scriptWaitLog waits until what a process has said matches; with "!" it checks that it does not match now.
func scriptWaitLog(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: waitlog NAME REGEXP")
	}
	p, want := running(ts, args[0]), regexp.MustCompile(`(?m)`+args[1])
	late := time.After(patienceOfScripts)
	for {
		text, news := p.look()
		if want.MatchString(text) != neg {
			return
		}
		if neg {
			ts.Fatalf("%s has said what matches %q:\n%s", args[0], args[1], text)
		}
		select {
		case <-news:
		case <-p.done:
			if text, _ = p.look(); want.MatchString(text) {
				return
			}
			ts.Fatalf("%s has ended without saying %q:\n%s", args[0], args[1], text)
		case <-late:
			ts.Fatalf("%s has not said %q:\n%s", args[0], args[1], text)
		}
	}
}

// scriptSignal sends a process INT, TERM or KILL and does not wait.
func scriptSignal(ts *testscript.TestScript, neg bool, args []string) {
	signals := map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL, "HUP": syscall.SIGHUP}
	if neg || len(args) != 2 || signals[args[0]] == 0 {
		ts.Fatalf("usage: signal INT|TERM|KILL|HUP NAME")
	}
	ts.Check(running(ts, args[1]).cmd.Process.Signal(signals[args[0]]))
}

// scriptEnded waits until a process has ended with that exit code; -1 stands for a signal.
func scriptEnded(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: ended NAME CODE")
	}
	p := running(ts, args[0])
	select {
	case <-p.done:
	case <-time.After(patienceOfScripts):
		text, _ := p.look()
		ts.Fatalf("%s does not end:\n%s", args[0], text)
	}
	if got := strconv.Itoa(p.cmd.ProcessState.ExitCode()); got != args[1] {
		text, _ := p.look()
		ts.Fatalf("%s ended with %s, want %s:\n%s", args[0], got, args[1], text)
	}
}

// scriptEdit replaces one text in a file by another, in which \n is a line end; the first must be there.
func scriptEdit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: edit FILE OLD NEW")
	}
	path, text := ts.MkAbs(args[0]), ts.ReadFile(args[0])
	if !strings.Contains(text, args[1]) {
		ts.Fatalf("%s does not hold %q", args[0], args[1])
	}
	ts.Check(os.WriteFile(path, []byte(strings.ReplaceAll(text, args[1], strings.ReplaceAll(args[2], `\n`, "\n"))), 0o600))
}

// scriptMode checks a file's permissions.
func scriptMode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mode FILE OCTAL")
	}
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[1] {
		ts.Fatalf("%s has mode %s, want %s", args[0], got, args[1])
	}
}

// volatile is what differs between two runs of a script: ids, instants, places, how long something took.
var volatile = []struct {
	of   *regexp.Regexp
	text string
}{
	{regexp.MustCompile(`[0-9a-f]{64}`), "DIGEST"},
	{regexp.MustCompile(`"[0-9a-f]{16}"`), `"ID"`},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+Z`), "INSTANT"},
	{regexp.MustCompile(`,\s*"activity": \{[^}]*\}`), ""}, // what a participant does at that moment, if it has said so yet
	{regexp.MustCompile(`"accepted": \[[^]]*\]`), `"accepted": [IN ANY ORDER]`},
	{regexp.MustCompile(`"position": \d+`), `"position": N`},
	{regexp.MustCompile(`"bound": [0-9.e-]+`), `"bound": X`},
	{regexp.MustCompile(`("value": -?\d+\.\d{6})\d+`), "$1..."}, // training promises no bits
}

// scriptGolden compares what a program printed with a golden file, made free of what differs between runs.
func scriptGolden(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: golden FILE|stdout NAME")
	}
	got, path := ts.ReadFile(args[0]), filepath.Join(ts.Getenv("GOLDEN"), args[1])
	for _, v := range volatile {
		got = v.of.ReplaceAllString(got, v.text)
	}
	if *update {
		ts.Check(os.WriteFile(path, []byte(got), 0o644))
		return
	}
	want, err := os.ReadFile(path)
	ts.Check(err)
	if diff := cmp.Diff(string(want), got); diff != "" {
		ts.Fatalf("%s differs from %s (-want +got):\n%s", args[0], args[1], diff)
	}
}

// scriptSetenv sets a variable to what the one group of a regular expression finds in a file or stdout.
func scriptSetenv(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: setenv NAME FILE|stdout REGEXP")
	}
	found := regexp.MustCompile(args[2]).FindStringSubmatch(ts.ReadFile(args[1]))
	if len(found) != 2 {
		ts.Fatalf("%s has nothing that matches %q", args[1], args[2])
	}
	ts.Setenv(args[0], found[1])
}

// scriptSHA256 checks a file's digest.
func scriptSHA256(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: sha256 FILE DIGEST")
	}
	if got := fmt.Sprintf("%x", sha256.Sum256([]byte(ts.ReadFile(args[0])))); got != args[1] {
		ts.Fatalf("%s has the digest %s, want %s", args[0], got, args[1])
	}
}

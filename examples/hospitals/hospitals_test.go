//go:build linux

// Package hospitals_test types the commands of the README, and shows the demonstration, with the real programs.
package hospitals_test

import (
	"bytes"
	"errors"
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

	"golang.org/x/sys/unix"
)

// patience bounds every wait; it passes only when something hangs.
const patience = 2 * time.Minute

var bin string // folder of the four programs

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	var err error
	if bin, err = os.MkdirTemp("", "consilium-programs-"); err != nil {
		panic(err)
	}
	defer os.RemoveAll(bin)
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", bin+string(filepath.Separator),
		"consilium.dev/cmd/consilium", "consilium.dev/cmd/coordinator", "consilium.dev/cmd/participant")
	demo := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", filepath.Join(bin, "hospitals"),
		"consilium.dev/examples/hospitals/demo")
	for _, cmd := range []*exec.Cmd{build, demo} {
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			panic("building the programs: " + err.Error() + "\n" + string(out))
		}
	}
	return m.Run()
}

// TestReadme types every command of the README, in a folder that looks like the project's.
func TestReadme(t *testing.T) {
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip("there is no shell to type the README's commands into")
	}
	if _, err := exec.LookPath("sha256sum"); err != nil {
		t.Skip("there is no sha256sum, with which the README compares the model's digest")
	}
	dir, port := t.TempDir(), strconv.Itoa(freePort(t))
	copyExample(t, filepath.Join(dir, "examples", "hospitals"), "127.0.0.1:7443", "127.0.0.1:"+port)
	if err := os.Symlink(bin, filepath.Join(dir, "bin")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-eu")
	cmd.Dir = dir
	cmd.Stdin = strings.NewReader(commands(t, "README.md"))
	out := play(t, cmd)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("the README's commands: %v\n%s", err, out)
	}
	model := regexp.MustCompile(`(?m)^model +([0-9a-f]{64}), of round 50$`).FindStringSubmatch(out.String())
	if model == nil {
		t.Fatalf("no model came of it:\n%s", out)
	}
	for _, want := range []string{
		`(?m)^│ 50 +│ closed +│ 4 of 4 +│ 0\.41(879[0-9]|88[0-9]{2}|890[0-9]) │`, // the loss
		`(?m)^` + model[1] + `  model\.safetensors$`,
		`manifest\.dsse\.json is epoch 1 of four-hospitals, signed by budapest, cleveland, longbeach, switzerland`,
	} {
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("nothing matches %s in\n%s", want, out)
		}
	}
	for _, name := range []string{"cleveland", "budapest", "switzerland", "longbeach"} {
		log := read(t, filepath.Join(dir, "four-hospitals", name, "participant.log"))
		for line := range strings.Lines(log) {
			if !strings.Contains(line, `"simulated": "demo"`) {
				t.Errorf("%s does not say that it is simulated in the line %s", name, line)
			}
		}
	}
}

// commands returns everything in the README that is marked as typed into a shell.
func commands(t *testing.T, file string) string {
	t.Helper()
	var script strings.Builder
	inside := false
	for line := range strings.Lines(read(t, file)) {
		switch {
		case line == "```sh\n":
			inside = true
		case line == "```\n":
			inside = false
		case inside:
			script.WriteString(line)
		}
	}
	if script.Len() == 0 {
		t.Fatalf("%s has no commands", file)
	}
	return script.String()
}

func TestDemo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "demo")
	out, code := demo(t, "--dir", dir)
	if code != 0 {
		t.Fatalf("it exits with %d:\n%s", code, out)
	}
	for _, want := range []string{
		`as published: 20[0-2] of 254 test patients right`, `\$ .*consilium run start .*plan\.yaml --watch`,
		`round 50 of 50 closed: 4 of 4 updates`, `│ ROUND │.*│ ALL +│ BYTES │ SECONDS │`, `Worth typing next:`,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("nothing matches %s in\n%s", want, out)
		}
	}
	if n := strings.Count(read(t, filepath.Join(dir, "features.txt")), "\n"); n != 13 {
		t.Errorf("features.txt has %d lines, want 13", n)
	}
	gone(t, out)
	nextCommands(t, out)

	// It replaces what a demonstration made. With another plan the figures are not the published ones, and it says so.
	other := filepath.Join(t.TempDir(), "hospitals")
	copyExample(t, other, "rounds: 50", "rounds: 3")
	out, code = demo(t, "--dir", dir, "--examples", other)
	if code != 1 || !strings.Contains(out, "the outcome is not the published one") || !strings.Contains(out, "the loss of 486 training patients is 0.48") {
		t.Errorf("with three rounds it exits with %d:\n%s", code, out)
	}
	gone(t, out)
}

// nextCommands types the commands that the demonstration calls worth typing.
func nextCommands(t *testing.T, out string) {
	t.Helper()
	_, next, _ := strings.Cut(out, "Worth typing next:\n")
	var lines [][]string
	for line := range strings.Lines(next) {
		if fields := strings.Fields(line); len(fields) > 1 && strings.HasPrefix(fields[0], string(filepath.Separator)) {
			lines = append(lines, fields)
		}
	}
	if len(lines) != 7 {
		t.Fatalf("there are %d commands, want 7:\n%s", len(lines), next)
	}
	if text, err := exec.Command(lines[0][0], lines[0][1:]...).Output(); err != nil || !bytes.Contains(text, []byte("four-hospitals")) {
		t.Errorf("%s: %v\n%s", lines[0], err, text)
	}
	var daemons []*exec.Cmd
	for i, line := range lines[1:6] {
		daemons = append(daemons, exec.Command(line[0], line[1:]...))
		if log := play(t, daemons[i]); i == 0 {
			log.wait(t, `serving`)
		}
	}
	if text, err := exec.Command(lines[6][0], lines[6][1:]...).Output(); err != nil || !bytes.Contains(text, []byte("strategy  fedavg")) {
		t.Errorf("%s: %v\n%s", lines[6], err, text)
	}
	for i, d := range daemons {
		d.Process.Signal(syscall.SIGTERM) //nolint:errcheck // Wait tells
		if err := d.Wait(); err != nil {
			t.Errorf("%s: %v", lines[1+i], err)
		}
	}
}

// TestDemoInterrupted ends the demonstration while all five programs run: none of them stays.
func TestDemoInterrupted(t *testing.T) {
	for _, test := range []struct {
		signal syscall.Signal
		code   int
	}{{syscall.SIGINT, 130}, {syscall.SIGTERM, 130}, {syscall.SIGKILL, -1}} {
		t.Run(test.signal.String(), func(t *testing.T) {
			cmd := exec.Command(filepath.Join(bin, "hospitals"), "--examples", ".", "--dir", filepath.Join(t.TempDir(), "demo"))
			out := play(t, cmd)
			out.wait(t, `round 3 of 50 closed`)
			if err := cmd.Process.Signal(test.signal); err != nil {
				t.Fatal(err)
			}
			cmd.Wait() //nolint:errcheck // the exit code tells
			if got := cmd.ProcessState.ExitCode(); got != test.code {
				t.Errorf("it exits with %d, want %d:\n%s", got, test.code, out)
			}
			if n := gone(t, out.String()); n != 5 {
				t.Errorf("it named %d processes, want 5:\n%s", n, out)
			}
		})
	}
}

func TestDemoRefuses(t *testing.T) {
	taken := t.TempDir()
	if err := os.WriteFile(filepath.Join(taken, "thesis.txt"), []byte("years of work"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, code := demo(t, "--dir", taken)
	if code != 1 || !strings.Contains(out, "is there already and no demonstration made it") {
		t.Errorf("in a folder of somebody else it exits with %d: %s", code, out)
	}
	if read(t, filepath.Join(taken, "thesis.txt")) != "years of work" {
		t.Error("it touched a folder of somebody else")
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	out, code = demo(t, "--dir", filepath.Join(t.TempDir(), "demo"), "--port", port)
	if code != 1 || !strings.Contains(out, "port "+port+" is in use: name another with --port") {
		t.Errorf("at a port in use it exits with %d: %s", code, out)
	}
	if out, code = demo(t, "--examples", t.TempDir()); code != 1 || !strings.Contains(out, "the hospitals' files are missing") {
		t.Errorf("without the hospitals' files it exits with %d: %s", code, out)
	}
	if out, code = demo(t, "now"); code != 2 {
		t.Errorf("with an argument it exits with %d: %s", code, out)
	}
}

// demo shows the demonstration to its end.
func demo(t *testing.T, args ...string) (string, int) {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, "hospitals"), append([]string{"--examples", "."}, args...)...)
	out := play(t, cmd)
	cmd.Wait() //nolint:errcheck // the exit code tells
	return out.String(), cmd.ProcessState.ExitCode()
}

// gone waits until every process that the demonstration named has ended, and returns how many it named.
func gone(t *testing.T, out string) int {
	t.Helper()
	named := regexp.MustCompile(`process (\d+),`).FindAllStringSubmatch(out, -1)
	for _, found := range named {
		pid, err := strconv.Atoi(found[1])
		if err != nil {
			t.Fatal(err)
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		// One that has been killed may need a moment to end. A descriptor of a process can be read once it has.
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(patience.Milliseconds()))
		for errors.Is(err, unix.EINTR) {
			n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(patience.Milliseconds()))
		}
		if n != 1 || err != nil {
			t.Errorf("process %d is still running (%v)", pid, err)
			unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) //nolint:errcheck // it may have ended meanwhile
		}
		unix.Close(fd) //nolint:errcheck // nothing was written to it
	}
	return len(named)
}

// transcript is what a program has printed so far.
type transcript struct {
	mu   sync.Mutex // guards what follows
	text bytes.Buffer
	news chan struct{} // closed and made anew with each write
}

func (s *transcript) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.news)
	s.news = make(chan struct{})
	return s.text.Write(b)
}

func (s *transcript) look() (string, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String(), s.news
}

func (s *transcript) String() string {
	text, _ := s.look()
	return text
}

// wait waits until what has been printed matches.
func (s *transcript) wait(t *testing.T, want string) {
	t.Helper()
	pattern, late := regexp.MustCompile(want), time.After(patience)
	for {
		text, news := s.look()
		if pattern.MatchString(text) {
			return
		}
		select {
		case <-news:
		case <-late:
			t.Fatalf("nothing matches %s in\n%s", want, text)
		}
	}
}

// play starts a program in a process group of its own, which does not outlive the test.
func play(t *testing.T, cmd *exec.Cmd) *transcript {
	t.Helper()
	s := &transcript{news: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = s, s
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = patience
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }) //nolint:errcheck // it may have ended
	return s
}

// freePort returns a port that is free now.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// copyExample copies the hospitals' files to a folder, with one text in them replaced by another.
func copyExample(t *testing.T, to, from, by string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(".")); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(to, "*.yaml"))
	if err != nil || len(files) < 8 {
		t.Fatalf("the hospitals have %d files (%v)", len(files), err)
	}
	for _, file := range files {
		text := strings.ReplaceAll(read(t, file), from, by)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

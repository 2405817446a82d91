package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for a program to say anything at all, on a machine that is busy with other things.
const patience = 2 * time.Minute

// book is what a program says, line by line.
type book struct {
	mu      sync.Mutex // guards what follows
	text    bytes.Buffer
	changed chan struct{} // closed when there is more
}

func newBook() *book { return &book{changed: make(chan struct{})} }

func (b *book) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.changed)
	b.changed = make(chan struct{})
	return b.text.Write(p)
}

func (b *book) read() (string, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String(), b.changed
}

// forget drops what was said so far.
func (b *book) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text.Reset()
}

// count returns how many lines have that message and those fields (name, value, ...).
func (b *book) count(message string, fields ...string) int { return len(b.lines(message, fields...)) }

// lines returns them, with all that they say.
func (b *book) lines(message string, fields ...string) []map[string]any {
	text, _ := b.read()
	var all []map[string]any
	for l := range strings.Lines(text) {
		var m map[string]any
		if json.Unmarshal([]byte(l), &m) != nil { // the last line may still be in the making
			continue
		}
		ok := m["msg"] == message
		for i := 0; i < len(fields); i += 2 {
			ok = ok && fmt.Sprint(m[fields[i]]) == fields[i+1]
		}
		if ok {
			all = append(all, m)
		}
	}
	return all
}

// await waits until ready is true, and looks again whenever the book has more.
func (b *book) await(t *testing.T, what string, ready func() bool) {
	t.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		_, changed := b.read()
		if ready() {
			return
		}
		select {
		case <-changed:
			late.Reset(patience)
		case <-late.C:
			text, _ := b.read()
			t.Fatalf("nothing came for %v, waiting for %s:\n%s", patience, what, tail(text))
		}
	}
}

// line waits for a line with that message and those fields.
func (b *book) line(t *testing.T, message string, fields ...string) {
	t.Helper()
	b.await(t, fmt.Sprintf("the line %q with %q", message, fields), func() bool { return b.count(message, fields...) > 0 })
}

func tail(text string) string { return text[max(0, len(text)-4000):] }

// process is a coordinator or a participant.
type process struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	log  *book
	done chan struct{}
	err  error // after done
}

// launch starts a program that ends with the test at the latest. Who is the command's Stderr already hears what it says too.
func launch(t *testing.T, name string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, name: name, cmd: cmd, log: newBook(), done: make(chan struct{})}
	if also := cmd.Stderr; also != nil {
		cmd.Stderr = io.MultiWriter(p.log, also)
	} else {
		cmd.Stderr = p.log
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		p.err = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-p.done
		if t.Failed() {
			t.Logf("%s has logged:\n%s", name, tail(p.says()))
		}
	})
	return p
}

// kill kills the program with SIGKILL, which it must not have ended before.
func (p *process) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatalf("killing %s: %v", p.name, err)
	}
	<-p.done
	if s, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGKILL {
		text, _ := p.log.read()
		p.t.Fatalf("%s ended before it was killed: %v\n%s", p.name, p.err, tail(text))
	}
}

// end waits for the program's end and returns its exit code.
func (p *process) end() int {
	p.t.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-p.done:
	case <-late.C:
		text, _ := p.log.read()
		p.t.Fatalf("%s does not end:\n%s", p.name, tail(text))
	}
	return p.cmd.ProcessState.ExitCode()
}

// stop ends the program with SIGTERM, which must take at most ten seconds.
func (p *process) stop() {
	p.t.Helper()
	began := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatalf("ending %s: %v", p.name, err)
	}
	if code := p.end(); code != 0 {
		p.t.Errorf("%s ended with code %d", p.name, code)
	}
	if took := time.Since(began); took > 10*time.Second {
		p.t.Errorf("%s took %v to end, want 10s at most", p.name, took)
	}
}

// says returns what the program has logged.
func (p *process) says() string {
	text, _ := p.log.read()
	return text
}

// command returns a command that is a program of ours.
func command(path, config string) *exec.Cmd {
	return exec.Command(path, "--config", config, "--log-format", "json")
}

// self returns a command that is a coordinator: see asVariable.
func self(t *testing.T, as, config string) *exec.Cmd {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := command(path, config)
	cmd.Env = append(os.Environ(), asVariable+"="+as)
	return cmd
}

// programsVariable names a folder in which the programs are already, where they cannot be built.
const programsVariable = "CONSILIUM_TEST_PROGRAMS"

// building builds the participant's program, once, and buildingPeople that of people.
var building, buildingPeople = built("participant"), built("consilium")

func built(name string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		if folder := os.Getenv(programsVariable); folder != "" {
			return filepath.Join(folder, name), nil
		}
		path := filepath.Join(scratch, name)
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", path, "../"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // all as make build does, so that what is compiled is compiled once
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%w\n%s", err, out)
		}
		return path, nil
	})
}

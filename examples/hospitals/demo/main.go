// Hospitals lets four hospitals train one model on this machine: it makes their federation in a folder by calling the
// program consilium as people would, starts a coordinator and four participants, has a research lead start the run of
// examples/hospitals/plan.yaml, checks that the figures are the published ones, and stops everything again.
//
//	bin/hospitals [--dir demo] [--port N] [--examples examples/hospitals]
//
// The programs coordinator, participant and consilium are taken from the folder that it lies in. It exits with 0 if the
// model came out as it should, with 1 if not, with 130 if it was interrupted. However it ends, it leaves nothing running.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

func main() {
	// Linux ends our children when the thread that started them ends, so all are started from this one, which lasts.
	runtime.LockOSThread()
	os.Exit(run())
}

func run() int {
	dir := flag.String("dir", "demo", "folder to make the federation in")
	port := flag.Int("port", 0, "port of the coordinator on 127.0.0.1 (default: a free one)")
	examples := flag.String("examples", filepath.Join("examples", "hospitals"), "folder with the hospitals' files")
	flag.Parse()
	if flag.NArg() > 0 || *port < 0 || *port > 65535 {
		fmt.Fprintln(os.Stderr, "hospitals: it takes flags only, see --help; a port is 1 to 65535")
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	bin, err := programs()
	if err == nil {
		d := &demo{dir: *dir, bin: bin, examples: *examples, port: *port, words: map[string]string{}, began: time.Now()}
		err = d.play(ctx)
	}
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "hospitals: interrupted; nothing is left running")
		return 130
	case err != nil:
		fmt.Fprintf(os.Stderr, "hospitals: %v\n", err)
		return 1
	}
	return 0
}

// programs returns the folder of the programs, in the shorter of its two forms.
func programs() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	bin := filepath.Dir(self)
	if here, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(here, bin); err == nil && rel != "." && filepath.IsLocal(rel) {
			return rel, nil
		}
	}
	return bin, nil
}

// demo is one showing.
type demo struct {
	dir, bin, examples string
	port               int
	began              time.Time
	words              map[string]string // in the hospitals' files, and what they mean
	running            []*process
}

// play shows the whole demonstration.
func (d *demo) play(ctx context.Context) error {
	if err := d.ready(); err != nil {
		return err
	}
	release, err := takeFolder(d.dir)
	if err != nil {
		return err
	}
	defer release()
	fmt.Printf("Four hospitals train one model. All of it happens on this machine, in %s/.\n\n", d.dir)
	if err := d.federate(ctx); err != nil {
		return err
	}
	defer d.stopAll()
	if err := d.start(ctx); err != nil {
		return err
	}
	r, err := d.train(ctx)
	if err != nil {
		return err
	}
	d.stopAll()
	d.step("all five programs have ended")
	if err := d.check(r); err != nil {
		return err
	}
	d.farewell(r)
	return nil
}

// ready finds out what is missing before anything is made.
func (d *demo) ready() error {
	for _, program := range []string{"consilium", "coordinator", "participant"} {
		if _, err := os.Stat(d.program(program)); err != nil {
			return fmt.Errorf("the program %s is missing (%w); make demo builds it", program, err)
		}
	}
	if _, err := os.Stat(filepath.Join(d.examples, "plan.yaml")); err != nil {
		return fmt.Errorf("the hospitals' files are missing (%w); start it in the project's folder, or name theirs with --examples", err)
	}
	return nil
}

func (d *demo) program(name string) string { return filepath.Join(d.bin, name) }

// step says what has been done, and when.
func (d *demo) step(format string, args ...any) {
	fmt.Printf("%5.1f s  %s\n", time.Since(d.began).Seconds(), fmt.Sprintf(format, args...))
}

// farewell says what is there now and what to type next.
func (d *demo) farewell(r report) {
	var participants strings.Builder
	for _, m := range members {
		fmt.Fprintf(&participants, "  %s --config %s\n", d.program("participant"), d.path(m.name, "participant.yaml"))
	}
	fmt.Printf(`
model    %s
file     %s, its inputs in the order of %s
logs     %s

Worth typing next:

  %s manifest show %s
  %s --config %s
%s           starts the coordinator and its participants again, each in a terminal of its own: %d of them are
           witnesses enough for its log to go on, and plan.yaml wants the updates of all; while they run:
  %s --config %s model show %s
`,
		r.model(), d.path("model.safetensors"), d.path("features.txt"), d.path("*", "*.log"),
		d.program("consilium"), d.path("manifest.dsse.json"), d.program("coordinator"), d.path("council", "coordinator.yaml"), participants.String(), quorum,
		d.program("consilium"), d.path("lead", "consilium.yaml"), r.model()[:12])
}

func (d *demo) path(elements ...string) string {
	return filepath.Join(append([]string{d.dir}, elements...)...)
}

// marker is the file that tells a folder that a demonstration made, and may replace, from any other.
const marker = ".consilium-demo"

// takeFolder makes an empty folder and keeps other demonstrations out of it until it is released.
func takeFolder(dir string) (release func(), err error) {
	sign := filepath.Join(dir, marker)
	switch _, err := os.Lstat(dir); {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		if _, err := os.Lstat(sign); err != nil {
			return nil, fmt.Errorf("%s is there already and no demonstration made it (it has no %s): move it away, or name another folder with --dir",
				dir, marker)
		}
		unlock, err := lock(sign)
		if err != nil {
			return nil, fmt.Errorf("a demonstration is running in %s: wait for its end, or name another folder with --dir (%w)", dir, err)
		}
		err = os.RemoveAll(dir)
		unlock()
		if err != nil {
			return nil, fmt.Errorf("removing the earlier demonstration: %w", err)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(sign, []byte("Made by a demonstration of Consilium, which replaces this folder when it is shown again.\n"), 0o600); err != nil {
		return nil, err
	}
	return lock(sign)
}

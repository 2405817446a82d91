package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// process is a coordinator or a participant that is running.
type process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// launch starts a program with its log in a file.
func (d *demo) launch(name, program, config, log string) (*process, error) {
	f, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p := &process{name: name, log: log, done: make(chan struct{})}
	p.cmd = exec.Command(d.program(program), "--config", config, "--log-format", "json")
	p.cmd.Stderr, p.cmd.SysProcAttr = f, own()
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the %s of %s: %w", program, name, err)
	}
	d.running = append(d.running, p)
	go func() {
		p.cmd.Wait() //nolint:errcheck // whoever cares reads the log
		close(p.done)
	}()
	return p, nil
}

// logged waits until the program has logged a line with that message, and returns an error if it ends before that.
func (p *process) logged(ctx context.Context, message string) error {
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		ended := false
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.done:
			ended = true
		case <-look.C:
		}
		last := ""
		for _, line := range p.lines() {
			if line.Message == message {
				return nil
			}
			last = line.Message + ": " + line.Error
		}
		if ended {
			return fmt.Errorf("%s ended early: %s (its log is %s)", p.name, last, p.log)
		}
	}
}

// logLine is what we read of a log's line.
type logLine struct {
	Message string `json:"msg"`
	Error   string `json:"error"`
}

func (p *process) lines() []logLine {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return nil
	}
	var all []logLine
	for line := range bytes.Lines(text) {
		var l logLine
		if json.Unmarshal(line, &l) == nil { // the last one may still be in the making
			all = append(all, l)
		}
	}
	return all
}

// grace is how long a program may take to end.
const grace = 10 * time.Second

// stopAll ends whatever is running and waits for it. A program that does not end in time is killed.
func (d *demo) stopAll() {
	for _, p := range slices.Backward(d.running) {
		p.cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
	}
	patience, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	for _, p := range slices.Backward(d.running) {
		select {
		case <-p.done:
		case <-patience.Done():
			fmt.Fprintf(os.Stderr, "hospitals: %s did not end within %s and is killed\n", p.name, grace)
			p.cmd.Process.Kill() //nolint:errcheck // it may have ended
			<-p.done
		}
	}
	d.running = nil
}

// consilium runs the program that people use and returns what it printed.
func (d *demo) consilium(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, d.program("consilium"), args...)
	cmd.SysProcAttr = foreground()
	var out, talk bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &talk
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("consilium %s: %w\n%s", strings.Join(args, " "), err, strings.TrimSpace(talk.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

// typed shows a command as the lead would type it and runs it with its talk on our standard error, in the terminal.
func (d *demo) typed(ctx context.Context, args ...string) ([]byte, error) {
	args = append(args, "--config", d.path("lead", "consilium.yaml"))
	fmt.Printf("\n$ %s %s\n", d.program("consilium"), strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, d.program("consilium"), args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = grace
	cmd.SysProcAttr, cmd.Stderr = foreground(), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("consilium %s %s: %w", args[0], args[1], err)
	}
	return out, nil
}

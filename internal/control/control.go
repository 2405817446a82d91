// Package control lets whoever owns a running daemon's files tell it something: a Unix socket in the daemon's own folder, one
// question and one answer a connection, each a line of JSON.
//
//	lis, err := control.Listen(path)                       // the daemon
//	err = control.Serve(ctx, lis, func(q control.Question) (any, error) { ... })
//
//	text, err := control.Ask(ctx, path, control.Question{Verb: "pause"}) // its administrator's command
//
// The socket is made with mode 0600, in a folder that only its owner can enter, so only the user that the daemon runs as, and
// root, can speak there. It carries commands and what the daemon says of itself: no key, no record, no update.
package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	maxLine  = 64 << 10 // bytes of a question or an answer
	maxOpen  = 8        // connections at once
	patience = 10 * time.Second
)

// ErrAbsent is what Ask returns where no daemon listens.
var ErrAbsent = errors.New("no daemon is running here")

// Question is what a daemon is asked.
type Question struct {
	Verb   string `json:"verb"`
	Run    string `json:"run,omitempty"` // what it is about, if it is about a run
	Reason string `json:"reason,omitempty"`
	// The digest of a manifest, in hex, if it is about one.
	Manifest string `json:"manifest,omitempty"`
}

// answer is what comes back: data, or an error in words.
type answer struct {
	Error string          `json:"error,omitempty"`
	Data  json.RawMessage `json:"data,omitempty"`
}

// Listen makes the socket at path. One that an earlier process left is replaced: the caller holds the lock of the folder that
// tells who runs.
func Listen(path string) (net.Listener, error) {
	switch there, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("control socket: %w", err)
	case there.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("control socket %s: something else is there: name another path in the configuration (control)", path)
	default:
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("control socket: %w", err)
		}
	}
	lis, err := net.Listen("unix", path)
	if errors.Is(err, syscall.EINVAL) {
		return nil, fmt.Errorf("control socket %s: the path is too long for a socket, name a shorter one in the configuration (control)", path)
	}
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil { // its folder is closed to others already
		lis.Close()
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return lis, nil
}

// Serve answers what is asked at lis until ctx ends, and closes it. Questions are handled one at a time. Its error is nil then.
func Serve(ctx context.Context, lis net.Listener, handle func(Question) (any, error)) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	defer context.AfterFunc(ctx, func() { lis.Close() })()
	slots := make(chan struct{}, maxOpen)
	var one sync.Mutex
	for {
		conn, err := lis.Accept()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("control socket: %w", err)
		}
		slots <- struct{}{}
		conns.Go(func() {
			defer func() { <-slots }()
			defer conn.Close()
			serve(conn, func(q Question) (any, error) {
				one.Lock()
				defer one.Unlock()
				return handle(q)
			})
		})
	}
}

// serve answers one question. Who hangs up or makes no sense gets nothing.
func serve(conn net.Conn, handle func(Question) (any, error)) {
	conn.SetDeadline(time.Now().Add(patience)) //nolint:errcheck // a socket of ours takes deadlines
	q, err := ReadQuestion(conn)
	if err != nil {
		return
	}
	var out answer
	data, err := handle(q)
	if err == nil {
		out.Data, err = json.Marshal(data)
	}
	if err != nil {
		out = answer{Error: strings.ReplaceAll(err.Error(), "\n", " ")}
	}
	text, err := json.Marshal(out)
	if err != nil {
		return
	}
	conn.Write(append(text, '\n')) //nolint:errcheck // who does not wait for the answer does without
}

// ReadQuestion reads a question: one line of JSON, at most 64 KiB, without unknown fields.
func ReadQuestion(r io.Reader) (Question, error) {
	var q Question
	line, err := readLine(r)
	if err != nil {
		return q, err
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&q); err != nil {
		return Question{}, fmt.Errorf("not a question: %w", err)
	}
	if d.More() {
		return Question{}, errors.New("not a question: something follows it")
	}
	return q, nil
}

func readLine(r io.Reader) ([]byte, error) {
	line, err := bufio.NewReader(io.LimitReader(r, maxLine+1)).ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("a line was not whole: %w", err)
	}
	return line, nil
}

// Ask asks the daemon that listens at path and returns the data of its answer, as JSON. The error is ErrAbsent where none does, and what
// the daemon says where it refuses.
func Ask(ctx context.Context, path string, q Question) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w: nobody listens at %s", ErrAbsent, path)
	case err != nil:
		return nil, fmt.Errorf("control socket: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	return AskOver(conn, q)
}

// AskOver is Ask over a connection that there is. It asks once, and leaves closing to its caller.
func AskOver(conn net.Conn, q Question) (json.RawMessage, error) {
	text, err := json.Marshal(q)
	if err != nil {
		return nil, fmt.Errorf("asking the daemon: %w", err)
	}
	if _, err := conn.Write(append(text, '\n')); err != nil {
		return nil, fmt.Errorf("asking the daemon: %w", err)
	}
	line, err := readLine(conn)
	if err != nil {
		return nil, fmt.Errorf("the daemon's answer: %w", err)
	}
	var a answer
	if err := json.Unmarshal(line, &a); err != nil {
		return nil, fmt.Errorf("the daemon's answer: %w", err)
	}
	if a.Error != "" {
		return nil, errors.New(a.Error)
	}
	return a.Data, nil
}

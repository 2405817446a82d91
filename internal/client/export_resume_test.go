package client_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/client"
	"consilium.dev/internal/transport"
	pb "consilium.dev/proto/consilium/v1"
)

// shelves is a council that has one file, and does with each download what its test says.
type shelves struct {
	council
	text  []byte
	asked []int64
	ends  []func(pb.Blobs_FetchServer) error // how the next downloads end, after two chunks of 100 bytes; nil: with the file
}

func (l *shelves) serve(q *pb.FetchRequest, s grpc.ServerStreamingServer[pb.Chunk]) error {
	l.asked = append(l.asked, q.Offset)
	var end func(pb.Blobs_FetchServer) error
	if len(l.ends) > 0 {
		end, l.ends = l.ends[0], l.ends[1:]
	}
	at := q.Offset
	for part := range slices.Chunk(l.text[at:], 100) {
		if end != nil && at == q.Offset+200 {
			return end(s)
		}
		if err := s.Send(&pb.Chunk{Offset: at, Size: uint32(len(part)), Data: part}); err != nil {
			return err
		}
		at += int64(len(part))
	}
	return nil
}

func answers(c codes.Code) func(pb.Blobs_FetchServer) error {
	return func(pb.Blobs_FetchServer) error { return status.Error(c, "the test says so") }
}

// stalls sends nothing more and closes nothing.
func stalls(s pb.Blobs_FetchServer) error {
	<-s.Context().Done()
	return s.Context().Err()
}

// TestExportGoesOn breaks downloads in every way that a link can. They go on where they broke, and no byte comes twice.
func TestExportGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		text := bytes.Repeat([]byte("0123456789"), 100)
		l := &shelves{text: text, ends: []func(pb.Blobs_FetchServer) error{answers(codes.Unavailable), answers(codes.Unauthenticated), stalls}}
		l.fetch = l.serve
		out, began := &file{}, time.Now()
		if err := dial(t, &l.council).Export(t.Context(), client.Model{ID: sha256.Sum256(text), Size: 1000}, out); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(out.text, text) {
			t.Error("the file is not the model")
		}
		if want := []int64{0, 200, 400, 600}; !slices.Equal(l.asked, want) {
			t.Errorf("downloads began at %d, want %d", l.asked, want)
		}
		if took := time.Since(began); took < time.Minute || took > 2*time.Minute {
			t.Errorf("it took %v, want a minute until the stalled line is given up", took)
		}
	})
}

// TestExportGoesOnWithAFile goes on behind what an earlier program left.
func TestExportGoesOnWithAFile(t *testing.T) {
	text := bytes.Repeat([]byte("0123456789"), 100)
	m := client.Model{ID: sha256.Sum256(text), Size: 1000}
	for name, test := range map[string]struct {
		held  []byte
		asked []int64
	}{
		"nothing":     {nil, []int64{0}},
		"half":        {text[:500], []int64{500}},
		"all":         {text, []int64{1000}},
		"wrong":       {bytes.Repeat([]byte("x"), 500), []int64{500, 0}},
		"wrong whole": {bytes.Repeat([]byte("x"), 1000), []int64{1000, 0}},
		"too much":    {append(bytes.Clone(text), 1), []int64{0}},
	} {
		t.Run(name, func(t *testing.T) {
			l := &shelves{text: text}
			l.fetch = l.serve
			out := &file{text: bytes.Clone(test.held)}
			if err := dial(t, &l.council).Export(t.Context(), m, out); err != nil || !bytes.Equal(out.text, text) {
				t.Errorf("%v, and %d bytes, want the model", err, len(out.text))
			}
			if !slices.Equal(l.asked, test.asked) {
				t.Errorf("downloads began at %d, want %d", l.asked, test.asked)
			}
		})
	}
}

// TestExportGivesUp ends after five minutes without a byte, and at once for what waiting does not cure. What came is kept.
func TestExportGivesUp(t *testing.T) {
	text := bytes.Repeat([]byte("0123456789"), 100)
	m := client.Model{ID: sha256.Sum256(text), Size: 1000}
	tests := []struct {
		name   string
		code   codes.Code
		refuse *transport.Refusal
		waits  time.Duration
		want   error
	}{
		{"away", codes.Unavailable, nil, 5 * time.Minute, client.ErrUnreachable},
		{"not allowed", codes.PermissionDenied, nil, 0, client.ErrDenied},
		{"another measurement", codes.Unavailable, &transport.Refusal{Class: attest.ClassMeas, Err: errors.New("x")}, 0, client.ErrRefused},
		{"refused by the peer", codes.Unavailable, &transport.Refusal{Class: attest.ClassFrame, Err: errors.New("x"), ByPeer: true}, 0, client.ErrRefused},
		{"a handshake that was cut", codes.Unavailable, &transport.Refusal{Class: attest.ClassFrame, Err: errors.New("x"), Cut: true}, 5 * time.Minute, client.ErrUnreachable},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &shelves{text: text}
				who := dial(t, &l.council)
				l.fetch = func(q *pb.FetchRequest, s grpc.ServerStreamingServer[pb.Chunk]) error {
					if test.refuse != nil {
						who.Refuse(*test.refuse)
					}
					if len(l.asked) > 0 { // the first brings something
						return answers(test.code)(s)
					}
					l.ends = append(l.ends, answers(test.code))
					return l.serve(q, s)
				}
				out, began := &file{}, time.Now()
				err := who.Export(t.Context(), m, out)
				if !errors.Is(err, test.want) || strings.Contains(err.Error(), "another digest") {
					t.Errorf("%v, want %v", err, test.want)
				}
				if took := time.Since(began); took < test.waits || took > test.waits+time.Minute {
					t.Errorf("it took %v, want %v", took, test.waits)
				}
				if !bytes.Equal(out.text, text[:200]) {
					t.Errorf("%d bytes are left, want the 200 that came", len(out.text))
				}
			})
		})
	}
}

package participant_test

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"consilium.dev/internal/codec"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/model"
	"consilium.dev/internal/participant"
	"consilium.dev/internal/store"
	"consilium.dev/internal/trainer"
	pb "consilium.dev/proto/consilium/v1"
)

const genes = 140_000 // that records have whose model has more than two pieces, and 5 chunks

// wide gives a plan those records.
func wide(p *entry.Plan) {
	p.Standardize = nil
	p.Schema = fmt.Appendf(nil, `{"columns": [{"name": "gene", "use": "number", "count": %d}, {"name": "ill", "use": "label", "above": 0}]}`, genes)
}

// library is a council that has one model of a wide plan, and cuts each download where its test says.
type library struct {
	*member
	file  []byte
	asked []int64 // offsets
	sent  int64   // bytes, over all downloads
	cuts  []int   // chunks after which the next downloads are cut; none is cut after the last
	flip  bool    // send a wrong byte in the next download
	e     *pb.Evaluate
}

func newLibrary(t *testing.T, cuts ...int) *library {
	t.Helper()
	l := &library{member: newMember(t), cuts: cuts}
	l.rules.LeastRecords = 2
	folder := t.TempDir()
	rows := strings.Repeat("1,", genes) + "0\n" + strings.Repeat("0,", genes) + "1\n"
	l.data = participant.Data{Records: filepath.Join(folder, "records"), Split: filepath.Join(folder, "split")}
	for path, text := range map[string]string{l.data.Records: rows, l.data.Split: "line,set\n1,train\n2,train\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var p entry.Plan
	text := plan(t, wide)
	if err := json.Unmarshal(text, &p); err != nil {
		t.Fatal(err)
	}
	m, err := trainer.Initial(p, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	l.file = fileOf(t, m)
	d := m.Digest()
	l.e = &pb.Evaluate{Run: run, Lead: "ada", Round: 1, Model: d[:], Size: m.Size(), Plan: text}
	l.fetch = l.serve
	return l
}

func (l *library) serve(q *pb.FetchRequest, s grpc.ServerStreamingServer[pb.Chunk]) error {
	l.asked = append(l.asked, q.Offset)
	for n := 0; ; n++ {
		at := q.Offset + int64(n)*codec.Piece
		if at >= int64(len(l.file)) {
			return nil
		}
		if len(l.cuts) > 0 && n == l.cuts[0] {
			l.cuts = l.cuts[1:]
			return status.Error(codes.Unavailable, "cut")
		}
		part := bytes.Clone(l.file[at:min(at+codec.Piece, int64(len(l.file)))])
		if l.flip {
			part[len(part)-1] ^= 1
			l.flip = false
		}
		l.sent += int64(len(part))
		if err := s.Send(&pb.Chunk{Offset: at, Size: uint32(len(part)), Data: part}); err != nil {
			return err
		}
	}
}

// consent has a new process consent to the run.
func (l *library) consent() {
	l.t.Helper()
	end := l.follow()
	l.wants(&pb.Wanted{Invitations: []*pb.Invitation{{Run: run, Lead: "ada", Plan: l.e.Plan}}})
	if q := <-l.consents; q.Records != 2 {
		l.t.Fatalf("answer to the invitation: %v, want 2 records", q)
	}
	_ = end()
}

// evaluates has a new process evaluate the model, and returns how its session ended, nil if it has handed in figures.
func (l *library) evaluates() error {
	l.t.Helper()
	end := l.follow()
	l.wants(&pb.Wanted{Evaluate: []*pb.Evaluate{l.e}})
	select {
	case <-l.reports:
		_ = end()
		return nil
	default:
		return end()
	}
}

// pieces returns the objects that hold pieces of downloads.
func (l *library) pieces() (all []string) {
	l.t.Helper()
	for name, err := range l.disk.List(l.t.Context(), "part/") {
		if err != nil {
			l.t.Fatal(err)
		}
		all = append(all, name)
	}
	return all
}

// TestDownloadGoesOn cuts a download twice and kills the participant each time. The next one goes on at the last piece on its
// disk; what is sent twice is less than a chunk of 1 MiB for each cut; and once the model is whole no piece of it is left.
func TestDownloadGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLibrary(t, 3, 1)
		l.consent()
		for range 2 {
			if err := l.evaluates(); err == nil || !strings.Contains(err.Error(), "cut") {
				t.Fatalf("a session whose download was cut ended with %v", err)
			}
		}
		if err := l.evaluates(); err != nil {
			t.Fatalf("the third session ended with %v, want figures", err)
		}
		if want := []int64{0, 256 << 10, 256 << 10}; !slices.Equal(l.asked, want) {
			t.Errorf("downloads began at %d, want %d", l.asked, want)
		}
		if twice := l.sent - int64(len(l.file)); twice != 256<<10 {
			t.Errorf("%d bytes were sent twice in two cuts, want a chunk of 128 KiB each", twice)
		}
		if left := l.pieces(); len(left) != 0 {
			t.Errorf("%q are left of a download that is whole", left)
		}
	})
}

// TestDownloadGoesOnInOneProcess goes on over the next session at the very chunk.
func TestDownloadGoesOnInOneProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLibrary(t, 3, 1)
		l.consent()
		p := l.process()
		for ctx, n := t.Context(), 0; n < 3; n++ {
			ctx, cancel := context.WithCancel(ctx)
			done := make(chan error, 1)
			go func() { done <- p.Over(ctx, l.conn) }()
			l.wants(&pb.Wanted{Evaluate: []*pb.Evaluate{l.e}})
			cancel()
			<-done
			synctest.Wait()
		}
		if want := []int64{0, 3 * codec.Piece, 4 * codec.Piece}; !slices.Equal(l.asked, want) || l.sent != int64(len(l.file)) {
			t.Errorf("downloads began at %d and sent %d of %d bytes, want at %d and none twice", l.asked, l.sent, len(l.file), want)
		}
		if len(l.reports) != 1 {
			t.Errorf("%d reports, want one", len(l.reports))
		}
	})
}

// TestDownloadBeginsAnew goes on with what proves wrong: it is thrown away, and the whole is fetched again.
func TestDownloadBeginsAnew(t *testing.T) {
	for name, spoil := range map[string]func(*library){
		"a wrong byte": func(l *library) { l.flip = true },
		"a damaged piece": func(l *library) {
			l.tamper("part/"+entry.Digest(l.e.Model).String()+"/0", func(text []byte) []byte { text[len(text)-1] ^= 1; return text })
		},
		"a short piece": func(l *library) {
			l.tamper("part/"+entry.Digest(l.e.Model).String()+"/0", func(text []byte) []byte { return text[:len(text)/2] })
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLibrary(t, 3)
				l.consent()
				if name == "a wrong byte" {
					spoil(l)
				}
				if err := l.evaluates(); err == nil {
					t.Fatal("a download that was cut has come to its end")
				}
				if name != "a wrong byte" {
					spoil(l)
				}
				if err := l.evaluates(); err != nil {
					t.Errorf("the second session ended with %v, want figures", err)
				}
				want := []int64{0, 0}
				if name == "a wrong byte" { // which only the whole shows
					want = []int64{0, 256 << 10, 0}
				}
				if !slices.Equal(l.asked, want) {
					t.Errorf("downloads began at %d, want %d", l.asked, want)
				}
				if text := l.book.take(); !strings.Contains(text, "download begins anew") {
					t.Errorf("the log says %s, want that the download begins anew", text)
				}
			})
		})
	}
}

// tamper changes an object behind its owner's back.
func (l *library) tamper(name string, change func([]byte) []byte) {
	l.t.Helper()
	ctx := l.t.Context()
	r, err := l.disk.Get(ctx, name)
	if err != nil {
		l.t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := l.disk.Delete(ctx, name); err != nil {
		l.t.Fatal(err)
	}
	if err := l.disk.Put(ctx, store.Named(name), bytes.NewReader(change(text))); err != nil {
		l.t.Fatal(err)
	}
}

// TestPiecesGo removes pieces of downloads that nobody wants any more, and what is no beginning of a download.
func TestPiecesGo(t *testing.T) {
	for name, then := range map[string]func(*library){
		"not wanted any more": func(l *library) {
			end := l.follow()
			l.wants(&pb.Wanted{})
			_ = end()
		},
		"a gap": func(l *library) {
			if err := l.disk.Delete(l.t.Context(), l.pieces()[0]); err != nil {
				l.t.Fatal(err)
			}
			end := l.follow()
			synctest.Wait()
			_ = end()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLibrary(t, 4)
				l.consent()
				_ = l.evaluates()
				if n := len(l.pieces()); n != 2 {
					t.Fatalf("%d pieces after 4 chunks, want 2", n)
				}
				then(l)
				if left := l.pieces(); len(left) != 0 {
					t.Errorf("%q are left", left)
				}
			})
		})
	}
}

// TestDownloadOnBase has a process evaluate a model, the same once more, and another. The second time nothing is fetched; the third
// time it says what it has, and takes the difference to that. A difference to a model that was not named is believed by nobody.
func TestDownloadOnBase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLibrary(t)
		l.consent()
		var bases [][]byte
		send := func(s grpc.ServerStreamingServer[pb.Chunk], at int64, part []byte, onBase bool) error {
			return s.Send(&pb.Chunk{Offset: at, Size: uint32(len(part)), Data: part, OnBase: onBase})
		}
		first, second := bytes.Clone(l.file), bytes.Clone(l.file)
		second[len(second)-3] ^= 0x40 // the last weight is another one
		m, err := model.Read(bytes.NewReader(second), int64(len(second)))
		if err != nil {
			t.Fatal(err)
		}
		l.fetch = func(q *pb.FetchRequest, s grpc.ServerStreamingServer[pb.Chunk]) error {
			bases = append(bases, q.Base)
			whole := first
			if len(bases) > 1 {
				whole = second
			}
			for q.Offset < int64(len(whole)) {
				part := bytes.Clone(whole[q.Offset:min(q.Offset+codec.Piece, int64(len(whole)))])
				if len(bases) == 2 {
					subtle.XORBytes(part, part, first[q.Offset:])
				}
				if err := send(s, q.Offset, part, len(bases) == 2); err != nil {
					return err
				}
				q.Offset += int64(len(part))
			}
			return nil
		}
		end := l.follow()
		e := proto.CloneOf(l.e)
		for _, d := range []entry.Digest{entry.Digest(e.Model), entry.Digest(e.Model), m.Digest()} {
			e = proto.CloneOf(e)
			e.Model = d[:]
			l.wants(&pb.Wanted{Evaluate: []*pb.Evaluate{e}})
			<-l.reports
			e.Round++
		}
		_ = end()
		if len(bases) != 2 || len(bases[0]) != 0 || !bytes.Equal(bases[1], l.e.Model) {
			t.Errorf("fetched with the bases %x, want none and then the first model, %x", bases, l.e.Model)
		}

		l.fetch = func(_ *pb.FetchRequest, s grpc.ServerStreamingServer[pb.Chunk]) error {
			return send(s, 0, first[:codec.Piece], true)
		}
		if err := l.evaluates(); err == nil || !strings.Contains(err.Error(), "a difference to a model that is not here") {
			t.Errorf("a difference to nothing: %v, want it refused", err)
		}
	})
}

// TestSlowDownload takes a model in at a chunk every 50 s, while the line is too full for heartbeats: that is progress, and
// nothing limits the whole.
func TestSlowDownload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLibrary(t)
		l.consent()
		l.fetch = func(q *pb.FetchRequest, s grpc.ServerStreamingServer[pb.Chunk]) error {
			for part := range slices.Chunk(l.file, codec.Piece) {
				time.Sleep(50 * time.Second)
				if err := s.Send(&pb.Chunk{Offset: q.Offset, Size: uint32(len(part)), Data: part}); err != nil {
					return err
				}
				q.Offset += int64(len(part))
			}
			return nil
		}
		end := l.follow()
		l.wanted <- &pb.Wanted{Evaluate: []*pb.Evaluate{l.e}}
		began := time.Now()
		<-l.reports
		if took := time.Since(began); took < 4*time.Minute {
			t.Errorf("the download took %v, want 50 s a chunk", took)
		}
		_ = end()
	})
}

package coordinator_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/emptypb"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/entry"
	pb "consilium.dev/proto/consilium/v1"
)

const participantOffice = attest.Participant

// described returns every method that the wire's description has, with whether its answers are a stream.
func described(t *testing.T) map[string]protoreflect.MethodDescriptor {
	t.Helper()
	all := map[string]protoreflect.MethodDescriptor{}
	protoregistry.GlobalFiles.RangeFilesByPackage("consilium.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				all["/"+string(s.FullName())+"/"+string(m.Name())] = m
			}
		}
		return true
	})
	if len(all) < 12 {
		t.Fatalf("only %d methods are described", len(all))
	}
	return all
}

func TestEveryMethodHasARow(t *testing.T) {
	rows := coordinator.Methods()
	slices.Sort(rows)
	if diff := cmp.Diff(sorted(described(t)), rows); diff != "" {
		t.Errorf("methods on the wire (-) and in the table (+):\n%s", diff)
	}
}

// callers are everybody who can connect: a participant, and people with each combination of rights.
var callers = map[string]struct {
	office attest.Office
	name   string
}{
	"participant":    {attest.Participant, "longbeach"},
	"lead":           {attest.Person, "ben"},
	"auditor":        {attest.Person, "cara"},
	"lead, auditing": {attest.Person, "ada"},
}

// TestWhoMayCall calls every method as everybody. Who may is written down here once more.
func TestWhoMayCall(t *testing.T) {
	enclave, lead := []string{"participant"}, []string{"lead", "lead, auditing"}
	auditors := []string{"auditor", "lead, auditing"}
	people := append([]string{"auditor"}, lead...)
	everybody := append([]string{"participant"}, people...)
	allowed := map[string][]string{
		"Rounds/Follow": enclave, "Rounds/Consent": enclave, "Rounds/Query": enclave, "Rounds/Offer": enclave, "Rounds/Report": enclave,
		"Rounds/Mask": enclave, "Rounds/Tell": enclave, "Rounds/Leave": enclave,
		"Witnesses/Cosign": enclave,
		"Blobs/Fetch":      everybody,
		"Runs/Start":       lead, "Runs/Cancel": lead, "Runs/List": people, "Runs/Show": people, "Runs/Watch": people,
		"Models/ListModels": people, "Models/ShowModel": people,
		"Log/Checkpoint": everybody, "Log/Tile": everybody, "Log/Prove": everybody, "Log/Extends": everybody,
		"Log/Entries": auditors, "Log/Kept": auditors,
		"Federation/Publish": people, "Federation/Manifest": everybody, "Federation/Status": people,
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve()
		for who, c := range callers {
			p := w.connect(c.office, c.name)
			for method, d := range described(t) {
				err := call(t.Context(), p.conn, method, d)
				// The table's refusal names the method; what is refused for its content was let in.
				denied := status.Code(err) == codes.PermissionDenied && strings.HasPrefix(status.Convert(err).Message(), method+" is not for")
				if want := !slices.Contains(allowed[strings.TrimPrefix(method, "/consilium.v1.")], who); denied != want {
					t.Errorf("%s calls %s: %v, want denied: %v", who, method, err, want)
				}
			}
			if err := call(t.Context(), p.conn, "/consilium.v1.Runs/Erase", described(t)["/consilium.v1.Runs/Show"]); status.Code(err) != codes.Unimplemented {
				t.Errorf("%s calls a method that there is not: %v, want Unimplemented", who, err)
			}
		}
	})
}

// call calls a method with an empty message and returns its first answer's error.
func call(ctx context.Context, conn *grpc.ClientConn, method string, d protoreflect.MethodDescriptor) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if !d.IsStreamingServer() && !d.IsStreamingClient() {
		return conn.Invoke(ctx, method, &emptypb.Empty{}, &emptypb.Empty{})
	}
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: d.IsStreamingServer(), ClientStreams: d.IsStreamingClient()}, method)
	if err != nil {
		return err
	}
	if err := s.SendMsg(&emptypb.Empty{}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	if err := s.RecvMsg(&emptypb.Empty{}); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// TestReaders lets nobody read a model but those whom the manifest names and the members of its run, and shows figures to
// those only whom the manifest names.
func TestReaders(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t)
		run := c.open()
		c.accepted(c.budapest, sound(run))
		c.accepted(c.cleveland, sound(run))
		c.books["council"].await(t, "round closed", "run", run)
		v, err := c.person("ada").Show(t.Context(), &pb.ShowRequest{Run: run})
		if err != nil {
			t.Fatal(err)
		}
		id := final(v)
		if _, err := c.budapest.Report(t.Context(), &pb.ReportRequest{Run: run, Round: 1, Model: id[:], Metrics: []*pb.Metric{
			{Set: "test", Name: "accuracy", Value: 0.5, Count: 10, Better: "max"},
		}}); err != nil {
			t.Fatal(err)
		}
		for name, may := range map[string]bool{"ada": true, "ben": false, "cara": false} {
			p := c.person(name)
			if _, err := p.download(t.Context(), id); (err == nil) != may || !may && status.Code(err) != codes.PermissionDenied {
				t.Errorf("%s reads the model: %v, want allowed: %v", name, err, may)
			}
			v, err := p.Show(t.Context(), &pb.ShowRequest{Run: run})
			if err != nil {
				t.Fatal(err)
			}
			if got := len(v.Rounds[0].Metrics) > 0; got != may {
				t.Errorf("%s is shown the run's figures: %v, want %v", name, got, may)
			}
			m, err := p.ShowModel(t.Context(), &pb.ShowModelRequest{Model: id.String()})
			if err != nil {
				t.Fatal(err)
			}
			if got := len(m.Model.Metrics) > 0; got != may {
				t.Errorf("%s is shown the model's figures: %v, want %v", name, got, may)
			}
			all, err := p.ListModels(t.Context(), &pb.ListModelsRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if got := len(all.Models[0].Metrics) > 0; got != may {
				t.Errorf("%s is listed figures: %v, want %v", name, got, may)
			}
		}
		if _, err := c.cleveland.download(t.Context(), id); err != nil {
			t.Errorf("a member of the run reads its model: %v", err)
		}
		if _, err := c.longbeach.download(t.Context(), id); status.Code(err) != codes.PermissionDenied {
			t.Errorf("a member that is not in the run reads its model: %v, want PermissionDenied", err)
		}
		if _, err := c.cleveland.download(t.Context(), entry.Digest{1}); status.Code(err) != codes.NotFound {
			t.Errorf("a model that there is not: %v, want NotFound", err)
		}
	})
}

// TestStrangers has members speak about runs that are not theirs.
func TestStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t)
		run := c.open()
		ctx := t.Context()
		for name, test := range map[string]struct {
			call func() error
			code codes.Code
		}{
			"consent": {func() error {
				_, err := c.longbeach.Consent(ctx, &pb.ConsentRequest{Run: run, Records: 1})
				return err
			}, codes.FailedPrecondition},
			"consent to no run": {func() error {
				_, err := c.longbeach.Consent(ctx, &pb.ConsentRequest{Run: "none", Records: 1})
				return err
			}, codes.NotFound},
			"decline": {func() error {
				_, err := c.longbeach.Consent(ctx, &pb.ConsentRequest{Run: run, Declined: "rule"})
				return err
			}, codes.FailedPrecondition},
			"report": {func() error {
				_, err := c.longbeach.Report(ctx, &pb.ReportRequest{Run: run, Round: 1, Model: make([]byte, 32)})
				return err
			}, codes.FailedPrecondition},
			"report of no model": {func() error {
				_, err := c.budapest.Report(ctx, &pb.ReportRequest{Run: run, Round: 1, Model: make([]byte, 32)})
				return err
			}, codes.FailedPrecondition},
		} {
			if err := test.call(); status.Code(err) != test.code {
				t.Errorf("%s: %v, want %v", name, err, test.code)
			}
		}
		q, err := c.longbeach.Query(ctx, &pb.QueryRequest{Run: run, Round: 1, Try: 1, Update: make([]byte, 32)})
		if err != nil || q.State != pb.QueryReply_STATE_REFUSED || q.Reason != "stranger" {
			t.Errorf("Query: %v, %v, want refused for stranger", q, err)
		}
		// What is wanted of a stranger says nothing of the run.
		follow, err := c.longbeach.Follow(ctx, &pb.FollowRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if n, err := follow.Recv(); err != nil || len(n.Invitations)+len(n.Train)+len(n.Evaluate)+len(n.Progress) != 0 {
			t.Errorf("Follow: %v, %v, want nothing", n, err)
		}
	})
}

// TestStartRefused starts runs that the manifest, or sense, does not allow.
func TestStartRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t, func(o *coordinator.Options) { o.Limits.OpenRuns = 1 })
		lead := c.person("ada")
		good := asJSON(t, plan(t, bare))
		tests := map[string]struct {
			request string
			plan    []byte
			code    codes.Code
			says    string
		}{
			"no request":          {"", good, codes.InvalidArgument, "request"},
			"long request":        {strings.Repeat("x", 65), good, codes.InvalidArgument, "request"},
			"unprintable request": {"a\nb", good, codes.InvalidArgument, "request"},
			"no plan":             {"r", nil, codes.InvalidArgument, "plan"},
			"unknown field":       {"r", []byte(`{"poison": 1}`), codes.InvalidArgument, "poison"},
			"two plans":           {"r", append(slices.Clone(good), '{', '}'), codes.InvalidArgument, "follows the plan"},
			"long plan":           {"r", make([]byte, 256<<10+1), codes.InvalidArgument, "bytes"},
			"too many rounds":     {"r", asJSON(t, plan(t, bare, func(p *entry.Plan) { p.Rounds = 201 })), codes.FailedPrecondition, "rounds"},
			"lonely quorum":       {"r", asJSON(t, plan(t, bare, func(p *entry.Plan) { p.Quorum = 1 })), codes.FailedPrecondition, "quorum"},
			"no member":           {"r", asJSON(t, plan(t, bare, func(p *entry.Plan) { p.Members[0] = "atlantis" })), codes.FailedPrecondition, "atlantis"},
		}
		for name, test := range tests {
			_, err := lead.Start(t.Context(), &pb.StartRequest{Request: test.request, Plan: test.plan})
			if status.Code(err) != test.code || !strings.Contains(status.Convert(err).Message(), test.says) {
				t.Errorf("%s: %v, want %v that says %q", name, err, test.code, test.says)
			}
		}
		run, err := lead.Start(t.Context(), &pb.StartRequest{Request: "r", Plan: good})
		if err != nil {
			t.Fatal(err)
		}
		again, err := lead.Start(t.Context(), &pb.StartRequest{Request: "r", Plan: good})
		if err != nil || again.Run != run.Run {
			t.Errorf("the same request again: %v, %v, want run %s", again, err, run.Run)
		}
		other := asJSON(t, plan(t, bare, func(p *entry.Plan) { p.Name = "other" }))
		if _, err := lead.Start(t.Context(), &pb.StartRequest{Request: "r", Plan: other}); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("the request of another plan: %v, want FailedPrecondition", err)
		}
		if _, err := lead.Start(t.Context(), &pb.StartRequest{Request: "s", Plan: other}); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("one run too many: %v, want FailedPrecondition", err)
		}
		if n := len(only[entry.RunCreated](c.facts())); n != 1 {
			t.Errorf("the log has %d runs, want one", n)
		}
	})
}

func TestClip(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{"", ""},
		{"plain", "plain"},
		{"two\nlines\x00\x7f", "two lines "},
		{"longer than ten", "longer tha"},
		{"ninebytesé", "ninebytes"},
	} {
		if got := coordinator.Clip(test.in, 10); got != test.want {
			t.Errorf("Clip(%q, 10) = %q, want %q", test.in, got, test.want)
		}
	}
}

// sorted returns the keys of a map, ascending.
func sorted[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

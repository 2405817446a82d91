package dialect_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"consilium.dev/internal/dialect"
)

// silent is a program of before there were versions.
var silent dialect.Speech

// pair connects a caller and an answerer.
func pair(t *testing.T, caller, answerer dialect.Speech) healthpb.HealthClient {
	t.Helper()
	var options []grpc.ServerOption
	if answerer != silent {
		options = append(options, grpc.UnaryInterceptor(answerer.Unary), grpc.StreamInterceptor(answerer.Stream))
	}
	server, line := grpc.NewServer(options...), bufconn.Listen(1<<16)
	healthpb.RegisterHealthServer(server, health.NewServer())
	done := make(chan error, 1)
	go func() { done <- server.Serve(line) }()
	dial := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return line.DialContext(ctx) }),
	}
	if caller != silent {
		dial = append(dial, caller.Caller()...)
	}
	conn, err := grpc.NewClient("passthrough:///answerer", dial...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
		<-done
	})
	return healthpb.NewHealthClient(conn)
}

// TestVersions has each version of one protocol call each other: those next to each other are served, the others are not, and
// both versions are named.
func TestVersions(t *testing.T) {
	n := uint64(dialect.Version)
	of := func(version uint64) dialect.Speech {
		return dialect.Speech{Protocol: version, Program: "of protocol " + string(rune('0'+version))}
	}
	for _, c := range []struct {
		name             string
		caller, answerer dialect.Speech
		understood       bool
		names            []string // in the error
	}{
		{"N and N", of(n), of(n), true, nil},
		{"N-1 calls N", of(n - 1), of(n), true, nil},
		{"N calls N-1", of(n), of(n - 1), true, nil},
		{"N calls N+1", of(n), of(n + 1), true, nil},
		{"N+1 calls N", of(n + 1), of(n), true, nil},
		{"N-1 calls N+1", of(n - 1), of(n + 1), false, []string{"protocol 1 (version of protocol 1)", "protocol 3 (version of protocol 3)"}},
		{"N+1 calls N-1", of(n + 1), of(n - 1), false, []string{"protocol 1 (version of protocol 1)", "protocol 3 (version of protocol 3)", "upgrade the coordinator"}},
		{"N calls N+2", of(n), of(n + 2), false, []string{"protocol 4 (version of protocol 4)", "protocol 2 (version of protocol 2)", "upgrade this program"}},
		{"one of before versions calls protocol 1", silent, of(1), true, nil},
		{"one of before versions calls protocol 2", silent, of(2), true, nil},
		{"protocol 2 calls one of before versions", of(2), silent, true, nil},
		{"one of before versions calls protocol 3", silent, of(3), false, []string{"protocol 1 (version 0.1.0 or before)", "protocol 3 (version of protocol 3)"}},
		{"protocol 3 calls one of before versions", of(3), silent, false, []string{"protocol 1 (version 0.1.0 or before)", "protocol 3 (version of protocol 3)", "upgrade the coordinator"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := pair(t, c.caller, c.answerer)
			_, unary := client.Check(t.Context(), &healthpb.HealthCheckRequest{})
			stream, err := client.Watch(t.Context(), &healthpb.HealthCheckRequest{})
			if err == nil {
				_, err = stream.Recv()
			}
			for kind, err := range map[string]error{"a call": unary, "a stream": err} {
				if (err == nil) != c.understood {
					t.Errorf("%s: %v, want understood: %v", kind, err, c.understood)
				}
				if err == nil {
					continue
				}
				if status.Code(err) != codes.FailedPrecondition || errors.Is(err, dialect.ErrForeign) != (c.caller != silent) {
					t.Errorf("%s: %v (%v), want FailedPrecondition, and ErrForeign where the caller knows of versions", kind, err, status.Code(err))
				}
				for _, name := range c.names {
					if !strings.Contains(err.Error(), name) {
						t.Errorf("%s: %v, want %q named", kind, err, name)
					}
				}
			}
		})
	}
}

// TestFailures: what a call fails with by itself is not changed, nor is an answerer's absence taken for a version.
func TestFailures(t *testing.T) {
	us := dialect.Own("test")
	client := pair(t, us, us)
	if _, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "unknown"}); status.Code(err) != codes.NotFound {
		t.Errorf("an unknown service: %v, want NotFound", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := client.Check(ctx, &healthpb.HealthCheckRequest{}); status.Code(err) != codes.Canceled || errors.Is(err, dialect.ErrForeign) {
		t.Errorf("a call that was given up: %v, want Canceled", err)
	}
	conn, err := grpc.NewClient("passthrough:///nobody", append(us.Caller(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, errors.New("nobody") }))...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("nobody there: %v, want Unavailable", err)
	}
}

// TestUnreadable: a caller whose header is none is refused, and told nothing of what it said.
func TestUnreadable(t *testing.T) {
	client := pair(t, silent, dialect.Own("test"))
	for _, word := range []string{"two", "0 x", "-1 x", "02 x", "2.0 x", " 2", "99999999999999999999 x", "2 " + strings.Repeat("x", 64)} {
		ctx := metadata.AppendToOutgoingContext(t.Context(), dialect.Key, word)
		if _, err := client.Check(ctx, &healthpb.HealthCheckRequest{}); status.Code(err) != codes.FailedPrecondition || strings.Contains(err.Error(), "xxx") {
			t.Errorf("%q: %v, want FailedPrecondition", word, err)
		}
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), dialect.Key, "2 x", dialect.Key, "2 x")
	if _, err := client.Check(ctx, &healthpb.HealthCheckRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("twice: %v, want FailedPrecondition", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, word := range []string{"1 0.1.0", "2 ", "2", "x", "4294967295 \x1b[2J", "4294967296 x"} {
		f.Add(word)
	}
	f.Fuzz(func(t *testing.T, word string) {
		s, err := dialect.Parse([]string{word})
		if err != nil {
			return
		}
		if s.Protocol == 0 || len(word) > 64 || strings.ContainsFunc(s.Program, func(c rune) bool { return c < ' ' || c > '~' }) {
			t.Errorf("Parse(%q) = %+v", word, s)
		}
		if !strings.HasPrefix(word, strings.Fields(s.String())[1]) {
			t.Errorf("Parse(%q) is %s", word, s)
		}
	})
}

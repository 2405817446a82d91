package consiliumv1_test

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	consiliumv1 "consilium.dev/proto/consilium/v1"
)

var update = flag.Bool("update", false, "add new lines to testdata/wire.txt")

const golden = "testdata/wire.txt"

// TestWire holds the wire format of released programs: what testdata/wire.txt says, the descriptors must still say. With
// -update new lines are added; a line that has changed or gone is a failure even then, since programs of two versions
// talk to each other while a federation is being upgraded.
func TestWire(t *testing.T) {
	got := describe(consiliumv1.File_consilium_v1_consilium_proto)
	want := readLines(t)
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("%s: changed or lost: %s", golden, line)
		}
	}
	if t.Failed() {
		return
	}
	if *update {
		if err := os.WriteFile(golden, []byte(strings.Join(got, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("%s: new, add it with -update: %s", golden, line)
		}
	}
}

// TestWireNoticesChange shows that describe tells each kind of change apart.
func TestWireNoticesChange(t *testing.T) {
	got := describe(consiliumv1.File_consilium_v1_consilium_proto)
	for _, line := range []string{
		"consilium.v1.Chunk.offset = 1 int64",
		"consilium.v1.Wanted.train = 2 repeated consilium.v1.Train",
		"consilium.v1.OfferRequest.chunk = 2 consilium.v1.Chunk oneof part",
		"consilium.v1.OfferReply.State.STATE_ACCEPTED = 2",
		"consilium.v1.Rounds.Offer(stream consilium.v1.OfferRequest) stream consilium.v1.OfferReply",
		"consilium.v1.Rounds.Consent(consilium.v1.ConsentRequest) consilium.v1.ConsentReply",
	} {
		if !slices.Contains(got, line) {
			t.Errorf("description lacks %q", line)
		}
	}
}

func readLines(t *testing.T) []string {
	t.Helper()
	f, err := os.Open(golden)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var lines []string
	for s := bufio.NewScanner(f); s.Scan(); {
		lines = append(lines, s.Text())
	}
	return lines
}

// describe returns one line for each message, field, enum value and method of a file, ascending.
func describe(f protoreflect.FileDescriptor) []string {
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	messages(f.Messages(), add)
	enums(f.Enums(), add)
	for i := range f.Services().Len() {
		methods := f.Services().Get(i).Methods()
		for j := range methods.Len() {
			m := methods.Get(j)
			add("%s(%s%s) %s%s", m.FullName(), word("stream ", m.IsStreamingClient()), m.Input().FullName(),
				word("stream ", m.IsStreamingServer()), m.Output().FullName())
		}
	}
	slices.Sort(lines)
	return lines
}

func messages(ms protoreflect.MessageDescriptors, add func(string, ...any)) {
	for i := range ms.Len() {
		m := ms.Get(i)
		add("message %s", m.FullName())
		for j := range m.Fields().Len() {
			f := m.Fields().Get(j)
			add("%s = %d %s%s%s", f.FullName(), f.Number(), word("repeated ", f.IsList()), kind(f), member(f))
		}
		messages(m.Messages(), add)
		enums(m.Enums(), add)
	}
}

func enums(es protoreflect.EnumDescriptors, add func(string, ...any)) {
	for i := range es.Len() {
		values := es.Get(i).Values()
		for j := range values.Len() {
			v := values.Get(j)
			// A value's full name stands beside its enum; with the enum's name a reader sees which one it is.
			add("%s.%s = %d", es.Get(i).FullName(), v.Name(), v.Number())
		}
	}
}

// kind returns a field's type: that of a message or enum by its full name.
func kind(f protoreflect.FieldDescriptor) string {
	switch {
	case f.Message() != nil:
		return string(f.Message().FullName())
	case f.Enum() != nil:
		return string(f.Enum().FullName())
	}
	return f.Kind().String()
}

// member says which choice a field belongs to.
func member(f protoreflect.FieldDescriptor) string {
	if o := f.ContainingOneof(); o != nil {
		return " oneof " + string(o.Name())
	}
	return ""
}

func word(s string, ok bool) string {
	if ok {
		return s
	}
	return ""
}

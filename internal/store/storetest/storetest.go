// Package storetest holds every driver of package store to the same promises, and is a driver itself: [Memory], in memory,
// which fails any call on demand.
//
// Each fault comes as twins: the call fails before it took effect, or after, when the work is done and only the answer is
// lost. A caller that cannot tell them apart must be right in both cases:
//
//	m := storetest.New()
//	for n := 1; ; n++ {
//		m.FailFrom(n, storetest.After)
//		err := work(m)
//		reached := m.Calls() >= n
//		m.Heal()
//		check(m, err)
//		if !reached {
//			break // work makes fewer than n calls
//		}
//	}
package storetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/store"
)

// Run tests a driver. open returns an empty storage and sees to its end with t.Cleanup.
func Run(t *testing.T, open func(t testing.TB) (store.Objects, store.Head)) {
	objects := map[string]func(*testing.T, store.Objects){
		"put and get": testPut, "immutable": testImmutable, "names": testNames, "broken reader": testBrokenReader,
		"name after end": testNameAfterEnd, "delete": testDelete, "list": testList, "race for a name": testRaceForName,
		"ended context": testEndedObjects,
	}
	for name, test := range objects {
		t.Run(name, func(t *testing.T) {
			o, _ := open(t)
			test(t, o)
		})
	}
	heads := map[string]func(*testing.T, store.Head){
		"swap": testSwap, "stale swap": testStaleSwap, "race for the head": testRaceForHead, "limit of the head": testHeadLimit,
		"ended context for the head": testEndedHead,
	}
	for name, test := range heads {
		t.Run(name, func(t *testing.T) {
			_, h := open(t)
			test(t, h)
		})
	}
}

func put(t testing.TB, o store.Objects, name string, value []byte) {
	t.Helper()
	if err := o.Put(t.Context(), store.Named(name), bytes.NewReader(value)); err != nil {
		t.Fatalf("Put(%q): %v", name, err)
	}
}

func get(t testing.TB, o store.Objects, name string) []byte {
	t.Helper()
	r, err := o.Get(t.Context(), name)
	if err != nil {
		t.Fatalf("Get(%q): %v", name, err)
	}
	value, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("reading %q: %v", name, err)
	}
	if err := r.Close(); err != nil {
		t.Fatalf("closing %q: %v", name, err)
	}
	return value
}

func list(t testing.TB, o store.Objects, prefix string) []string {
	t.Helper()
	var names []string
	for name, err := range o.List(t.Context(), prefix) {
		if err != nil {
			t.Fatalf("List(%q): %v", prefix, err)
		}
		names = append(names, name)
	}
	return names
}

func testPut(t *testing.T, o store.Objects) {
	if _, err := o.Get(t.Context(), "a/b"); !errors.Is(err, store.ErrNotExist) {
		t.Errorf("Get of no object = %v, want ErrNotExist", err)
	}
	large := bytes.Repeat([]byte("0123456789abcdef"), 3<<20/16)
	for name, value := range map[string][]byte{"empty": {}, "a/b": []byte("x"), "a/c/large": large, "Z_9-.z": []byte("y")} {
		put(t, o, name, value)
		if got := get(t, o, name); !bytes.Equal(got, value) {
			t.Errorf("%q holds %d bytes other than the %d that were put", name, len(got), len(value))
		}
	}
	if _, err := o.Get(t.Context(), "a"); !errors.Is(err, store.ErrNotExist) {
		t.Errorf("Get of a name that only begins others = %v, want ErrNotExist", err)
	}
}

func testImmutable(t *testing.T, o store.Objects) {
	put(t, o, "a/b", []byte("first"))
	for range 2 {
		err := o.Put(t.Context(), store.Named("a/b"), strings.NewReader("second"))
		if !errors.Is(err, store.ErrExist) {
			t.Errorf("second Put = %v, want ErrExist", err)
		}
	}
	if got := get(t, o, "a/b"); string(got) != "first" {
		t.Errorf("object holds %q after the second Put, want %q", got, "first")
	}
}

func testNames(t *testing.T, o store.Objects) {
	bad := []string{
		"", ".", "..", "/", "/a", "a/", "a//b", "a/./b", "a/../b", "../a", "a b", "a\x00b", "a\nb", "ä", "a\\b", "a:b", "a*",
		strings.Repeat("a", 201),
	}
	for _, name := range bad {
		if err := o.Put(t.Context(), store.Named(name), strings.NewReader("x")); err == nil || errors.Is(err, store.ErrExist) {
			t.Errorf("Put(%q) = %v, want a refusal", name, err)
		}
		if r, err := o.Get(t.Context(), name); err == nil {
			r.Close()
			t.Errorf("Get(%q) succeeded", name)
		}
		if err := o.Delete(t.Context(), name); err == nil {
			t.Errorf("Delete(%q) succeeded", name)
		}
	}
	if got := list(t, o, ""); len(got) > 0 {
		t.Errorf("refused names left %q", got)
	}
	put(t, o, strings.Repeat("a", 200), nil)
	put(t, o, "...", nil)
}

func testBrokenReader(t *testing.T, o store.Objects) {
	broken := errors.New("broken")
	r := io.MultiReader(strings.NewReader("half"), iotest.ErrReader(broken))
	err := o.Put(t.Context(), func() string { t.Error("name was asked for"); return "a" }, r)
	if !errors.Is(err, broken) {
		t.Errorf("Put = %v, want the reader's error", err)
	}
	if got := list(t, o, ""); len(got) > 0 {
		t.Errorf("a broken Put left %q", got)
	}
}

// ended remembers that its end was seen.
type ended struct {
	r   io.Reader
	eof bool
}

func (e *ended) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	e.eof = e.eof || errors.Is(err, io.EOF)
	return n, err
}

func testNameAfterEnd(t *testing.T, o store.Objects) {
	r, asked := &ended{r: iotest.OneByteReader(strings.NewReader("named by what was written"))}, 0
	name := func() string {
		asked++
		if !r.eof {
			t.Error("name was asked for before the reader had ended")
		}
		return "n/" + strconv.Itoa(asked)
	}
	if err := o.Put(t.Context(), name, r); err != nil {
		t.Fatal(err)
	}
	if got, want := list(t, o, ""), []string{"n/1"}; !slices.Equal(got, want) {
		t.Errorf("objects %q, want %q", got, want)
	}
}

func testDelete(t *testing.T, o store.Objects) {
	if err := o.Delete(t.Context(), "a/b"); err != nil {
		t.Errorf("Delete of no object = %v", err)
	}
	put(t, o, "a/b", []byte("first"))
	if err := o.Delete(t.Context(), "a"); err != nil {
		t.Errorf("Delete of a name that only begins others = %v", err)
	}
	if got := get(t, o, "a/b"); string(got) != "first" {
		t.Errorf("object holds %q", got)
	}
	if err := o.Delete(t.Context(), "a/b"); err != nil {
		t.Errorf("Delete = %v", err)
	}
	if _, err := o.Get(t.Context(), "a/b"); !errors.Is(err, store.ErrNotExist) {
		t.Errorf("Get of a deleted object = %v, want ErrNotExist", err)
	}
	put(t, o, "a/b", []byte("second"))
	if got := get(t, o, "a/b"); string(got) != "second" {
		t.Errorf("object holds %q, want %q", got, "second")
	}
}

func testList(t *testing.T, o store.Objects) {
	all := []string{"a-b", "a.b", "a/b", "a/b.p/1", "a/b.p/2", "a/c", "a0", "b/x/1", "b/y"}
	for _, i := range []int{4, 0, 8, 2, 6, 1, 7, 3, 5} {
		put(t, o, all[i], nil)
	}
	for prefix, want := range map[string][]string{
		"": all, "a": all[:7], "a/": all[2:6], "a/b": all[2:5], "a/b.p/": all[3:5], "b/x": all[7:8], "c": nil, "a/d/": nil, "a/b/": nil,
	} {
		if diff := cmp.Diff(want, list(t, o, prefix)); diff != "" {
			t.Errorf("List(%q) (-want +got):\n%s", prefix, diff)
		}
	}
	seen := 0
	for range o.List(t.Context(), "") {
		if seen++; seen == 3 {
			break
		}
	}
	for name, err := range o.List(t.Context(), "a") { // what is listed may be deleted on the way
		if err != nil {
			t.Fatal(err)
		}
		if err := o.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(all[7:], list(t, o, "")); diff != "" {
		t.Errorf("after deleting (-want +got):\n%s", diff)
	}
}

func testRaceForName(t *testing.T, o store.Objects) {
	var won, lost atomic.Int32
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			value := bytes.Repeat([]byte{byte('a' + i)}, 100_000)
			switch err := o.Put(t.Context(), store.Named("r/x"), bytes.NewReader(value)); {
			case err == nil:
				won.Add(1)
			case errors.Is(err, store.ErrExist):
				lost.Add(1)
			default:
				t.Errorf("Put = %v", err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 || lost.Load() != 7 {
		t.Errorf("%d of 8 won and %d lost, want 1 and 7", won.Load(), lost.Load())
	}
	if got := get(t, o, "r/x"); len(got) != 100_000 || bytes.Count(got, got[:1]) != len(got) {
		t.Errorf("the object mixes what several writers put")
	}
}

func testEndedObjects(t *testing.T, o store.Objects) {
	put(t, o, "a", []byte("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := o.Put(ctx, store.Named("b"), strings.NewReader("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("Put = %v, want context.Canceled", err)
	}
	if _, err := o.Get(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("Get = %v, want context.Canceled", err)
	}
	for _, err := range o.List(ctx, "") {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("List = %v, want context.Canceled", err)
		}
	}
	if got, want := list(t, o, ""), []string{"a"}; !slices.Equal(got, want) {
		t.Errorf("objects %q, want %q", got, want)
	}
}

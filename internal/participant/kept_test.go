package participant_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/participant"
	"consilium.dev/internal/store"
	"consilium.dev/internal/store/storetest"
)

// sealer is a key-encryption key in memory.
type sealer struct{ key cipher.AEAD }

func newSealer(t testing.TB, key byte) *sealer {
	t.Helper()
	block, err := aes.NewCipher(bytes.Repeat([]byte{key}, 32))
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	return &sealer{gcm}
}

func (s *sealer) Seal(plaintext, ad []byte) ([]byte, error) {
	return s.key.Seal(nil, nil, plaintext, ad), nil
}

func (s *sealer) Open(ciphertext, ad []byte) ([]byte, error) {
	return s.key.Open(nil, nil, ciphertext, ad)
}

var (
	small = participant.Finished{Salt: [32]byte{1}, Base: [32]byte{2}, Weight: 199, Values: []float32{0, -1.5, math.MaxFloat32}}
	other = participant.Finished{Weight: 1, Values: []float32{7}}
)

const runA, runB = "00000000000000aa", "00000000000000bb"

func open(t testing.TB, disk store.Objects) participant.Keeper {
	t.Helper()
	k, err := participant.OpenKeeper(t.Context(), disk, newSealer(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func check(t testing.TB, k participant.Keeper, run string, round int, want *participant.Finished) {
	t.Helper()
	got, ok, err := k.Get(context.Background(), run, round)
	if err != nil {
		t.Fatal(err)
	}
	if ok != (want != nil) {
		t.Fatalf("round %d of run %s is kept: %v, want %v", round, run, ok, want != nil)
	}
	if want != nil {
		if diff := cmp.Diff(*want, got); diff != "" {
			t.Errorf("round %d of run %s differs (-want +got):\n%s", round, run, diff)
		}
	}
}

// TestKept keeps updates over restarts until their rounds are closed or their runs have ended.
func TestKept(t *testing.T) {
	disk := storetest.New()
	k := open(t, disk)
	check(t, k, runA, 1, nil)
	for round, f := range []participant.Finished{small, other} {
		for _, run := range []string{runA, runB} {
			if err := k.Put(t.Context(), run, round, f); err != nil {
				t.Fatal(err)
			}
		}
	}
	k = open(t, disk)
	check(t, k, runA, 0, &small)
	check(t, k, runB, 1, &other)
	if err := k.Forget(t.Context(), map[string]int{runA: 0, runB: -1}); err != nil {
		t.Fatal(err)
	}
	for _, k := range []participant.Keeper{k, open(t, disk)} {
		check(t, k, runA, 0, nil)
		check(t, k, runA, 1, &other)
		check(t, k, runB, 0, &small)
		check(t, k, runB, 1, &other)
	}
	if err := k.Forget(t.Context(), map[string]int{runB: 1}); err != nil {
		t.Fatal(err)
	}
	for name, err := range disk.List(t.Context(), "") {
		t.Errorf("object %s is left when nothing is kept: %v", name, err)
	}
}

// TestKeptNotWanted ends the context of whoever keeps, gets or forgets an update: what was begun is finished, and nobody takes
// that for a broken disk.
func TestKeptNotWanted(t *testing.T) {
	disk := storetest.New()
	k := open(t, disk)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := k.Put(over, runA, 1, small); err != nil {
		t.Errorf("Put: %v", err)
	}
	check(t, open(t, disk), runA, 1, &small)
	if _, _, err := k.Get(over, runA, 1); err != nil {
		t.Errorf("Get: %v", err)
	}
	if err := k.Forget(over, nil); err != nil {
		t.Errorf("Forget: %v", err)
	}
	check(t, open(t, disk), runA, 1, nil)
}

// TestKeptFaults fails each call to a disk. It is the disk that is named, and what was kept before is still there.
func TestKeptFaults(t *testing.T) {
	for name, act := range map[string]func(participant.Keeper) error{
		"put": func(k participant.Keeper) error { return k.Put(t.Context(), runB, 1, other) },
		"get": func(k participant.Keeper) error {
			_, _, err := k.Get(t.Context(), runA, 1)
			return err
		},
		"forget": func(k participant.Keeper) error { return k.Forget(t.Context(), nil) },
	} {
		t.Run(name, func(t *testing.T) {
			disk := storetest.New()
			k := open(t, disk)
			if err := k.Put(t.Context(), runA, 1, small); err != nil {
				t.Fatal(err)
			}
			disk.FailAt(1, storetest.Before)
			if err := act(k); !errors.Is(err, storetest.ErrFault) || !participant.IsBroken(err) {
				t.Errorf("%v, want the disk's fault", err)
			}
			check(t, open(t, disk), runA, 1, &small)
		})
	}
	disk := storetest.New()
	disk.FailAt(1, storetest.Before)
	if _, err := participant.OpenKeeper(t.Context(), disk, newSealer(t, 1)); !participant.IsBroken(err) {
		t.Errorf("opening: %v, want the disk's fault", err)
	}
}

// TestKeptStrange finds what is none of ours where updates are kept, and refuses what was sealed under another key.
func TestKeptStrange(t *testing.T) {
	for _, name := range []string{"kept/x", "kept/x/y", "kept/x/1/2"} {
		disk := storetest.New()
		if err := disk.Put(t.Context(), store.Named(name), bytes.NewReader(nil)); err != nil {
			t.Fatal(err)
		}
		if _, err := participant.OpenKeeper(t.Context(), disk, newSealer(t, 1)); !participant.IsBroken(err) {
			t.Errorf("object %s: %v, want an error", name, err)
		}
	}
	disk := storetest.New()
	if err := open(t, disk).Put(t.Context(), runA, 1, small); err != nil {
		t.Fatal(err)
	}
	k, err := participant.OpenKeeper(t.Context(), disk, newSealer(t, 2))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := k.Get(t.Context(), runA, 1); !participant.IsBroken(err) {
		t.Errorf("an update that was sealed under another key: %v, want an error", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(small.Encode())
	f.Add(small.Encode()[:40])
	f.Add(append(small.Encode(), 0))
	f.Add([]byte("consilium.update/2\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := participant.Decode(text)
		if err == nil && !bytes.Equal(got.Encode(), text) {
			t.Errorf("%x is read as something that is written as %x", text, got.Encode())
		}
	})
}

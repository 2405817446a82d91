package coordinator_test

import (
	"encoding/base64"
	"encoding/hex"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"go.uber.org/zap"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/model"
	"consilium.dev/internal/trainer"
)

// secrets are texts that no log may hold, each with what it is.
type secrets map[string]string

// bytes adds a byte string in the forms in which one is printed.
func (s secrets) bytes(what string, b []byte) {
	if len(b) < 8 {
		panic("too short to be found by nothing but itself")
	}
	s[hex.EncodeToString(b)] = what
	s[strings.ToUpper(hex.EncodeToString(b))] = what
	s[base64.StdEncoding.EncodeToString(b)] = what
	s[base64.RawURLEncoding.EncodeToString(b)] = what
	var numbers []string
	for _, v := range b {
		numbers = append(numbers, strconv.Itoa(int(v)))
	}
	s[strings.Join(numbers, " ")] = what
	s[strings.Join(numbers, ",")] = what
}

// values adds numbers by their first six digits, in both forms in which one is printed. Those with fewer are left out: a time or
// a count may be the same.
func (s secrets) values(what string, all []float32) {
	for _, v := range all {
		v := math.Abs(float64(v))
		scientific := strconv.FormatFloat(v, 'e', -1, 32)
		digits, _, _ := strings.Cut(scientific, "e")
		if len(digits) < len("1.23456") || v < 1e-6 || v >= 1e6 {
			continue
		}
		s[digits[:len("1.23456")]] = what
		plain := strconv.FormatFloat(v, 'f', -1, 32)
		n := len("123456") + 1
		if v < 1 {
			n += len(plain) - len(strings.TrimLeft(plain, "0.")) - 1
		}
		if n <= len(plain) {
			s[plain[:n]] = what
		}
	}
}

// TestSecrets runs a federation with everything logged and looks in all that was said for what must not be there: values of
// models and updates, keys, patients' records.
func TestSecrets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve()
		all := w.joinAll()
		p := plan(t, adam)
		v := w.completed(w.start(p))
		longbeach := w.books["longbeach"]
		all["longbeach"].stop()

		found := secrets{}
		for _, r := range v.Rounds {
			found.values("a model's value", w.model(entry.Digest(r.Model)).Params)
		}
		for _, name := range hospitals {
			found.member(t, w, p, name, w.model(entry.Digest(v.Rounds[0].Model)))
		}
		found.bytes("the coordinator's identity key", keyOf("coordinator/council").Seed())
		found.bytes("a person's key", keyOf("person/ada").Seed())
		if len(found) < 500 {
			t.Fatalf("only %d secrets to look for", len(found))
		}
		for name, b := range w.books {
			text, _ := b.read()
			if len(text) < 1000 {
				t.Errorf("%s has said %d bytes only", name, len(text))
			}
			for secret, what := range found {
				if at := strings.Index(text, secret); at >= 0 {
					t.Errorf("%s has logged %s: %s", name, what, text[max(0, at-60):min(len(text), at+len(secret)+20)])
				}
			}
		}
		// The search finds what is there.
		longbeach.log().Info("leak", zap.Float32("value", w.model(final(v)).Params[1]))
		text, _ := longbeach.read()
		leaks := 0
		for secret := range found {
			if strings.Contains(text, secret) {
				leaks++
			}
		}
		if leaks == 0 {
			t.Error("a weight in a log was not found")
		}
	})
}

// member adds a member's records, keys and updates of round 0 and round 1, whose base model is given.
func (s secrets) member(t *testing.T, w *world, p entry.Plan, name string, base *model.Model) {
	t.Helper()
	s.bytes("the identity key of "+name, keyOf("participant/"+name).Seed())
	s.bytes("the governance key of "+name, keyOf("governance/"+name).Seed())
	folder := filepath.Join("..", "..", "examples", "hospitals", "data")
	text, err := os.ReadFile(filepath.Join(folder, name+".data"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		s[line] = "a patient's record"
		s[strings.Join(strings.Split(line, ",")[:5], ",")] = "the beginning of a patient's record"
		s[strings.Join(strings.Split(line, ",")[:5], " ")] = "the beginning of a patient's record"
	}
	train := trainingSet(t, p.Schema, name)
	u, err := trainer.Statistics(p, train)
	if err != nil {
		t.Fatal(err)
	}
	s.values("a value of the statistics of "+name, u)
	if u, err = trainer.Train(t.Context(), p, base, train, 1, name, nil); err != nil {
		t.Fatal(err)
	}
	s.values("a value of an update of "+name, u)
}

package entry_test

import (
	"strings"
	"testing"
	"time"

	"consilium.dev/internal/entry"
)

func TestDigest(t *testing.T) {
	d := entry.Digest{0: 0xab, 31: 0x01}
	text := "ab" + strings.Repeat("00", 30) + "01"
	if got := d.String(); got != text {
		t.Errorf("String = %q, want %q", got, text)
	}
	if got := d.Short(); got != "ab0000000000" {
		t.Errorf("Short = %q", got)
	}
	if d.IsZero() || !(entry.Digest{}).IsZero() {
		t.Error("IsZero is true of a digest, or false of none")
	}
	if got, err := d.MarshalText(); err != nil || string(got) != text {
		t.Errorf("MarshalText = %q, %v", got, err)
	}
	var back entry.Digest
	if err := back.UnmarshalText([]byte(text)); err != nil || back != d {
		t.Errorf("UnmarshalText = %v, %v, want %v", back, err, d)
	}
	for _, bad := range []string{"", text[:63], text + "0", strings.ToUpper(text), "g" + text[1:], " " + text[1:]} {
		if err := new(entry.Digest).UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("UnmarshalText(%q) took it", bad)
		}
	}
}

func TestDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{"1m30s": 90 * time.Second, "0s": 0, "-1ns": -1, "2562047h47m16.854775807s": 1<<63 - 1} {
		var d entry.Duration
		if err := d.UnmarshalText([]byte(text)); err != nil || time.Duration(d) != want {
			t.Errorf("UnmarshalText(%q) = %v, %v, want %v", text, time.Duration(d), err, want)
		}
		if got, err := d.MarshalText(); err != nil || string(got) != text {
			t.Errorf("MarshalText of %v = %q, %v", want, got, err)
		}
	}
	for _, bad := range []string{"", "90", "1 minute", "1d"} {
		if err := new(entry.Duration).UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("UnmarshalText(%q) took it", bad)
		}
	}
}

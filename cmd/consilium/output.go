package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/jedib0t/go-pretty/v6/table"

	"consilium.dev/internal/strictyaml"
)

// schema names the form of what -o json prints. Fields are added under it, never renamed or given a new meaning.
const schema = "consilium.cli/1"

// The values of --output.
const (
	outputTable = "table"
	outputJSON  = "json"
)

// app is what all commands share: where they write, and what the flags of the root say.
type app struct {
	out    io.Writer // data: one table or one JSON document
	errOut io.Writer // talk
	rawErr *os.File  // talk that draws: progress bars
	live   bool      // errOut is a terminal
	output string
	config string
}

func (a *app) checkOutput() error {
	if a.output != outputTable && a.output != outputJSON {
		bad := a.output
		a.output = outputTable
		return usageError("say -o table or -o json", "there is no output %q", bad)
	}
	return nil
}

// say talks to the person.
func (a *app) say(format string, args ...any) { fmt.Fprintf(a.errOut, format+"\n", args...) }

// envelope is what -o json prints.
type envelope struct {
	Schema string     `json:"schema"`
	Kind   string     `json:"kind"`
	Data   any        `json:"data,omitempty"`
	Error  *errorData `json:"error,omitempty"`
}

type errorData struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// page is what a command shows to people. It reaches the terminal as a whole, and only printable characters of it.
type page struct{ bytes.Buffer }

func (p *page) printf(format string, args ...any) { fmt.Fprintf(p, format, args...) }

// tables appends tables, an empty line before each.
func (p *page) tables(all ...table.Writer) {
	for _, t := range all {
		p.printf("\n%s\n", t.Render())
	}
}

// emit prints a command's one result: data as JSON, or what human writes.
func (a *app) emit(kind string, data any, human func(*page)) error {
	if a.output == outputJSON {
		return a.document(envelope{Schema: schema, Kind: kind, Data: data})
	}
	var p page
	human(&p)
	if _, err := (&screen{a.out}).Write(p.Bytes()); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}

// document prints an envelope.
func (a *app) document(e envelope) error {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(e); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	if _, err := io.WriteString(a.out, escapeJSON(text.String())); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}

// end says what went wrong, if anything did, and returns the exit code.
func (a *app) end(err error) int {
	if err == nil {
		return 0
	}
	var said errSaid
	if errors.As(err, &said) {
		return said.kind.exit
	}
	var ended errEnded
	if errors.As(err, &ended) {
		return int(ended)
	}
	f := faultOf(err)
	if a.output == outputJSON {
		e := envelope{Schema: schema, Kind: "error", Error: &errorData{f.kind.code, f.err.Error(), f.hint}}
		if err := a.document(e); err != nil {
			a.say("consilium: %v", err)
		}
		return f.kind.exit
	}
	a.say("consilium: %s", strictyaml.Apart(f.err))
	if f.hint != "" {
		a.say("hint: %s", f.hint)
	}
	return f.kind.exit
}

// screen lets only printable characters and line ends through to a terminal. Others are spelt as escapes: what a coordinator
// or a file says must not be able to clear a screen, to move the cursor, or to write from right to left.
type screen struct{ w io.Writer }

func (s *screen) Write(b []byte) (int, error) {
	if _, err := io.WriteString(s.w, escape(string(b), false)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// name returns a name that came from elsewhere in a form that stays in its line and its cell.
func name[T ~string](s T) string { return escape(string(s), true) }

func names[T ~string](all []T) string {
	var out []string
	for _, s := range all {
		out = append(out, name(s))
	}
	return strings.Join(out, ", ")
}

// escape spells what does not print as Go does. Line ends pass where one line is not asked for.
func escape(s string, oneLine bool) string {
	plain := func(r rune) bool { return unicode.IsPrint(r) || r == '\n' && !oneLine }
	var out strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], string(utf8.RuneError)):
			fmt.Fprintf(&out, `\x%02x`, s[i])
		case plain(r):
			out.WriteRune(r)
		default:
			out.WriteString(strings.Trim(fmt.Sprintf("%+q", r), "'"))
		}
	}
	return out.String()
}

// escapeJSON spells what does not print in a JSON text as JSON does. Outside of strings a text of our encoder holds line ends
// and spaces only.
func escapeJSON(text string) string {
	var out strings.Builder
	for _, r := range text {
		switch {
		case unicode.IsPrint(r) || r == '\n':
			out.WriteRune(r)
		case r > 0xffff:
			hi, lo := (r-0x10000)>>10+0xd800, (r-0x10000)&0x3ff+0xdc00
			fmt.Fprintf(&out, `\u%04x\u%04x`, hi, lo)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	return out.String()
}

func newTable(columns ...any) table.Writer {
	t := table.NewWriter()
	t.SetStyle(table.StyleLight)
	t.AppendHeader(columns)
	return t
}

package internal_test

import (
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/trainer"
)

// planTable returns what the table between two marks of docs/plans.md says of each field: the text of the column of defaults.
func planTable(t *testing.T, page, mark string) map[string]string {
	t.Helper()
	_, table, found := strings.Cut(page, "<!-- "+mark+" -->\n")
	table, _, ended := strings.Cut(table, "<!-- end of "+mark+" -->")
	if !found || !ended {
		t.Fatalf("docs/plans.md has no table of %s", mark)
	}
	said := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|[^|]*\\| ([^|]*) \\|[^|]*\\|$").FindAllStringSubmatch(table, -1) {
		if _, twice := said[m[1]]; twice {
			t.Errorf("docs/plans.md: %s stands twice", m[1])
		}
		said[m[1]] = m[2]
	}
	return said
}

// planKeys returns the keys of a plan's YAML, those of blocks within it with a dot.
func planKeys(at reflect.Type, before string) []string {
	if at.Kind() == reflect.Pointer {
		at = at.Elem()
	}
	if at.Kind() == reflect.Map && at.Elem().Kind() == reflect.Struct {
		return planKeys(at.Elem(), before+".FEATURE")
	}
	if at.Kind() != reflect.Struct {
		return []string{before}
	}
	var keys []string
	for f := range at.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if name == "-" { // package trainer reads it, under the name that it has in JSON
			name, _, _ = strings.Cut(f.Tag.Get("json"), ",")
		}
		if before != "" {
			name = before + "." + name
		}
		keys = append(keys, planKeys(f.Type, name)...)
	}
	return keys
}

// TestPlansPage holds docs/plans.md to the fields that a plan has, to the schema's, and to the defaults that package trainer gives.
func TestPlansPage(t *testing.T) {
	page := string(read(t, "docs/plans.md"))
	said := planTable(t, page, "fields")
	want := planKeys(reflect.TypeFor[entry.Plan](), "")
	slices.Sort(want)
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(said))); diff != "" {
		t.Errorf("fields of a plan (-entry.Plan +docs/plans.md):\n%s", diff)
	}
	want = nil
	for _, m := range regexp.MustCompile(`json:"(\w+)"`).FindAllStringSubmatch(string(read(t, "internal/dataset/schema.go")), -1) {
		want = append(want, m[1])
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(planTable(t, page, "schema")))); diff != "" {
		t.Errorf("fields of a schema (-package dataset +docs/plans.md):\n%s", diff)
	}

	_, smallest, _ := strings.Cut(page, "```yaml\n")
	smallest, _, _ = strings.Cut(smallest, "```")
	plan, err := trainer.ParsePlan([]byte(smallest))
	if err != nil {
		t.Fatalf("the smallest plan of docs/plans.md: %v", err)
	}
	value, defaults := regexp.MustCompile("^`([^`]+)`"), 0
	for _, key := range slices.Sorted(maps.Keys(said)) {
		m := value.FindStringSubmatch(said[key])
		block, field, nested := strings.Cut(key, ".")
		if m == nil || nested && block != "local" { // said in words, or of a block that the smallest plan does not have
			continue
		}
		defaults++
		text := smallest + key + ": " + m[1] + "\n"
		if nested {
			text = strings.Replace(smallest, "local: {", "local: {"+field+": "+m[1]+", ", 1)
		}
		if got, err := trainer.ParsePlan([]byte(text)); err != nil {
			t.Errorf("docs/plans.md: %s with its default %s: %v", key, m[1], err)
		} else if diff := cmp.Diff(plan, got); diff != "" {
			t.Errorf("docs/plans.md: %s is not the same left out and as %s:\n%s", key, m[1], diff)
		}
	}
	if defaults < 10 {
		t.Errorf("looked at %d defaults only", defaults)
	}
}

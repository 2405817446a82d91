package dataset_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"consilium.dev/internal/dataset"
)

func TestFeatures(t *testing.T) {
	s := schema(t, `{"columns": [
		{"name": "cp", "use": "category", "levels": ["1", "2.0", "-3"]},
		{"name": "gene", "use": "number", "count": 3},
		{"name": "gap", "use": "ignore", "count": 2},
		{"name": "num", "use": "label", "above": -1},
		{"name": "ecg", "use": "category", "levels": ["0", "1"]},
		{"name": "age in years", "use": "number", "count": null}]}`)
	want := []string{"gene_1", "gene_2", "gene_3", "age in years", "cp_2.0", "cp_-3", "ecg_1"}
	if diff := cmp.Diff(s.Features(), want); diff != "" {
		t.Errorf("features (-got +want):\n%s", diff)
	}
}

func TestParseSchemaRefuses(t *testing.T) {
	list := func(columns string) string { return `{"columns": [` + columns + `]}` }
	const age, ill = `{"name":"age","use":"number"}`, `{"name":"ill","use":"label","above":0}`
	levels := strings.Repeat(`"1",`, 4096) + `"2"`
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "schema: EOF"},
		{"no JSON", "columns: []", "schema: invalid character"},
		{"a list", "[]", "all of it: want an object, not a JSON array"},
		{"null", "null", "0 columns are the label"},
		{"behind its end", list(age+","+ill) + "{}", "goes on behind its end"},
		{"no columns", "{}", "0 columns are the label, want one"},
		{"too long", `{"missing":"` + strings.Repeat("x", 1<<20) + `"}`, "at most 1048576 are allowed"},
		{"unknown key", `{"seperator":";","columns":[]}`, `unknown field "seperator"`},
		{"unknown key of a column", list(`{"name":"a","use":"number","unit":"mg"}`), `unknown field "unit"`},
		{"key in capitals", `{"Columns":[` + age + `,` + ill + `]}`, `key "Columns" is unknown or stands twice`},
		{"key of a column in capitals", list(`{"Name":"a","use":"number"},` + ill), `key "Name" is unknown or stands twice`},
		{"doubled key", `{"header":true,"columns":[` + age + `,` + ill + `],"header":false}`, `key "header" is unknown or stands twice`},
		{"doubled key of a column", list(`{"name":"a","name":"b","use":"number"},` + ill), `key "name" is unknown or stands twice`},
		{"number as level", list(`{"name":"a","use":"category","levels":[1,2]}`), `columns.levels: want text, as in "1", not a JSON number`},
		{"text as threshold", list(`{"name":"a","use":"label","above":"0"}`), "columns.above: want a number, not a JSON string"},
		{"half a count", list(`{"name":"a","use":"number","count":1.5}`), "columns.count: want a whole number, not a JSON number"},
		{"text as header", `{"header":"yes"}`, "header: want true or false, not a JSON string"},
		{"columns as an object", `{"columns":{}}`, "columns: want a list, not a JSON object"},

		{"word for rows", `{"missing_rows":"skip","columns":[` + age + `,` + ill + `]}`, `missing_rows is "skip", want refuse or drop`},
		{"marker with a comma", `{"missing":"a,b","columns":[` + age + `,` + ill + `]}`, `missing: character ','`},
		{"marker within space", `{"missing":" NA","columns":[` + age + `,` + ill + `]}`, "missing: space around it"},
		{"no name", list(`{"use":"number"},` + ill), "column 1 of the list: name: want 1 to 128 bytes"},
		{"long name", list(ill + `,{"name":"` + strings.Repeat("x", 129) + `","use":"number"}`), "column 2 of the list: name: want 1 to 128 bytes"},
		{"name with a newline", list(`{"name":"a\nb","use":"number"},` + ill), "name: character '\\n'"},
		{"name with a quote", list(`{"name":"a\"b","use":"number"},` + ill), "name: character '\"'"},
		{"name within space", list(`{"name":"a ","use":"number"},` + ill), "name: space around it"},
		{"no use", list(`{"name":"a"},` + ill), `a: use is "", want number, category, label or ignore`},
		{"unknown use", list(`{"name":"a","use":"text"},` + ill), `a: use is "text", want`},
		{"no label", list(age), "0 columns are the label, want one"},
		{"two labels", list(age + "," + ill + `,{"name":"b","use":"label","above":0}`), "2 columns are the label, want one"},
		{"no feature", list(`{"name":"a","use":"ignore"},` + ill), "no column is a feature"},
		{"a name twice", list(age + "," + age + "," + ill), "two columns have the name age"},
		{"a name twice, by count", list(`{"name":"a","use":"number","count":2},{"name":"a_2","use":"ignore"},` + ill), "two columns have the name a_2"},
		{
			"a feature twice", list(`{"name":"a_2","use":"number"},{"name":"a","use":"category","levels":["1","2"]},` + ill),
			"two features have the name a_2",
		},

		{"count 0", list(`{"name":"a","use":"number","count":0},` + ill), "a: count is 0, want 1 to 1048576"},
		{"count too large", list(`{"name":"a","use":"number","count":1048577},` + ill), "a: count is 1048577, want"},
		{"too many columns", list(`{"name":"a","use":"number","count":1048576},` + ill), "more than 1048576 columns"},
		{"count of a category", list(`{"name":"a","use":"category","levels":["1","2"],"count":2},` + ill), "count goes only with number and ignore"},
		{"count of a label", list(age + `,{"name":"b","use":"label","above":0,"count":1}`), "count goes only with number and ignore"},
		{"category without levels", list(`{"name":"a","use":"category"},` + ill), "levels go with category"},
		{"levels of a number", list(`{"name":"a","use":"number","levels":["1","2"]},` + ill), "levels go with category"},
		{"one level", list(`{"name":"a","use":"category","levels":["1"]},` + ill), "1 levels, want 2 to 4096"},
		{"too many levels", list(`{"name":"a","use":"category","levels":[` + levels + `]},` + ill), "4097 levels, want 2 to 4096"},
		{"level twice", list(`{"name":"a","use":"category","levels":["1","2","1.0"]},` + ill), `level "1.0" is no number or stands twice`},
		{"level 0 twice", list(`{"name":"a","use":"category","levels":["0","-0"]},` + ill), `level "-0" is no number or stands twice`},
		{"word as level", list(`{"name":"a","use":"category","levels":["low","high"]},` + ill), `level "low" is no number`},
		{"NaN as level", list(`{"name":"a","use":"category","levels":["1","NaN"]},` + ill), `level "NaN" is no number`},
		{"empty level", list(`{"name":"a","use":"category","levels":["1",""]},` + ill), "level: want 1 to 128 bytes"},
		{"label without threshold", list(age + `,{"name":"b","use":"label"}`), "above goes with label"},
		{"threshold of a number", list(`{"name":"a","use":"number","above":0},` + ill), "above goes with label"},
		{"deep", strings.Repeat("[", 100_000), "schema: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := dataset.ParseSchema([]byte(c.text))
			if err == nil || !strings.HasPrefix(err.Error(), "schema") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("ParseSchema = %v, want an error with %q", err, c.want)
			}
			if len(s.Features()) > 0 {
				t.Errorf("ParseSchema = features %v beside an error, want none", s.Features())
			}
		})
	}
}

// TestManyFeatures: levels count as features too.
func TestManyFeatures(t *testing.T) {
	var levels, columns []string
	for i := range 4096 {
		levels = append(levels, fmt.Sprintf(`"%d"`, i))
	}
	for i := range 10 {
		columns = append(columns, fmt.Sprintf(`{"name":"c%d","use":"category","levels":[%s]}`, i, strings.Join(levels, ",")))
	}
	columns = append(columns, `{"name":"g","use":"number","count":1008000}`, `{"name":"ill","use":"label","above":0}`)
	_, err := dataset.ParseSchema([]byte(`{"columns":[` + strings.Join(columns, ",") + `]}`))
	if err == nil || !strings.Contains(err.Error(), "more than 1048576 features") {
		t.Errorf("ParseSchema = %v, want an error with %q", err, "more than 1048576 features")
	}
}

// TestNamesDiffer holds what a schema refuses for its names to a list of all of them, with names that look like others with a number behind.
func TestNamesDiffer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`a(_0?[1-3]){0,2}`)
		seen, twice := map[string]bool{}, false
		columns := []string{`{"name": "ill", "use": "label", "above": 0}`}
		features := map[string]bool{}
		add := func(all map[string]bool, n string) {
			twice = twice || all[n]
			all[n] = true
		}
		for range rapid.IntRange(1, 4).Draw(t, "columns") {
			n := name.Draw(t, "name")
			switch use := rapid.SampledFrom([]string{"number", "ignore", "category"}).Draw(t, "use"); {
			case use == "category":
				add(seen, n)
				columns = append(columns, fmt.Sprintf(`{"name": %q, "use": "category", "levels": ["9", "1", "2"]}`, n))
				add(features, n+"_1")
				add(features, n+"_2")
			case rapid.Bool().Draw(t, "counted"):
				count := rapid.IntRange(1, 3).Draw(t, "count")
				columns = append(columns, fmt.Sprintf(`{"name": %q, "use": %q, "count": %d}`, n, use, count))
				for i := range count {
					add(seen, fmt.Sprint(n, "_", i+1))
					if use == "number" {
						add(features, fmt.Sprint(n, "_", i+1))
					}
				}
			default:
				add(seen, n)
				columns = append(columns, fmt.Sprintf(`{"name": %q, "use": %q}`, n, use))
				if use == "number" {
					add(features, n)
				}
			}
		}
		if len(features) == 0 {
			t.Skip("no feature")
		}
		text := `{"columns": [` + strings.Join(columns, ",") + `]}`
		s, err := dataset.ParseSchema([]byte(text))
		if (err != nil) != twice {
			t.Errorf("%s: %v, want a name twice %t", text, err, twice)
		}
		if err == nil && len(s.Features()) != len(features) {
			t.Errorf("%s has the features %q, want %d", text, s.Features(), len(features))
		}
	})
}

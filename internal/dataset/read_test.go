package dataset_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/dataset"
)

// ward is a schema with a column of every use, of two that follow each other and of a category.
const ward = `{"header": true, "missing": "?", "columns": [
	{"name": "age", "use": "number"},
	{"name": "site", "use": "category", "levels": ["1", "2", "3.5"]},
	{"name": "note", "use": "ignore"},
	{"name": "gene", "use": "number", "count": 2},
	{"name": "ill", "use": "label", "above": 0.5}]}`

const wardHeader = "age,site,note,gene_1,gene_2,ill\n"

func schema(t testing.TB, text string) dataset.Schema {
	t.Helper()
	s, err := dataset.ParseSchema([]byte(text))
	if err != nil {
		t.Fatalf("ParseSchema = %v, want no error", err)
	}
	return s
}

// dropping is ward with rows dropped that miss a value, and without a header.
func dropping() string {
	return strings.Replace(ward, `"header": true`, `"missing_rows": "drop"`, 1)
}

func TestRead(t *testing.T) {
	names := []string{"age", "gene_1", "gene_2", "site_2", "site_3.5"}
	for _, c := range []struct {
		name, schema, file string
		features           []float64
		labels             []float64
		lines              []int
	}{
		{
			"every use", ward, wardHeader + "50,1,x,0.5,-1,0\n61.5,2,,.25,+2e1,1\n7,3.5,y,0,-0.0,0.6\n",
			[]float64{50, .5, -1, 0, 0, 61.5, .25, 20, 1, 0, 7, 0, 0, 0, 1},
			[]float64{0, 1, 1},
			[]int{2, 3, 4},
		},
		{"label at the threshold", ward, wardHeader + "1,1,x,0,0,0.5\n", []float64{1, 0, 0, 0, 0}, []float64{0}, []int{2}},
		{"level spelt otherwise", ward, wardHeader + "1,3.50,x,0,0,0\n", []float64{1, 0, 0, 0, 1}, []float64{0}, []int{2}},
		{"CRLF", ward, strings.ReplaceAll(wardHeader+"1,1,x,2,3,1\n", "\n", "\r\n"), []float64{1, 2, 3, 0, 0}, []float64{1}, []int{2}},
		{"no end of line at the end", ward, wardHeader + "1,1,x,2,3,1", []float64{1, 2, 3, 0, 0}, []float64{1}, []int{2}},
		{"byte order mark", ward, "\ufeff" + wardHeader + "1,1,x,2,3,1\n", []float64{1, 2, 3, 0, 0}, []float64{1}, []int{2}},
		{"byte order mark without a header", dropping(), "\ufeff1,1,x,2,3,1\n", []float64{1, 2, 3, 0, 0}, []float64{1}, []int{1}},
		{"space around", ward, " age , site,note,gene_1,gene_2,ill\n 1 ,\t1,x, 2,3 ,1 \n", []float64{1, 2, 3, 0, 0}, []float64{1}, []int{2}},
		{"empty lines", ward, "\n" + wardHeader + "\n1,1,x,2,3,1\n\n\n2,1,x,2,3,0\n", []float64{1, 2, 3, 0, 0, 2, 2, 3, 0, 0}, []float64{1, 0}, []int{4, 7}},
		{"quotes", ward, wardHeader + "\"1\",1,\"a \"\"b\"\", c\nd\",2,3,1\n2,1,,2,3,0\n", []float64{1, 2, 3, 0, 0, 2, 2, 3, 0, 0}, []float64{1, 0}, []int{2, 4}},
		{"quoted header", ward, `"age","site","note",gene_1,gene_2,"ill"` + "\n1,1,x,2,3,1\n", []float64{1, 2, 3, 0, 0}, []float64{1}, []int{2}},
		{
			"rows dropped", dropping(), "1,1,x,2,3,1\n?,1,x,2,3,1\n1,?,x,2,3,1\n1,1,x,2,,1\n1,1,x,2,3, ? \n2,1,?,2,3,0\n",
			[]float64{1, 2, 3, 0, 0, 2, 2, 3, 0, 0},
			[]float64{1, 0},
			[]int{1, 6},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			set, err := dataset.Read(strings.NewReader(c.file), "ward.csv", schema(t, c.schema))
			if err != nil {
				t.Fatalf("Read = %v, want no error", err)
			}
			if diff := cmp.Diff(set.Names, names); diff != "" {
				t.Errorf("names (-got +want):\n%s", diff)
			}
			if diff := cmp.Diff(set.Features, c.features); diff != "" {
				t.Errorf("features (-got +want):\n%s", diff)
			}
			if diff := cmp.Diff(set.Labels, c.labels); diff != "" {
				t.Errorf("labels (-got +want):\n%s", diff)
			}
			if diff := cmp.Diff(set.Lines, c.lines); diff != "" {
				t.Errorf("lines (-got +want):\n%s", diff)
			}
			if set.Rows() != len(c.labels) || set.Columns() != len(names) {
				t.Errorf("%d rows of %d columns, want %d of %d", set.Rows(), set.Columns(), len(c.labels), len(names))
			}
			if row := set.Row(set.Rows() - 1); len(row) != 5 || cap(row) != 5 || row[0] != c.features[len(c.features)-5] {
				t.Errorf("last row = %v with room for %d, want the last five features alone", row, cap(row))
			}
		})
	}
}

// secret stands in the files below where a value of a patient's would: no error may repeat it.
const secret = "41.8173e2"

// TestReadRefuses: each fault of a file is named with file, line and column.
func TestReadRefuses(t *testing.T) {
	good := wardHeader + "1,1,x,2,3,1\n"
	for _, c := range []struct{ name, file, want string }{
		{"empty file", "", "ward.csv: has no record that the schema lets in"},
		{"header alone", wardHeader, "ward.csv: has no record that the schema lets in"},
		{"no header", secret + ",1,x,2,3,1\n", "ward.csv: line 1: column 1 of the header is not age"},
		{"column missing in the middle", "age,note,gene_1,gene_2,ill\n1,x,2,3,1\n", "ward.csv: line 1: column 2 of the header is not site"},
		{"column missing at the end", "age,site,note,gene_1,gene_2\n1,1,x,2,3\n", "ward.csv: line 1: 5 columns, want 6: column 6 (ill) is missing"},
		{"column too many", "age,site,note,gene_1,gene_2,ill,more\n", "ward.csv: line 1: 7 columns, want 6: the schema knows none behind ill"},
		{"columns in another order", "site,age,note,gene_1,gene_2,ill\n", "ward.csv: line 1: column 1 of the header is not age"},
		{"name in capitals", "Age,site,note,gene_1,gene_2,ill\n", "ward.csv: line 1: column 1 of the header is not age"},
		{"short row", good + "1,1,x," + secret + "\n", "ward.csv: line 3: 4 columns, want 6: column 5 (gene_2) is missing"},
		{"long row", good + "1,1,x,2,3,1," + secret + "\n", "ward.csv: line 3: 7 columns, want 6"},
		{"row of spaces", good + "  \n", "ward.csv: line 3: 1 columns, want 6: column 2 (site) is missing"},
		{"semicolons", good + "1;1;x;2;3;" + secret + "\n", "ward.csv: line 3: 1 columns, want 6"},
		{"word for a number", good + "1,1,x,high,3,1\n", "ward.csv: line 3: column 4 (gene_1): not a number"},
		{"word in the second of the line", good + "\n" + "1,1,x,2," + secret + "mg,1\n", "ward.csv: line 4: column 5 (gene_2): not a number"},
		{"NaN", good + "NaN,1,x,2,3,1\n", "ward.csv: line 3: column 1 (age): not a number"},
		{"nan", good + "nan,1,x,2,3,1\n", "ward.csv: line 3: column 1 (age): not a number"},
		{"Inf", good + "Inf,1,x,2,3,1\n", "ward.csv: line 3: column 1 (age): not a number"},
		{"-infinity", good + "-infinity,1,x,2,3,1\n", "ward.csv: line 3: column 1 (age): not a number"},
		{"beyond float64", good + "1e999,1,x,2,3,1\n", "ward.csv: line 3: column 1 (age): not a number"},
		{"hexadecimal", good + "0x10,1,x,2,3,1\n", "ward.csv: line 3: column 1 (age): not a number"},
		{"underscore", good + "1_000,1,x,2,3,1\n", "ward.csv: line 3: column 1 (age): not a number"},
		{"comma for the point", good + "\"1,5\",1,x,2,3,1\n", "ward.csv: line 3: column 1 (age): not a number"},
		{"lone sign", good + "+,1,x,2,3,1\n", "ward.csv: line 3: column 1 (age): not a number"},
		{"digits of another script", good + "٣,1,x,2,3,1\n", "ward.csv: line 3: column 1 (age): not a number"},
		{"unknown level", good + "1,4,x,2,3,1\n", "ward.csv: line 3: column 2 (site): none of the schema's levels"},
		{"word for a level", good + "1,north,x,2,3,1\n", "ward.csv: line 3: column 2 (site): not a number"},
		{"word for a label", good + "1,1,x,2,3,yes\n", "ward.csv: line 3: column 6 (ill): not a number"},
		{"missing value", good + "1,1,x,,3,1\n", "ward.csv: line 3: column 4 (gene_1): value is missing: fill it in"},
		{"marker of a missing value", good + "1,1,x,2,3, ? \n", "ward.csv: line 3: column 6 (ill): value is missing"},
		{"quote within a field", good + secret + "\"7,1,x,2,3,1\n", "ward.csv: line 3, byte 10 of the line: bare \" in non-quoted-field"},
		{"quote that does not end", good + "1,1,\"" + secret + ",2,3,1\n", "ward.csv: line 3, byte "},
		{"text behind a quote", good + "1,1,\"x\"" + secret + ",2,3,1\n", "ward.csv: line 3, byte 7 of the line: extraneous or missing \""},
		{"text behind a quote, lines later", good + "1,1,\"x\ny\"" + secret + ",2,3,1\n", "ward.csv: line 4, byte 2 of the line: extraneous"},
		{"UTF-16, little endian", "\xff\xfea\x00g\x00e\x00", "ward.csv: is UTF-16 text: save it as UTF-8"},
		{"UTF-16, big endian", "\xfe\xff\x00a\x00g\x00e", "ward.csv: is UTF-16 text: save it as UTF-8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			set, err := dataset.Read(strings.NewReader(c.file), "ward.csv", schema(t, ward))
			if err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Fatalf("Read = %v, want an error that begins with %q", err, c.want)
			}
			if set != nil {
				t.Errorf("Read = %v beside an error, want nothing", set)
			}
			if strings.Contains(err.Error(), secret) {
				t.Errorf("Read = %v, which repeats what stands in the file", err)
			}
		})
	}
	if _, err := dataset.Read(strings.NewReader(good), "ward.csv", schema(t, ward)); err != nil {
		t.Errorf("Read of the good file = %v, want no error", err)
	}
	if _, err := dataset.Read(strings.NewReader(good), "ward.csv", dataset.Schema{}); err == nil {
		t.Error("Read under the zero schema = nil, want an error")
	}
	all := "?,1,x,2,3,1\n1,1,x,?,3,1\n"
	if _, err := dataset.Read(strings.NewReader(all), "ward.csv", schema(t, dropping())); err == nil || !strings.Contains(err.Error(), "no record") {
		t.Errorf("Read of rows that are all dropped = %v, want an error with %q", err, "no record")
	}
}

// TestReadBroken passes on the error of a source that breaks.
func TestReadBroken(t *testing.T) {
	broken := errors.New("input/output error")
	for _, text := range []string{"", "ag", wardHeader, wardHeader + "1,1,x,2,3,1\n1,"} {
		r := io.MultiReader(strings.NewReader(text), iotest.ErrReader(broken))
		if _, err := dataset.Read(r, "ward.csv", schema(t, ward)); !errors.Is(err, broken) {
			t.Errorf("Read of a file that breaks behind %q = %v, want its error", text, err)
		}
		r = io.MultiReader(strings.NewReader(strings.Replace(text, wardHeader, "line,set\n", 1)[:min(len(text), 9)]), iotest.ErrReader(broken))
		if _, err := dataset.ReadSplit(r, "split.csv"); !errors.Is(err, broken) {
			t.Errorf("ReadSplit of a file that breaks = %v, want its error", err)
		}
	}
}

func split(t testing.TB, text string) dataset.Split {
	t.Helper()
	s, err := dataset.ReadSplit(strings.NewReader(text), "split.csv")
	if err != nil {
		t.Fatalf("ReadSplit = %v, want no error", err)
	}
	return s
}

func TestSplit(t *testing.T) {
	file := wardHeader + "1,1,x,2,3,1\n2,2,x,2,3,0\n\n3,1,x,2,3,1\n"
	set, err := dataset.Read(strings.NewReader(file), "ward.csv", schema(t, ward))
	if err != nil {
		t.Fatal(err)
	}
	train, test, err := set.Split(split(t, "\ufeffline,set\r\n5,train\r\n3,test\r\n2,train\r\n"))
	if err != nil {
		t.Fatalf("Split = %v, want no error", err)
	}
	if diff := cmp.Diff([]any{train.Features, train.Labels, train.Lines, train.Names},
		[]any{[]float64{1, 2, 3, 0, 0, 3, 2, 3, 0, 0}, []float64{1, 1}, []int{2, 5}, set.Names}); diff != "" {
		t.Errorf("training set (-got +want):\n%s", diff)
	}
	if diff := cmp.Diff([]any{test.Features, test.Labels, test.Lines, test.Names},
		[]any{[]float64{2, 2, 3, 1, 0}, []float64{0}, []int{3}, set.Names}); diff != "" {
		t.Errorf("test set (-got +want):\n%s", diff)
	}
	train.Features[0], train.Lines[0] = 7, 7
	if set.Features[0] != 1 || set.Lines[0] != 2 {
		t.Error("a change of the training set shows in the whole, want memory of its own")
	}

	for _, c := range []struct{ name, split, want string }{
		{"record in no set", "line,set\n2,train\n3,test\n", "ward.csv: line 5 is a record that split.csv puts in no set"},
		{"line without a record", "line,set\n2,train\n3,test\n5,train\n9,test\n6,test\n8,test\n4,test\n10,test\n7,test\n12,test\n11,test\n", "split.csv: names line 4, which ward.csv has no record for"},
		{"lines moved", "line,set\n2,train\n3,test\n4,train\n", "ward.csv: line 5 is a record that split.csv puts in no set"},
	} {
		if _, _, err := set.Split(split(t, c.split)); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: Split = %v, want an error that begins with %q", c.name, err, c.want)
		}
	}
}

func TestReadSplitRefuses(t *testing.T) {
	for _, c := range []struct{ name, file, want string }{
		{"empty", "", "split.csv: names no line"},
		{"header alone", "line,set\n", "split.csv: names no line"},
		{"no header", "1,train\n", "split.csv: line 1: want the header line,set"},
		{"another header", "line,part\n1,train\n", "split.csv: line 1: want the header line,set"},
		{"header of three", "line,set,label\n1,train,1\n", "split.csv: line 1: want the header line,set"},
		{"one column", "line,set\n1\n", "split.csv: line 2: 1 columns, want line and set"},
		{"three columns", "line,set\n1,train,1\n", "split.csv: line 2: 3 columns, want line and set"},
		{"word for a line", "line,set\n1,test\nfirst,train\n", "split.csv: line 3: column 1 (line): want a number from 1"},
		{"line 0", "line,set\n0,train\n", "split.csv: line 2: column 1 (line): want a number from 1"},
		{"line below 0", "line,set\n-1,train\n", "split.csv: line 2: column 1 (line): want a number from 1"},
		{"line beyond integers", "line,set\n99999999999999999999,train\n", "split.csv: line 2: column 1 (line): want a number from 1"},
		{"unknown set", "line,set\n1,validation\n", "split.csv: line 2: column 2 (set): want train or test"},
		{"set in capitals", "line,set\n1,Train\n", "split.csv: line 2: column 2 (set): want train or test"},
		{"a line twice", "line,set\n1,train\n2,test\n1,train\n", "split.csv: line 4: names line 1 a second time"},
		{"quote", "line,set\n1,tr\"ain\n", "split.csv: line 2, byte 5 of the line: bare \""},
		{"UTF-16", "\xff\xfel\x00", "split.csv: is UTF-16 text"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := dataset.ReadSplit(strings.NewReader(c.file), "split.csv"); err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("ReadSplit = %v, want an error that begins with %q", err, c.want)
			}
		})
	}
}

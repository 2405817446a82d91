package entry_test

import (
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"consilium.dev/internal/entry"
)

// TestBlobs finds every blob in every kind of fact by reflection: one that Blobs did not return would be deleted.
func TestBlobs(t *testing.T) {
	for kind, f := range facts() {
		var want []entry.Blob
		var walk func(v reflect.Value)
		walk = func(v reflect.Value) {
			if b, ok := v.Interface().(entry.Blob); ok {
				want = append(want, b)
				return
			}
			switch v.Kind() {
			case reflect.Pointer:
				if !v.IsNil() {
					walk(v.Elem())
				}
			case reflect.Struct:
				for i := range v.NumField() {
					if v.Type().Field(i).IsExported() {
						walk(v.Field(i))
					}
				}
			case reflect.Slice:
				for i := range v.Len() {
					walk(v.Index(i))
				}
			}
		}
		walk(reflect.ValueOf(f))
		less := func(a, b entry.Blob) bool { return a.Sealed.String() < b.Sealed.String() }
		if diff := cmp.Diff(want, entry.Blobs(f), cmpopts.SortSlices(less), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("Blobs(%s) (-want +got):\n%s", kind, diff)
		}
	}
}

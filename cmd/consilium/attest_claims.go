package main

import (
	"encoding/hex"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/jedib0t/go-pretty/v6/table"

	"consilium.dev/internal/attest"
)

// A claim is one field of claims, under its path.
type claim struct{ path, value string }

// claimsOf lists every field of claims, in the order in which package attest declares them; a platform that is added there is
// shown here. JSON has the same names, one group in another.
func claimsOf(c *attest.Claims) []claim {
	var all []claim
	walkClaims(reflect.ValueOf(*c), "", func(path string, value any) {
		all = append(all, claim{path, fmt.Sprint(value)})
	})
	return all
}

// jsonClaims returns claims for programs: bytes in hex, instants in RFC 3339, fields in lower case with underscores.
func jsonClaims(c *attest.Claims) map[string]any {
	document := map[string]any{}
	walkClaims(reflect.ValueOf(*c), "", func(path string, value any) {
		at := document
		names := strings.Split(path, ".")
		for _, name := range names[:len(names)-1] {
			if at[name] == nil {
				at[name] = map[string]any{}
			}
			at = at[name].(map[string]any)
		}
		at[names[len(names)-1]] = value
	})
	return document
}

// walkClaims calls leaf for every field below v that is not a group, with a bool, a number, a text or a list of texts.
func walkClaims(v reflect.Value, path string, leaf func(path string, value any)) {
	below := func(name string) string { return strings.TrimPrefix(path+"."+name, ".") }
	switch value := v.Interface().(type) {
	case time.Time:
		if !value.IsZero() {
			leaf(path, value.UTC().Format(time.RFC3339Nano))
		}
		return
	case attest.Type:
		leaf(path, value.String())
		return
	case map[int][]byte:
		for _, index := range slices.Sorted(maps.Keys(value)) {
			leaf(below(strconv.Itoa(index)), hex.EncodeToString(value[index]))
		}
		return
	case attest.Collateral: // bytes, which are shown where they lie
		return
	case []attest.Number:
		var all []string
		for _, n := range value {
			all = append(all, n.Name+" "+n.Number)
		}
		if all != nil {
			leaf(path, all)
		}
		return
	case []string:
		leaf(path, append([]string{}, value...))
		return
	case uint64: // bits
		leaf(path, fmt.Sprintf("%#x", value))
		return
	}
	switch kind := v.Kind(); kind {
	case reflect.Pointer:
		if !v.IsNil() {
			walkClaims(v.Elem(), path, leaf)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			walkClaims(v.Field(i), below(snake(v.Type().Field(i).Name)), leaf)
		}
	case reflect.Array, reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			leaf(path, hexOf(v))
			return
		}
		for i := range v.Len() {
			walkClaims(v.Index(i), below(strconv.Itoa(i)), leaf)
		}
	default:
		leaf(path, v.Interface())
	}
}

func hexOf(v reflect.Value) string {
	raw := make([]byte, v.Len())
	for i := range raw {
		raw[i] = byte(v.Index(i).Uint())
	}
	return hex.EncodeToString(raw)
}

// snake spells a Go name in lower case with underscores: GuestSVN is guest_svn, PCRs is pcrs.
func snake(name string) string {
	runes := []rune(strings.ReplaceAll(name, "PCRs", "Pcrs"))
	var out strings.Builder
	for i, r := range runes {
		after := i > 0 && (unicode.IsLower(runes[i-1]) || unicode.IsDigit(runes[i-1]))
		begins := i > 0 && i+1 < len(runes) && unicode.IsLower(runes[i+1])
		if unicode.IsUpper(r) && (after || begins) {
			out.WriteByte('_')
		}
		out.WriteRune(unicode.ToLower(r))
	}
	return out.String()
}

func claimsTable(c *attest.Claims) table.Writer {
	t := newTable("FIELD", "VALUE")
	for _, one := range claimsOf(c) {
		t.AppendRow(table.Row{one.path, name(one.value)})
	}
	return t
}

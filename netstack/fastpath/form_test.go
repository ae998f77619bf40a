//go:build linux

package fastpath

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/natless/natless/tests/layout"
)

// TestForm: pinned maps, and what lies in them, have another form only under another
// Layout: a natlessd that adopts those of another version would have programs that read
// what was never written.
func TestForm(t *testing.T) {
	spec, err := loadProgram()
	if err != nil {
		t.Fatal(err)
	}
	var form strings.Builder
	fmt.Fprintf(&form, "inner maps of flows: %s\n", flowPins)
	types := map[string]btf.Type{}
	for _, name := range slices.Sorted(maps.Keys((&programMaps{}).byName())) {
		m := spec.Maps[name]
		if m == nil {
			t.Fatalf("no map %s", name)
		}
		fmt.Fprintf(&form, "map %s\n", mapForm(m))
		gather(types, m.Key)
		gather(types, m.Value)
	}
	for _, name := range []string{"key6", "entry6", "key4", "entry4", "entry_inside", "line", "key_port", "traffic", "flow_key", "flow_sum", "reason"} { // of inner maps
		found, err := spec.Types.AnyTypesByName(name)
		if err != nil {
			t.Fatalf("type %s: %v", name, err)
		}
		gather(types, found[0])
	}
	for _, name := range slices.Sorted(maps.Keys(types)) {
		form.WriteString(typeForm(t, types[name]))
	}
	form.WriteString(constants(t))
	layout.Hold(t, "testdata/layout.txt", strconv.Itoa(Layout), form.String())
}

// mapForm is a map in a line.
func mapForm(m *ebpf.MapSpec) string {
	text := fmt.Sprintf("%s: %s, key %d, value %d, entries %d, flags %#x", m.Name, m.Type, m.KeySize, m.ValueSize, m.MaxEntries, m.Flags)
	if m.InnerMap != nil {
		text += " of " + mapForm(m.InnerMap)
	}
	return text
}

// gather finds the types that have names, and what those are made of.
func gather(all map[string]btf.Type, t btf.Type) {
	if t == nil {
		return
	}
	t = btf.UnderlyingType(t)
	switch v := t.(type) {
	case *btf.Array:
		gather(all, v.Type)
	case *btf.Enum:
		all[v.Name] = v
	case *btf.Struct:
		all[v.Name] = v
		for _, m := range v.Members {
			gather(all, m.Type)
		}
	case *btf.Union:
		for _, m := range v.Members {
			gather(all, m.Type)
		}
	}
}

func typeForm(t *testing.T, is btf.Type) string {
	var out strings.Builder
	size, err := btf.Sizeof(is)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&out, "%s: %d bytes\n", is.TypeName(), size)
	switch v := is.(type) {
	case *btf.Enum:
		for _, e := range v.Values {
			fmt.Fprintf(&out, "\t%s = %d\n", e.Name, e.Value)
		}
	case *btf.Struct:
		for _, m := range v.Members {
			fmt.Fprintf(&out, "\t%s at %d: %s\n", m.Name, m.Offset.Bytes(), memberForm(m.Type))
		}
	}
	return out.String()
}

func memberForm(t btf.Type) string {
	switch v := btf.UnderlyingType(t).(type) {
	case *btf.Array:
		return fmt.Sprintf("%d of %s", v.Nelems, memberForm(v.Type))
	case *btf.Int:
		return fmt.Sprintf("%d bytes", v.Size)
	case *btf.Union:
		text := "union"
		for _, m := range v.Members {
			text += " " + m.Name + " " + memberForm(m.Type)
		}
		return text
	default:
		return v.TypeName()
	}
}

// constants are those that BTF does not have: what values stand for.
func constants(t *testing.T) string {
	text, err := os.ReadFile("bpf/layout.h")
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, m := range regexp.MustCompile(`\b([A-Z][A-Z0-9_]+) = ([^,}\n]+?)\s*[,}]`).FindAllStringSubmatch(string(text), -1) {
		if m[1] != "LAYOUT" {
			fmt.Fprintf(&out, "%s = %s\n", m[1], m[2])
		}
	}
	return out.String()
}

package server

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/go-cmp/cmp"
	"github.com/natless/natless/config/api"
)

// TestDescribedRoutes: what the server answers and what the description says
// are the same routes with the same parameters.
func TestDescribedRoutes(t *testing.T) {
	described := map[string][]string{}
	for path, item := range document(t).Paths.Map() {
		for method, op := range item.Operations() {
			query := []string{}
			for _, p := range op.Parameters {
				if p.Value.In == "query" {
					query = append(query, p.Value.Name)
				}
			}
			slices.Sort(query)
			described[method+" "+path] = query
		}
	}
	served := map[string][]string{}
	for _, r := range new(Server).routes() {
		served[r.pattern] = slices.Sorted(slices.Values(append([]string{}, r.query...)))
		if served[r.pattern] == nil {
			served[r.pattern] = []string{}
		}
	}
	if d := cmp.Diff(described, served); d != "" {
		t.Errorf("described (-) and served (+) differ:\n%s", d)
	}
}

// TestDescribedFields: the Go types and the schemas have the same fields, and
// what a schema requires is never left out.
func TestDescribedFields(t *testing.T) {
	doc := document(t)
	types := map[string]reflect.Type{}
	collect(types, reflect.TypeFor[api.Page](), reflect.TypeFor[api.Owners](), reflect.TypeFor[api.Explanation](), reflect.TypeFor[api.Pools](), reflect.TypeFor[api.Drains](), reflect.TypeFor[api.Blocks](), reflect.TypeFor[api.BlockSet](), reflect.TypeFor[api.Relay](), reflect.TypeFor[api.RuleSet](), reflect.TypeFor[api.RuleDelta](), reflect.TypeFor[api.Policies](),
		reflect.TypeFor[api.Status](), reflect.TypeFor[api.Health](), reflect.TypeFor[api.Problem](), reflect.TypeFor[api.Seen](), reflect.TypeFor[api.SeenFlow]())
	for name, schema := range doc.Components.Schemas {
		if typ := types[name]; typ != nil {
			compareFields(t, name, typ, schema.Value)
		} else if schema.Value.Type.Is("object") && name != "PortRange" { // translator/ports writes it
			t.Errorf("schema %s has no Go type", name)
		}
		delete(types, name)
	}
	for name := range types {
		t.Errorf("type %s has no schema", name)
	}
	var codes []string
	for code := range statuses {
		codes = append(codes, string(code))
	}
	var described []string
	for _, c := range doc.Components.Schemas["Problem"].Value.Properties["code"].Value.Enum {
		described = append(described, c.(string))
	}
	slices.Sort(codes)
	slices.Sort(described)
	if d := cmp.Diff(described, codes); d != "" {
		t.Errorf("described (-) and used (+) codes differ:\n%s", d)
	}
}

// collect gathers the structs of package api that the types consist of.
func collect(into map[string]reflect.Type, types ...reflect.Type) {
	for _, t := range types {
		switch t.Kind() {
		case reflect.Slice, reflect.Pointer, reflect.Map:
			collect(into, t.Elem())
		case reflect.Struct:
			if t.PkgPath() != reflect.TypeFor[api.Page]().PkgPath() || t == reflect.TypeFor[api.Key]() || into[t.Name()] != nil {
				continue
			}
			into[t.Name()] = t
			for i := range t.NumField() {
				collect(into, t.Field(i).Type)
			}
		}
	}
}

func compareFields(t *testing.T, name string, typ reflect.Type, schema *openapi3.Schema) {
	t.Helper()
	want := map[string]bool{} // whether it is always there
	for _, f := range reflect.VisibleFields(typ) {
		tag, ok := f.Tag.Lookup("json")
		if field, options, _ := strings.Cut(tag, ","); ok && field != "-" {
			want[field] = !strings.Contains(options, "omit")
		}
	}
	got := map[string]bool{}
	for field, property := range schema.Properties {
		got[field] = slices.Contains(schema.Required, field)
		if property.Value.Type == nil {
			t.Errorf("%s.%s has no type", name, field)
		}
	}
	if d := cmp.Diff(got, want); d != "" {
		t.Errorf("%s: described (-) and Go's (+) fields differ:\n%s", name, d)
	}
}

// TestTypesAnswerTheirSchema fills nothing: what is empty must still be valid.
func TestTypesAnswerTheirSchema(t *testing.T) {
	for name, v := range map[string]any{"Status": fullStatus(), "Reload": api.Reload{}} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var generic any
		json.Unmarshal(b, &generic)
		if err := document(t).Components.Schemas[name].Value.VisitJSON(generic); err != nil {
			t.Errorf("%s %s: %v", name, b, err)
		}
	}
}

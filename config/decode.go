package config

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// decoder fills structs from the nodes of a YAML file. It is our own because
// the library's stops at the first error and forgets where values stood.
type decoder struct {
	file    string
	errs    Errors
	renamed []Renamed
}

// parse reads the nodes; nil is an empty file.
func (d *decoder) parse(data []byte) ast.Node {
	data = bytes.TrimPrefix(data, byteOrderMark)
	if wide := wideText(data); wide != "" {
		d.errs = append(d.errs, Error{File: d.file, Line: 1, Err: errors.New(wide)})
		return nil
	}
	file, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey()) // we find duplicates, all of them
	if err != nil {
		line := 0
		if e, ok := errors.AsType[yaml.Error](err); ok {
			err = errors.New(e.GetMessage())
			if tk := e.GetToken(); tk != nil {
				line = tk.Position.Line
			}
		}
		d.errs = append(d.errs, Error{File: d.file, Line: line, Err: err})
		return nil
	}
	var body ast.Node
	for _, doc := range file.Docs {
		switch {
		case doc.Body == nil || doc.Body.Type() == ast.NullType || doc.Body.Type() == ast.CommentType:
		case body != nil:
			d.fail(doc.Body, "", errors.New("a second document"))
		default:
			body = doc.Body
		}
	}
	return body
}

func (d *decoder) fail(n ast.Node, key string, err error) {
	d.errs = append(d.errs, Error{File: d.file, Line: line(n), Key: key, Err: err})
}

func line(n ast.Node) int {
	if m, ok := n.(*ast.MappingNode); ok && len(m.Values) > 0 && !m.IsFlowStyle {
		return line(m.Values[0]) // the token of a block is its first colon
	}
	if v, ok := n.(*ast.MappingValueNode); ok {
		return line(v.Key)
	}
	if tk := n.GetToken(); tk != nil {
		return tk.Position.Line
	}
	return 0
}

// value decodes n into v. key is where n stands, as in mappings[3].ipv6.
func (d *decoder) value(n ast.Node, key string, v reflect.Value) {
	_, isText := v.Addr().Interface().(encoding.TextUnmarshaler)
	switch {
	case n.Type() == ast.NullType && (v.Kind() == reflect.Struct && !isText || v.Kind() == reflect.Slice || v.Kind() == reflect.Map):
		// a key whose entries are all commented out
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(n, key, v.Elem())
	case v.Kind() == reflect.Struct && !isText:
		d.mapping(n, key, v)
	case v.Kind() == reflect.Map:
		d.names(n, key, v)
	case v.Kind() == reflect.Slice && !isText:
		d.list(n, key, v)
	default:
		d.scalar(n, key, v)
	}
}

func (d *decoder) mapping(n ast.Node, key string, v reflect.Value) {
	values, ok := entries(n)
	if !ok {
		d.fail(n, key, fmt.Errorf("must have keys and values: %s", strings.Join(keys(v.Type()), ", ")))
		return
	}
	given := map[string]bool{}
	for _, entry := range values {
		name := entry.Key.GetToken().Value
		path := join(key, name)
		i := slices.Index(keys(v.Type()), name)
		if i < 0 {
			if i = formerly(v.Type(), name); i >= 0 {
				now := v.Type().Field(i).Tag.Get("yaml")
				d.renamed = append(d.renamed, Renamed{File: d.file, Line: line(entry.Key), Old: path, New: join(key, now)})
				name = now
			}
		}
		switch {
		case i < 0:
			d.fail(entry.Key, path, fmt.Errorf("unknown key; there are %s", strings.Join(keys(v.Type()), ", ")))
		case given[name]:
			d.fail(entry.Key, path, errors.New("given twice"))
		default:
			given[name] = true
			d.value(entry.Value, path, v.Field(i))
		}
	}
	if c, ok := v.Addr().Interface().(interface{ setDefaults(map[string]bool) }); ok {
		c.setDefaults(given)
	}
}

// names decodes keys that are not ours.
func (d *decoder) names(n ast.Node, key string, v reflect.Value) {
	values, ok := entries(n)
	if !ok {
		d.fail(n, key, errors.New("must have names and values"))
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for _, entry := range values {
		name := reflect.ValueOf(entry.Key.GetToken().Value)
		path := join(key, name.String())
		if v.MapIndex(name).IsValid() {
			d.fail(entry.Key, path, errors.New("given twice"))
			continue
		}
		value := reflect.New(v.Type().Elem()).Elem()
		d.value(entry.Value, path, value)
		v.SetMapIndex(name, value)
	}
}

func (d *decoder) list(n ast.Node, key string, v reflect.Value) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok && v.Type() == reflect.TypeFor[Paths]() {
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		d.scalar(n, key, v.Index(0))
		return
	}
	if !ok {
		d.fail(n, key, errors.New("must be a list"))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values)))
	for i, item := range seq.Values {
		d.value(item, key+"["+strconv.Itoa(i)+"]", v.Index(i))
	}
}

func (d *decoder) scalar(n ast.Node, key string, v reflect.Value) {
	_, ok := n.(ast.ScalarNode)
	if !ok || n.Type() == ast.NullType || n.Type() == ast.MappingValueType || n.Type() == ast.AliasType || n.Type() == ast.AnchorType {
		d.fail(n, key, errors.New("must be a single value"))
		return
	}
	if err := setScalar(v, n.GetToken().Value); err != nil {
		d.fail(n, key, err)
	}
}

func setScalar(v reflect.Value, s string) (err error) {
	switch p := v.Addr().Interface().(type) {
	case *netip.Prefix:
		*p, err = parsePrefix(s)
	case *netip.Addr:
		*p, err = parseAddr(s)
	case *netip.AddrPort:
		if *p, err = netip.ParseAddrPort(s); err != nil {
			err = fmt.Errorf("%q is not an IP address with a port, such as 192.0.2.2:53 or [2001:db8::2]:53", s)
		}
	case encoding.TextUnmarshaler:
		err = p.UnmarshalText([]byte(s))
	case *time.Duration:
		if *p, err = time.ParseDuration(s); err != nil {
			err = fmt.Errorf("%q is not a duration such as 60s", s)
		}
	case *string:
		*p = s
	case *bool:
		if s != "true" && s != "false" {
			return fmt.Errorf("%q is neither true nor false", s)
		}
		*p = s == "true"
	case *int:
		if *p, err = strconv.Atoi(s); err != nil {
			err = fmt.Errorf("%q is not a whole number", s)
		}
	case *uint16:
		n, parseErr := strconv.ParseUint(s, 10, 16)
		if *p = uint16(n); parseErr != nil {
			err = fmt.Errorf("%q is not a number from 0 to 65535", s)
		}
	default:
		panic("config: no way to read a " + v.Type().String())
	}
	return err
}

// entries are the keys and values of a mapping; a single one is a node type of
// its own.
func entries(n ast.Node) ([]*ast.MappingValueNode, bool) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	}
	return nil, false
}

// keys are the names of a struct's fields in the file, in order. Fields that are
// not exported come last and have none.
func keys(t reflect.Type) (names []string) {
	for i := range t.NumField() {
		if f := t.Field(i); f.IsExported() {
			names = append(names, f.Tag.Get("yaml"))
		}
	}
	return names
}

// formerly is the field whose key had this name in an earlier release, or -1.
func formerly(t reflect.Type, name string) int {
	for i := range t.NumField() {
		if was := t.Field(i).Tag.Get("was"); was != "" && was == name {
			return i
		}
	}
	return -1
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

// locate is the node at key, or the nearest around it that the file has.
func locate(n ast.Node, key string) ast.Node {
	for part := range strings.FieldsFuncSeq(key, func(r rune) bool { return strings.ContainsRune(".[]", r) }) {
		next := child(n, part)
		if next == nil {
			break
		}
		n = next
	}
	return n
}

func child(n ast.Node, part string) ast.Node {
	if seq, ok := n.(*ast.SequenceNode); ok {
		if i, err := strconv.Atoi(part); err == nil && i < len(seq.Values) {
			return seq.Values[i]
		}
		return nil
	}
	values, _ := entries(n)
	for _, entry := range values {
		if entry.Key.GetToken().Value == part {
			return entry.Value
		}
	}
	return nil
}

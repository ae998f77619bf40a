package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/natless/natless/config/api"
)

// decodeRequest reads a request strictly. It goes field by field, since an
// error of encoding/json does not always say which one it is about.
func decodeRequest(body io.Reader) (q api.Request, err error) {
	b, err := io.ReadAll(body)
	if err != nil {
		return q, err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil {
		return q, invalid("body", "is not a JSON object: "+err.Error())
	}
	for name, value := range fields {
		if err := decodeField(&q, name, value); err != nil {
			return q, err
		}
	}
	return q, nil
}

func decodeField(q *api.Request, name string, value json.RawMessage) error {
	switch name {
	case "name":
		return one(name, value, &q.Name)
	case "network":
		return one(name, value, &q.Network)
	case "netns":
		return one(name, value, &q.Netns)
	case "host_interface":
		return one(name, value, &q.HostInterface)
	case "ipv6":
		return list(name, value, &q.IPv6)
	case "pool":
		return one(name, value, &q.Pool)
	case "ports":
		return one(name, value, &q.Ports)
	case "address":
		return one(name, value, &q.Address)
	case "inside":
		return one(name, value, &q.Inside)
	case "extra_ports":
		return list(name, value, &q.ExtraPorts)
	case "labels":
		return one(name, value, &q.Labels)
	}
	return invalid(name, "is not a field of a request")
}

func one[T any](name string, value json.RawMessage, to *T) error {
	err := json.Unmarshal(value, to)
	var kind *json.UnmarshalTypeError
	if errors.As(err, &kind) {
		return invalid(name, fmt.Sprintf("is a %s where a %s belongs", kind.Value, kind.Type))
	}
	if err != nil {
		return invalid(name, err.Error())
	}
	return nil
}

func list[T any](name string, value json.RawMessage, to *[]T) error {
	var parts []json.RawMessage
	if err := one(name, value, &parts); err != nil {
		return invalid(name, "is not a list")
	}
	*to = make([]T, len(parts))
	for i, part := range parts {
		if err := one(fmt.Sprintf("%s[%d]", name, i), part, &(*to)[i]); err != nil {
			return err
		}
	}
	return nil
}

// decodeSet reads a whole set of something into what into points to, which knows all of
// its fields.
func decodeSet(body io.Reader, into any, of string) error {
	b, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return invalid("body", "is not a set of "+of+": "+err.Error())
	}
	if _, err := d.Token(); err != io.EOF {
		return invalid("body", "has something behind the set of "+of)
	}
	return nil
}

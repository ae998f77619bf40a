//go:build linux

package main

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/natless/natless/cmd/internal/conflist"
)

func TestAnnotated(t *testing.T) {
	all := conflist.Annotations
	for _, c := range []struct {
		annotations map[string]string
		heeded      []string
		want        wishes
		problem     string
	}{
		{nil, nil, wishes{}, ""},
		{map[string]string{"example.com/ports": "x", "natless.io": "x", "xnatless.io/ports": "x"}, nil, wishes{}, ""},
		{map[string]string{"natless.io/pool": "web", "natless.io/ports": "1024", "natless.io/ipv4": "inside"}, all, wishes{Pool: "web", Ports: 1024, IPv4: "inside"}, ""},
		{map[string]string{"natless.io/ipv4": "none"}, []string{"ipv4"}, wishes{IPv4: "none"}, ""},
		{map[string]string{"natless.io/publish": "443"}, all, wishes{ExtraPorts: []uint16{443}}, ""},
		{map[string]string{"natless.io/publish": "8000-8001, 443"}, all, wishes{ExtraPorts: []uint16{443, 8000, 8001}}, ""},
		{map[string]string{"natless.io/publish": "8001,8000-8001"}, all, wishes{}, "must not overlap"},
		{map[string]string{"natless.io/publish": "1-64"}, all, wishes{ExtraPorts: slices.Collect(first(64))}, ""},
		{map[string]string{"natless.io/publish": "1-65"}, all, wishes{}, "1 to 64 ports"},
		{map[string]string{"natless.io/publish": "0-5"}, all, wishes{}, "from 1 to 65535"},
		{map[string]string{"natless.io/publish": "65536"}, all, wishes{}, "such as 443,8000-8003"},
		{map[string]string{"natless.io/publish": "http"}, all, wishes{}, "such as 443,8000-8003"},
		{map[string]string{"natless.io/publish": "443,,"}, all, wishes{}, "such as 443,8000-8003"},
		{map[string]string{"natless.io/publish": " "}, all, wishes{}, "is empty"},
		{map[string]string{"natless.io/ports": "0"}, all, wishes{}, "is not a number of ports"},
		{map[string]string{"natless.io/ports": "-4"}, all, wishes{}, "is not a number of ports"},
		{map[string]string{"natless.io/ports": "1e3"}, all, wishes{}, "is not a number of ports"},
		{map[string]string{"natless.io/ports": "65537"}, all, wishes{}, "65537 is not between"},
		{map[string]string{"natless.io/ipv4": "yes"}, all, wishes{}, "none of inside, prefix, none"},
		{map[string]string{"natless.io/Ports": "64"}, all, wishes{}, "there is no such annotation"},
		{map[string]string{"natless.io/": "64"}, all, wishes{}, "there is no such annotation"},
		{map[string]string{"natless.io/publish": "443"}, []string{"ports", "pool"}, wishes{}, "does not heed it"},
	} {
		got, err := annotated(c.annotations, c.heeded)
		if c.problem != "" {
			key := slices.Collect(maps.Keys(c.annotations))[0]
			if err == nil || !strings.Contains(err.Error(), c.problem) || !strings.Contains(err.Error(), "annotation "+key+":") {
				t.Errorf("%v: %v, want %q, and the annotation named", c.annotations, err, c.problem)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v: %+v %v, want %+v", c.annotations, got, err, c.want)
		}
	}
}

func first(n uint16) func(func(uint16) bool) {
	return func(yield func(uint16) bool) {
		for p := uint16(1); p <= n && yield(p); p++ {
		}
	}
}

// TestEveryAnnotationIsRead: those that may be heeded are those that there are.
func TestEveryAnnotationIsRead(t *testing.T) {
	if got := slices.Sorted(maps.Keys(annotations)); !slices.Equal(got, conflist.Annotations) {
		t.Errorf("read are %v, to be heeded %v", got, conflist.Annotations)
	}
}

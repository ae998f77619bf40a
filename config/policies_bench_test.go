package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// BenchmarkLoadPolicies reads a hundred thousand networks in a thousand rules.
func BenchmarkLoadPolicies(b *testing.B) {
	var s strings.Builder
	s.WriteString("policies:\n")
	for p := range 40 {
		fmt.Fprintf(&s, "  - name: p%d\n    tier: Admin\n    priority: %d\n    subject: {labels: {app: web}}\n    egress:\n", p, p)
		for r := range 25 {
			fmt.Fprintf(&s, "      - name: r%d\n        action: Accept\n        to: [{networks: [", r)
			for n := range 100 {
				a := p*2500 + r*100 + n
				fmt.Fprintf(&s, "%d.%d.%d.0/24, ", 20+a>>16, a>>8&255, a&255)
			}
			s.WriteString("]}]\n        protocols: [{tcp: {destinationPort: {number: 443}}}]\n")
		}
	}
	dir := b.TempDir()
	main := filepath.Join(dir, "natless.yaml")
	for name, text := range map[string]string{main: least + "policies_file: more.yaml\n", filepath.Join(dir, "more.yaml"): s.String()} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(s.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Load(main); err != nil {
			b.Fatal(err)
		}
	}
}

//go:build linux

package route

import (
	"net/netip"
	"testing"
)

// BenchmarkIdle is what an idle manager with 256 proxy neighbours does every
// proxyPeriod, and what a notification costs.
func BenchmarkIdle(b *testing.B) {
	l := newLab(b)
	d := example()
	d.Mapped4 = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	l.start(d)
	l.host.Do(func() {
		k, err := openKernel("natless0", defaultSysctlDir)
		if err != nil {
			b.Error(err)
			return
		}
		defer k.close()
		b.Run("proxies", func(b *testing.B) {
			for b.Loop() {
				if p, err := k.proxies(); err != nil || len(p) != 257 {
					b.Fatal(len(p), err)
				}
			}
		})
		b.Run("observe", func(b *testing.B) {
			for b.Loop() {
				if _, err := k.observe(d); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
}

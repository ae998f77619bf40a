// Package translator turns IPv6 packets into IPv4 packets and back, stateless
// (RFC 7915, 6052, 7757, 7599, 4884, 6791). Bytes in, bytes out: no I/O, no
// clock of its own, no goroutine and no allocation may enter here.
package translator

import (
	"net/netip"
	"sync/atomic"

	"github.com/natless/natless/translator/mapping"
)

// UDPZeroChecksum says what to do with IPv4 UDP without a checksum
// (RFC 7915 4.5, RFC 6936).
type UDPZeroChecksum uint8

// The four ways, as the config key udp_zero_checksum names them.
const (
	RejectZeroChecksum UDPZeroChecksum = iota
	DropZeroChecksum
	CalculateZeroChecksum
	ForwardZeroChecksum
)

// Config is how packets are translated. The zero value of a field is its
// default where one is named.
type Config struct {
	IPv4, IPv6               netip.Addr   // the translator's own addresses
	ICMPSource4, ICMPSource6 netip.Prefix // sources for errors from untranslatable hops (RFC 6791); optional
	MTU4, MTU6               int          // next-hop MTU of each side; default 1500
	LowestMTU6               int          // longest IPv6 packet made from IPv4 with DF=0; default 1280
	UDPZeroChecksum          UDPZeroChecksum
	ZeroTrafficClass         bool // traffic class and TOS become 0 instead of being copied
	AllowNonGlobal           bool // private IPv4 under 64:ff9b::/96
	ErrorRate, ErrorBurst    int  // ICMP errors of ours a second, per family; default 100 and 50
	Key                      [16]byte
}

// Translator is the configuration and the table that any number of workers
// read. It is safe for concurrent use.
type Translator struct {
	snapshot atomic.Pointer[snapshot]
}

type snapshot struct {
	config Config
	table  *mapping.Table
}

// New makes a translator.
func New(c Config, table *mapping.Table) (*Translator, error) { return nil, nil }

// Reload swaps configuration and table in at once. On an error nothing changes.
func (t *Translator) Reload(c Config, table *mapping.Table) error { return nil }

// Edit replaces the table by what edit makes of it. Edits and reloads are
// ordered among themselves.
func (t *Translator) Edit(edit func(*mapping.Table) (*mapping.Table, error)) error { return nil }

// Table is the current table.
func (t *Translator) Table() *mapping.Table { return nil }

// Config is the current configuration.
func (t *Translator) Config() Config { return Config{} }

// NewWorker makes what one loop needs to translate. A worker belongs to one
// goroutine at a time.
func (t *Translator) NewWorker() *Worker { return nil }

// Worker translates packets for one loop.
type Worker struct{}

// SetTime tells the worker the time, in nanoseconds of any steady clock. Call
// it once a batch.
func (w *Worker) SetTime(now int64) {}

// Translate rewrites p in place and says what became of it.
func (w *Worker) Translate(p *Packet) Verdict { return 0 }

// Fragments says that the packet just translated (Forward6) is too long for
// the IPv6 side and must be written as the packets that NextFragment makes.
func (w *Worker) Fragments() bool { return false }

// NextFragment copies the next fragment of p into dst, from dst.Buf[Headroom]
// on, and says whether there was one. dst.Buf must hold Headroom, LowestMTU6
// and Tailroom bytes.
func (w *Worker) NextFragment(p, dst *Packet) bool { return false }

// NextHeld translates, into dst, the next fragment that was held for the
// packet just translated (fragments that came before their first), and gives
// its verdict. dst.Buf must hold 65535 bytes besides Headroom and Tailroom.
func (w *Worker) NextHeld(dst *Packet) (v Verdict, ok bool) { return 0, false }

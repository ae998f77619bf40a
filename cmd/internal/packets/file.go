package packets

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/natless/natless/cmd/internal/explain"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/translator"
)

// The two interfaces of a file: what came from the device, and what went there.
const (
	inside = iota
	outside
)

// File writes packets as pcapng (draft-ietf-opsawg-pcapng): each packet as it
// came on one interface, and as it went on on another, both with one packet
// identifier and a comment that says what was done.
type File struct {
	w       *pcapgo.NgWriter
	size    int64 // of all that was written, flushed or not
	start   time.Time
	written [2]uint64
	packets uint64
}

// NewFile writes the beginning of a file.
func NewFile(w io.Writer, hello api.Hello, filter string, snap int) (*File, error) {
	f := &File{start: time.Now()}
	head := counting{w, 0}
	side := func(name, description string) pcapgo.NgInterface {
		return pcapgo.NgInterface{Name: hello.Device + " " + name, Description: description, OS: "Linux",
			LinkType: layers.LinkTypeRaw, SnapLength: uint32(snap), TimestampResolution: 9}
	}
	section := pcapgo.NgSectionInfo{Application: "natless " + hello.Version, OS: "Linux", Comment: strings.Join(hello.Notes, "\n")}
	if filter != "" {
		section.Comment = strings.TrimSpace("filter: " + filter + "\n" + section.Comment)
	}
	var err error
	f.w, err = pcapgo.NewNgWriterInterface(&head, side("in", "packets as they came to the translator"),
		pcapgo.NgWriterOptions{SectionInfo: section})
	if err == nil {
		_, err = f.w.AddInterface(side("out", "packets as they left it"))
	}
	if err == nil {
		err = f.w.Flush()
	}
	f.size = head.n
	return f, err
}

// counting counts bytes.
type counting struct {
	io.Writer
	n int64
}

func (c *counting) Write(b []byte) (int, error) {
	n, err := c.Writer.Write(b)
	c.n += int64(n)
	return n, err
}

// Write adds a packet.
func (f *File) Write(e *api.Event, in, out []byte) error {
	comment := Comment(e)
	f.packets++
	if err := f.side(inside, pcapgo.NgEpbFlagDirectionInbound, e, e.In, in, comment); err != nil {
		return err
	}
	return f.side(outside, pcapgo.NgEpbFlagDirectionOutbound, e, e.Out, out, comment)
}

func (f *File) side(index int, direction pcapgo.NgEpbFlag, e *api.Event, s *api.Side, data []byte, comment string) error {
	if s == nil {
		return nil
	}
	f.written[index]++
	f.size += blockSize(len(data), comment)
	return f.w.WritePacketWithOptions(
		gopacket.CaptureInfo{Timestamp: e.Time, CaptureLength: len(data), Length: max(s.Length, len(data)), InterfaceIndex: index}, data,
		pcapgo.NgPacketOptions{Comments: []string{comment}, Flags: &pcapgo.NgEpbFlags{Direction: direction}, PacketID: &f.packets})
}

// blockSize is how long a packet's block is: its head and tail, the packet, and
// the options for comment, flags, packet identifier and their end.
func blockSize(data int, comment string) int64 {
	pad := func(n int) int64 { return int64(n+3) &^ 3 }
	return 32 + pad(data) + 4 + pad(len(comment)) + 8 + 12 + 4
}

// Room reports whether the packet, and the end of the file, fit into limit bytes.
func (f *File) Room(e *api.Event, in, out []byte, limit int64) bool {
	comment, size := Comment(e), int64(2*(24+4*12+4))
	if e.In != nil {
		size += blockSize(len(in), comment)
	}
	if e.Out != nil {
		size += blockSize(len(out), comment)
	}
	return f.size+size <= limit
}

// Flush hands on what was written.
func (f *File) Flush() error { return f.w.Flush() }

// Packets is how many packets are in the file, each counted once.
func (f *File) Packets() uint64 { return f.packets }

// Close writes the end: how many packets there are, and how many are missing.
func (f *File) Close(c api.Counts) error {
	now := time.Now()
	for i, written := range f.written {
		missing := c.Lost
		if err := f.w.WriteInterfaceStats(i, pcapgo.NgInterfaceStatistics{LastUpdate: now, StartTime: f.start, EndTime: now,
			PacketsReceived: written + missing, PacketsDropped: missing}); err != nil {
			return err
		}
	}
	return f.w.Flush()
}

// Comment says what was done to a packet.
func Comment(e *api.Event) string {
	v, _ := translator.ParseVerdict(e.Verdict)
	words := []string{e.Verdict + ": " + explain.Meaning(v)}
	if v.Replied() {
		words = append(words, "an ICMP error of the translator went back")
	}
	if e.Policy != "" {
		words = append(words, "policy: "+held(e, v))
	}
	if e.Workload != "" {
		words = append(words, "workload "+e.Workload)
	}
	if e.Mapping != "" {
		words = append(words, "mapping "+e.Mapping)
	}
	if e.GSOSize > 0 {
		words = append(words, fmt.Sprintf("superpacket, gso_size %d", e.GSOSize))
	}
	if e.In == nil {
		words = append(words, "it was held")
	}
	comment := strings.Join(words, "; ")
	if len(comment) > 4096 { // names are anybody's; an option has 16 bits for its length
		comment = strings.ToValidUTF8(comment[:4096], "")
	}
	return comment
}

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/natless/natless/cmd/internal/cli"
	"github.com/natless/natless/cmd/internal/packets"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/netstack/monitor"
)

// longest is the longest packet that there is, and what it may grow by.
const longest = 1<<16 + 1024

func newCapture(o *options) *cobra.Command {
	var s seeing
	var file, limit string
	var snap int
	var all, leave bool
	c := &cobra.Command{
		Use:   "capture -w FILE [FILTER]",
		Short: "Write packets to a file for Wireshark, before and after translation",
		Long: `Write packets as they pass to a pcapng file, replacing it. The file has two
interfaces: one has the packets as they came to the translator, the other as they
left it. Each packet has a comment with the verdict, or the reason why it was
dropped, the workload and the mapping. Both sides of one packet have the same
packet identifier. TCP and UDP superpackets stay whole; their comment says so.

Of packets that the kernel's fast path translates by itself it has a sample, unless
--all has all of them take the way through the daemon; see natless monitor --help.

The file is complete however the capture ends: by -c, --for, --max-size or Ctrl-C,
or because the daemon died. Its interface statistics say how many packets are
missing because the disk or the reader was too slow.

` + monitor.Grammar,
		Example: `  natless capture -w drops.pcapng --drops
  natless capture -w web.pcapng -s 128 --for 1m 'workload default/web and port 443'
  natless capture -w - | wireshark -k -i -
  natless capture -w - -c 10 | tshark -r - -T fields -e frame.interface_name -e frame.comment`,
		RunE: func(c *cobra.Command, args []string) error {
			if strings.TrimSpace(file) == "" {
				return cli.Misuse("name the file: -w FILE, or -w - for standard output")
			}
			filter, err := s.filter(args)
			if err != nil {
				return err
			}
			r := &recording{seeing: &s, snap: snap}
			if r.limit, err = parseSize(limit); err != nil {
				return err
			}
			if snap < 0 || snap > longest {
				return cli.Misuse("--snaplen %d: is not a number from 0 to %d", snap, longest)
			}
			if snap == 0 {
				r.snap = longest
			}
			return r.run(c, o, file, api.Watch{Filter: filter, Bytes: r.snap, All: all, Leave: leave})
		},
	}
	s.flags(c, o, "count")
	f := c.Flags()
	f.StringVarP(&file, "write", "w", "", "write to this `file`; - means standard output")
	f.IntVarP(&snap, "snaplen", "s", 0, "keep this many `bytes` of each packet and side; 0: all")
	f.StringVar(&limit, "max-size", "", "end before the file exceeds this `size`, such as 100M")
	pathFlags(c, &all, &leave)
	for _, plain := range []string{"snaplen", "max-size"} {
		c.RegisterFlagCompletionFunc(plain, nothing)
	}
	c.ValidArgsFunction = nothing
	return c
}

// parseSize reads a number of bytes with K, M or G behind it; "" means no limit.
func parseSize(s string) (int64, error) {
	if s == "" {
		return 1<<63 - 1, nil
	}
	shift := map[byte]int{'K': 10, 'M': 20, 'G': 30}[s[len(s)-1]]
	digits := s
	if shift > 0 {
		digits = s[:len(s)-1]
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n <= 0 || n > 1<<62>>shift {
		return 0, cli.Misuse("--max-size %s: write a number of bytes, such as 500K, 100M or 2G", s)
	}
	return n << shift, nil
}

// recording writes a stream to a file.
type recording struct {
	*seeing
	snap  int
	limit int64
	file  *packets.File
}

func (r *recording) run(c *cobra.Command, o *options, name string, w api.Watch) (err error) {
	stream, err := o.client().Watch(c.Context(), w)
	if err != nil {
		return err
	}
	defer stream.Close()
	out, err := create(c.OutOrStdout(), name)
	if err != nil {
		return err
	}
	if r.file, err = packets.NewFile(out, stream.Hello, w.Filter, r.snap); err != nil {
		return quiet(err)
	}
	info := c.ErrOrStderr()
	notes(info, stream.Hello)
	fmt.Fprintf(info, "capturing on %s, Ctrl-C ends it\n", stream.Hello.Device)
	counts, err := r.watch(c.Context(), stream, r.record)
	end := r.file.Close(counts)
	if f, ok := out.(io.Closer); ok && name != "-" {
		end = errors.Join(end, f.Close())
	}
	summary(info, "captured", r.file.Packets(), counts)
	return errors.Join(quiet(err), quiet(end))
}

func (r *recording) record(seen api.Seen, in, out []byte) error {
	if seen.Packet == nil {
		return r.file.Flush()
	}
	if !r.file.Room(seen.Packet, in, out, r.limit) {
		return errEnough
	}
	if err := r.file.Write(seen.Packet, in, out); err != nil {
		return err
	}
	if r.file.Packets() == r.count {
		return errEnough
	}
	return nil
}

// create opens what is written to. Only root may read what was captured.
func create(stdout io.Writer, name string) (io.Writer, error) {
	if name != "-" {
		return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	}
	if f, ok := stdout.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return nil, cli.Misuse("a capture is not for a terminal: name a file, or pipe it to wireshark -k -i -")
	}
	return stdout, nil
}

// quiet takes a reader who has gone for no error.
func quiet(err error) error {
	if errors.Is(err, syscall.EPIPE) {
		return nil
	}
	return err
}

//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/natless/natless/tests/netns"
)

const (
	tcpPort   = "5201"
	blockSize = 128 << 10
)

// transfer is how bytes are moved over TCP.
type transfer struct {
	figure  string
	streams int
	reverse bool // from the server to the workload
	lean    bool // by programs that wait in raw system calls
}

var transfers = []transfer{
	{"tcp", 1, false, false},
	{"tcp reverse", 1, true, false},
	{"tcp 8", 8, false, false},
	{"tcp 8 reverse", 8, true, false},
	{"tcp lean", 1, false, true},
	{"tcp lean reverse", 1, true, true},
}

// tcp moves bytes for a while and gives Gb/s and the CPU time of each GB.
func (l *lab) tcp(c *contender, t transfer, length time.Duration) (rate float64, perGB work, err error) {
	end, err := l.background("s4", "tcp-serve")
	if err != nil {
		return 0, work{}, err
	}
	defer end()
	before := worked(c)
	var bytes, seconds float64
	if err := l.output("w6", "tcp-transfer", []any{c.target, t.streams, t.reverse, t.lean, length}, &bytes, &seconds); err != nil {
		return 0, work{}, err
	}
	return bytes * 8 / seconds / 1e9, worked(c).since(before, bytes/1e9), nil
}

// load keeps one stream going until stop.
func (l *lab) load(c *contender) (stop func(), err error) {
	end, err := l.background("s4", "tcp-serve")
	if err != nil {
		return nil, err
	}
	sender := l.role("w6", "tcp-transfer", c.target, 1, false, false, time.Minute)
	if err := netns.Start(sender); err != nil {
		return nil, err
	}
	return func() { kill(sender); end() }, nil
}

func kill(c *exec.Cmd) {
	c.Process.Kill()
	c.Wait()
}

// stream is one connection, of the Go library or a lean one.
type stream interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// The first byte of a connection says what it is for; lean ones say it in
// capitals.
const (
	toServer, fromServer         = 'f', 'r'
	leanToServer, leanFromServer = 'F', 'R'
)

// serveTCP takes connections until its standard input ends.
func serveTCP([]string) error {
	config := net.ListenConfig{Control: setCongestion}
	listener, err := config.Listen(context.Background(), "tcp", ":"+tcpPort)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go serveConn(conn.(*net.TCPConn))
		}
	}()
	io.Copy(io.Discard, os.Stdin)
	return nil
}

func serveConn(conn *net.TCPConn) {
	defer conn.Close()
	block := make([]byte, blockSize)
	if _, err := io.ReadFull(conn, block[:1]); err != nil {
		return
	}
	var s stream = conn
	if block[0] == leanToServer || block[0] == leanFromServer {
		raw, err := newRawStream(conn)
		if err != nil {
			return
		}
		defer raw.Close()
		s = raw
	}
	var total uint64
	for sends := block[0]|0x20 == fromServer; ; {
		move := s.Read
		if sends {
			move = s.Write
		}
		n, err := move(block)
		total += uint64(n)
		if err != nil {
			break
		}
	}
	s.Write(binary.BigEndian.AppendUint64(nil, total))
}

// transferTCP is the client: target, streams, reverse, lean, length.
func transferTCP(args []string) error {
	streams, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	length, err := time.ParseDuration(args[4])
	if err != nil {
		return err
	}
	reverse, lean := args[2] == "true", args[3] == "true"
	totals := make([]uint64, streams)
	var group errgroup.Group
	start := time.Now()
	for i := range streams {
		group.Go(func() (err error) {
			totals[i], err = transferOne(args[0], reverse, lean, start.Add(length))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	var sum uint64
	for _, n := range totals {
		sum += n
	}
	fmt.Println(sum, time.Since(start).Seconds())
	return nil
}

func transferOne(target string, reverse, lean bool, until time.Time) (uint64, error) {
	dialer := net.Dialer{Control: setCongestion}
	conn, err := dialer.Dial("tcp", net.JoinHostPort(target, tcpPort))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	purpose, move := byte(toServer), upload
	if reverse {
		purpose, move = fromServer, download
	}
	var s stream = conn.(*net.TCPConn)
	if lean {
		raw, err := newRawStream(conn.(*net.TCPConn))
		if err != nil {
			return 0, err
		}
		defer raw.Close()
		s, purpose = raw, purpose&^0x20
	}
	if _, err := s.Write([]byte{purpose}); err != nil {
		return 0, err
	}
	return move(s, until)
}

func upload(s stream, until time.Time) (uint64, error) {
	block := make([]byte, blockSize)
	for time.Now().Before(until) {
		if _, err := s.Write(block); err != nil {
			return 0, err
		}
	}
	s.CloseWrite()
	if _, err := io.ReadFull(s, block[:8]); err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(block), nil
}

func download(s stream, until time.Time) (total uint64, err error) {
	block := make([]byte, blockSize)
	for time.Now().Before(until) {
		n, err := s.Read(block)
		if err != nil {
			return 0, err
		}
		total += uint64(n)
	}
	return total, nil
}

//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	tcpPort   = "5201"
	blockSize = 128 << 10
)

// tcp moves bytes for a while and gives Gb/s and the CPU time of each GB.
func (l *lab) tcp(c contender, streams int, reverse bool, length time.Duration) (rate float64, perGB work, err error) {
	end, err := l.background("s4", "tcp-serve")
	if err != nil {
		return 0, work{}, err
	}
	defer end()
	before := worked(c)
	out, err := l.role("w6", "tcp-transfer", c.target, streams, reverse, length).Output()
	after := worked(c)
	if err != nil {
		return 0, work{}, err
	}
	var bytes, seconds float64
	if _, err := fmt.Sscan(string(out), &bytes, &seconds); err != nil {
		return 0, work{}, err
	}
	return bytes * 8 / seconds / 1e9, after.since(before, bytes/1e9), nil
}

// serveTCP takes connections until its standard input ends. A connection's
// first byte says which way the data goes.
func serveTCP([]string) error {
	listener, err := net.Listen("tcp", ":"+tcpPort)
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
			go serveConn(conn)
		}
	}()
	io.Copy(io.Discard, os.Stdin)
	return nil
}

func serveConn(conn net.Conn) {
	defer conn.Close()
	block := make([]byte, blockSize)
	if _, err := io.ReadFull(conn, block[:1]); err != nil {
		return
	}
	if block[0] == 'r' {
		for {
			if _, err := conn.Write(block); err != nil {
				return
			}
		}
	}
	var total uint64
	for {
		n, err := conn.Read(block)
		total += uint64(n)
		if err != nil {
			break
		}
	}
	conn.Write(binary.BigEndian.AppendUint64(nil, total))
}

// transferTCP is the client: target, streams, reverse, length.
func transferTCP(args []string) error {
	streams, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	length, err := time.ParseDuration(args[3])
	if err != nil {
		return err
	}
	move := upload
	if args[2] == "true" {
		move = download
	}
	totals := make([]uint64, streams)
	var group errgroup.Group
	start := time.Now()
	for i := range streams {
		group.Go(func() (err error) {
			conn, err := net.Dial("tcp", net.JoinHostPort(args[0], tcpPort))
			if err != nil {
				return err
			}
			defer conn.Close()
			totals[i], err = move(conn.(*net.TCPConn), start.Add(length))
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

func upload(conn *net.TCPConn, until time.Time) (uint64, error) {
	block := make([]byte, blockSize)
	for block[0] = 'f'; time.Now().Before(until); {
		if _, err := conn.Write(block); err != nil {
			return 0, err
		}
	}
	conn.CloseWrite()
	if _, err := io.ReadFull(conn, block[:8]); err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(block), nil
}

func download(conn *net.TCPConn, until time.Time) (total uint64, err error) {
	if _, err := conn.Write([]byte("r")); err != nil {
		return 0, err
	}
	block := make([]byte, blockSize)
	for time.Now().Before(until) {
		n, err := conn.Read(block)
		if err != nil {
			return 0, err
		}
		total += uint64(n)
	}
	return total, nil
}

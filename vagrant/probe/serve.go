//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"

	"golang.org/x/sys/unix"
)

// serve answers on one port: HTTP /bytes/N with N bytes that are always the
// same, /peer with who asks, /echo with what comes; and UDP with what comes.
func serve(ctx context.Context, address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	udp, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	if err := roomy(udp.(*net.UDPConn)); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /bytes/{n}", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.ParseInt(r.PathValue("n"), 10, 64)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		io.CopyN(w, rand.NewChaCha8([32]byte{}), n)
	})
	mux.HandleFunc("GET /peer", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, r.RemoteAddr) })
	mux.HandleFunc("GET /echo", echo)
	go (&http.Server{Handler: mux}).Serve(l)
	go func() {
		b := make([]byte, 65536)
		for {
			n, from, err := udp.ReadFrom(b)
			if err != nil {
				return
			}
			udp.WriteTo(b[:n], from)
		}
	}()
	fmt.Println("ready")
	<-ctx.Done()
	return nil
}

// roomy lets the socket hold all that comes at once when a daemon is back that
// packets waited for: what the receiver drops would look as if it were lost on
// the way. Root may have more than net.core.rmem_max.
func roomy(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	})
	return errors.Join(err, failed)
}

// echo takes the connection over.
func echo(w http.ResponseWriter, _ *http.Request) {
	c, b, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	io.Copy(c, b)
}

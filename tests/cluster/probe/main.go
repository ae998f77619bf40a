// Command probe is what runs in the pods of the cluster, and on its IPv4-only server.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const usage = `probe pause
probe serve ADDRESS PORT [PORT of an echo server]   tells who asks from where; the address may be empty
probe get [tcp|tcp4|tcp6] URL
probe hold ADDRESS:PORT                             keeps one connection to an echo server busy, until SIGTERM
probe end                                           has the first process of its container end`

func main() {
	args := append(os.Args[1:], "", "", "", "")
	switch args[0] {
	case "", "pause":
		pause()
	case "serve":
		if args[3] != "" {
			go echo(net.JoinHostPort(args[1], args[3]))
		}
		serve(net.JoinHostPort(args[1], args[2]))
	case "get":
		network, url := "tcp", args[1]
		if args[2] != "" {
			network, url = args[1], args[2]
		}
		get(network, url)
	case "hold":
		hold(args[1])
	case "end":
		check(syscall.Kill(1, syscall.SIGTERM))
	default:
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
}

func pause() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	<-ctx.Done()
}

func serve(address string) {
	name, _ := os.Hostname()
	check(http.ListenAndServe(address, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s asked %s\n", r.RemoteAddr, name)
	})))
}

func echo(address string) {
	l, err := net.Listen("tcp", address)
	check(err)
	for {
		c, err := l.Accept()
		check(err)
		go func() { defer c.Close(); io.Copy(c, c) }()
	}
}

func get(network, url string) {
	dial := func(ctx context.Context, _, address string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: dial}}
	r, err := c.Get(url)
	check(err)
	defer r.Body.Close()
	_, err = io.Copy(os.Stdout, r.Body)
	check(err)
}

// hold sends a byte every 50 ms and waits for it to come back, on one connection.
func hold(address string) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	c, err := net.DialTimeout("tcp", address, 10*time.Second)
	check(err)
	defer c.Close()
	fmt.Printf("connected %s -> %s\n", c.LocalAddr(), c.RemoteAddr())
	var longest time.Duration
	n, b := 0, make([]byte, 1)
	for ; ctx.Err() == nil; n++ {
		start := time.Now()
		c.SetDeadline(start.Add(2 * time.Minute))
		_, err := c.Write([]byte{byte(n)})
		check(err)
		_, err = io.ReadFull(c, b)
		check(err)
		if b[0] != byte(n) {
			check(fmt.Errorf("byte %d came back as %d", byte(n), b[0]))
		}
		longest = max(longest, time.Since(start))
		time.Sleep(50 * time.Millisecond)
	}
	fmt.Printf("kept: %d echoes, longest gap %s\n", n, longest.Round(time.Millisecond))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

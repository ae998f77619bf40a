//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

const (
	every   = 20 * time.Millisecond // one message of each flow
	patient = 10 * time.Second      // how long the last answers may take
)

// report is what became of one flow.
type report struct {
	mu       sync.Mutex
	answered []bool
	last     time.Time

	Sent    int    `json:"sent"`
	Lost    int    `json:"lost"`       // never answered
	Longest int64  `json:"longest_ms"` // the longest time between two answers
	Error   string `json:"error,omitempty"`
}

// flow keeps a TCP connection and a UDP flow going until ctx is done, and
// prints {"tcp": report, "udp": report}.
func flow(ctx context.Context, address string) error {
	tcp, answers, err := dialEcho(address)
	if err != nil {
		return err
	}
	udp, err := net.Dial("udp", address)
	if err != nil {
		return err
	}
	if err := roomy(udp.(*net.UDPConn)); err != nil {
		return err
	}
	fmt.Println("ready")
	var both struct {
		TCP report `json:"tcp"`
		UDP report `json:"udp"`
	}
	var wg sync.WaitGroup
	wg.Go(func() { both.TCP.run(ctx, tcp, answers) })
	wg.Go(func() { both.UDP.run(ctx, udp, udp) })
	wg.Wait()
	return json.NewEncoder(os.Stdout).Encode(&both)
}

// dialEcho gives a connection that sends back what it is sent, and a reader of
// what comes.
func dialEcho(address string) (net.Conn, io.Reader, error) {
	c, err := net.DialTimeout("tcp", address, patient)
	if err != nil {
		return nil, nil, err
	}
	fmt.Fprintf(c, "GET /echo HTTP/1.1\r\nHost: probe\r\n\r\n")
	b := bufio.NewReader(c)
	answer, err := http.ReadResponse(b, nil)
	if err != nil {
		return nil, nil, err
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		return nil, nil, errors.New(answer.Status)
	}
	return c, b, nil
}

// run sends numbers, and waits for the answers to the last of them.
func (r *report) run(ctx context.Context, c net.Conn, answers io.Reader) {
	defer c.Close()
	go r.read(answers)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for ctx.Err() == nil {
		_, err := c.Write(binary.BigEndian.AppendUint64(nil, uint64(r.Sent)))
		r.fail(err)
		r.Sent++
		<-tick.C
	}
	for deadline := time.Now().Add(patient); !r.complete() && time.Now().Before(deadline); {
		<-tick.C
	}
}

// read notes which numbers come back. An ICMP error is an error of the socket,
// after which others may come.
func (r *report) read(answers io.Reader) {
	b := make([]byte, 8)
	for {
		_, err := io.ReadFull(answers, b)
		switch {
		case err == nil:
			r.answer(binary.BigEndian.Uint64(b))
		case errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			r.fail(err)
			return
		default:
			r.fail(err)
			time.Sleep(every) // a TCP connection says the same for ever
		}
	}
}

func (r *report) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil && r.Error == "" {
		r.Error = err.Error()
	}
}

func (r *report) answer(number uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if number > 1<<24 {
		r.Error = "answered with other bytes than were sent"
		return
	}
	now := time.Now()
	if !r.last.IsZero() {
		r.Longest = max(r.Longest, now.Sub(r.last).Milliseconds())
	}
	r.last = now
	for uint64(len(r.answered)) <= number {
		r.answered = append(r.answered, false)
	}
	r.answered[number] = true
}

// complete counts, and reports whether there is an answer to each.
func (r *report) complete() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Lost = r.Sent
	for _, a := range r.answered {
		if a {
			r.Lost--
		}
	}
	return r.Lost == 0
}

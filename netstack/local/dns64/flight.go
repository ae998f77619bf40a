package dns64

import (
	"context"
	"errors"
	"runtime/debug"
	"time"

	"github.com/miekg/dns"
)

// Why a question has no answer, or none yet.
var (
	errWait    = errors.New("not known here")           // to be asked of upstreams
	errLimited = errors.New("the client has its share") // of what is asked
	errLate    = errors.New("no answer within a client's patience")
	errClosed  = errors.New("the server ends")
)

// flight is a question being put to upstreams, once for all who ask it. It
// ends with an answer, be it that there was none.
type flight struct {
	done   chan struct{}
	ending // once done is closed; the message is shared
}

// landed is a flight that is over.
func landed(e ending) *flight {
	f := &flight{done: make(chan struct{}), ending: e}
	close(f.done)
	return f
}

func (f *flight) over() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// answer is a copy of what the flight ended with.
func (f *flight) answer() *dns.Msg { return f.msg.Copy() }

// lookup is the work on one query.
type lookup struct {
	*Server
	ctx   context.Context // how long the client waits; nil: not at all
	who   client
	asked bool // something was not in the cache
}

// start gives the answer from the cache, or puts the question to upstreams.
func (l *lookup) start(q question) (*flight, error) {
	if m, silent := l.cache.get(q, l.options.Now()); m != nil {
		return landed(ending{msg: m, silent: silent}), nil
	}
	if l.ctx == nil {
		return nil, errWait
	}
	l.asked = true
	return l.fly(q, l.who)
}

// await waits for a flight's end, while the client does.
func (l *lookup) await(f *flight) (*dns.Msg, error) {
	if !f.over() {
		select {
		case <-f.done:
		case <-l.ctx.Done():
			return nil, errLate
		}
	}
	return f.answer(), nil
}

// resolve gives an upstream's answer to q, which the caller owns.
func (l *lookup) resolve(q question) (*dns.Msg, error) {
	f, err := l.start(q)
	if err != nil {
		return nil, err
	}
	return l.await(f)
}

// fly joins the flight for q, or begins one on the client's account. It goes on
// when the client has gone.
func (s *Server) fly(q question, who client) (*flight, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := q.key()
	if f := s.flights[key]; f != nil {
		return f, nil
	}
	if s.closed {
		return nil, errClosed
	}
	if !s.asking.take(who, s.options.Now()) {
		return nil, errLimited
	}
	f := &flight{done: make(chan struct{})}
	s.flights[key] = f
	s.running.Go(func() {
		f.ending = s.put(q)
		s.mu.Lock()
		delete(s.flights, key)
		s.mu.Unlock()
		s.asking.release(who, f.vain, s.options.Now())
		close(f.done)
	})
	return f, nil
}

// put puts q to the upstreams and remembers what comes of it.
func (s *Server) put(q question) (e ending) {
	defer func() {
		if p := recover(); p != nil {
			s.panicked(p)
			e = ending{msg: failed(dns.ExtendedErrorCodeOther, "internal error"), silent: true}
		}
	}()
	ctx, cancel := context.WithTimeout(s.ctx, totalTimeout)
	defer cancel()
	e = s.ask(ctx, q)
	if s.ctx.Err() == nil {
		s.cache.put(q, e, s.options.Now())
	}
	return e
}

// panicked counts a panic that was survived: a packet must not end the daemon.
func (s *Server) panicked(p any) {
	s.Stats.Panics.Add(1)
	s.options.Log.Error("dns64: panic", "value", p, "stack", string(debug.Stack()))
}

// failed is SERVFAIL with the reason (RFC 8914).
func failed(code uint16, text string) *dns.Msg { return explained(dns.RcodeServerFailure, code, text) }

func explained(rcode int, code uint16, text string) *dns.Msg {
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Rcode: rcode}}
	m.SetEdns0(maxUDP, false)
	m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_EDE{InfoCode: code, ExtraText: text}}
	return m
}

// fault is the answer that an error is to the client.
func fault(err error) *dns.Msg {
	switch err {
	case errLimited:
		return failed(dns.ExtendedErrorCodeOther, "too many of your questions are under way")
	case errLate:
		return failed(dns.ExtendedErrorCodeNoReachableAuthority, "no upstream has answered yet")
	}
	return failed(dns.ExtendedErrorCodeNotReady, err.Error())
}

// wait sleeps until c, d or the client's patience is over.
func (l *lookup) wait(c <-chan struct{}, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-c:
	case <-t.C:
	case <-l.ctx.Done():
	}
}

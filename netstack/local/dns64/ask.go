package dns64

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// stagger is how long the next server waits for the one before it. The
	// question to that one goes on beside it.
	stagger  = 400 * time.Millisecond
	maxTries = 4 // where there are not more servers: each is asked twice
)

// outcome is what came of one try.
type outcome struct {
	u     *upstream
	msg   *dns.Msg // nil: none
	fault Failure  // why it does not do; without a message or with
	good  bool
}

// ending is what a question came to.
type ending struct {
	msg    *dns.Msg
	silent bool // no upstream said anything: msg is ours
	vain   bool // and that took its time
}

// ask puts q to the upstreams, one after the other, each a little later, and
// gives the first good answer, or else a bad one.
func (s *Server) ask(ctx context.Context, q question) ending {
	list := s.byHealth(s.settings.Load().upstreams(), q.qtype)
	if len(list) == 0 {
		return ending{msg: failed(dns.ExtendedErrorCodeNotReady, "no upstream server: see dns64.upstreams")}
	}
	r := race{Server: s, q: q, list: list, results: make(chan outcome, 2*len(list)), began: map[*upstream]time.Time{}}
	ctx, cancel := context.WithCancel(ctx)
	defer r.running.Wait()
	defer cancel()
	best := r.run(ctx)
	switch {
	case best.good:
		r.leave()
		return ending{msg: best.msg}
	case best.msg != nil && best.fault == Lame:
		return ending{msg: failed(dns.ExtendedErrorCodeNoReachableAuthority, "upstreams do not resolve")}
	case best.msg != nil:
		return ending{msg: told(best.msg)}
	case best.fault == Unreachable:
		return ending{msg: failed(dns.ExtendedErrorCodeNetworkError, "upstreams cannot be reached"), silent: true}
	}
	s.options.Log.Debug("dns64: no answer", "name", q.name, "type", dns.Type(q.qtype))
	return ending{msg: failed(dns.ExtendedErrorCodeNoReachableAuthority, "upstreams do not answer"), silent: true, vain: true}
}

// told gives an upstream's error a reason, when it has none of its own. What it
// says about our question, or about us, is no news of the client's.
func told(m *dns.Msg) *dns.Msg {
	if len(explanations(m)) == 0 {
		m.Extra = explained(0, dns.ExtendedErrorCodeOther, "an upstream says "+dns.RcodeToString[m.Rcode]).Extra
	}
	switch m.Rcode {
	case dns.RcodeFormatError, dns.RcodeNotImplemented, dns.RcodeRefused, dns.RcodeBadVers:
		m.Rcode = dns.RcodeServerFailure
	}
	return m
}

// race is one question put to several servers. It belongs to one goroutine.
type race struct {
	*Server
	q       question
	list    []*upstream
	next    int // try
	pending int
	results chan outcome
	began   map[*upstream]time.Time // those that have not answered
	done    map[*upstream]bool      // those that have, badly
	running sync.WaitGroup
}

// run starts tries until one is good, or all are over, and gives the best.
func (r *race) run(ctx context.Context) (best outcome) {
	r.done = map[*upstream]bool{}
	for {
		if r.pending == 0 && !r.launch(ctx) {
			return best
		}
		later := time.NewTimer(stagger)
		select {
		case o := <-r.results:
			r.pending--
			delete(r.began, o.u)
			if o.good {
				later.Stop()
				return o
			}
			r.done[o.u] = r.done[o.u] || o.msg != nil
			if best.msg == nil || o.msg != nil && o.fault > best.fault {
				best = o
			}
			r.launch(ctx)
		case <-later.C:
			if !r.launch(ctx) && best.msg != nil {
				return best // what there is must do: the others have had their time
			}
		case <-ctx.Done():
			later.Stop()
			return best
		}
		later.Stop()
	}
}

// launch starts the next try, if there is one. Who has answered badly is not
// asked twice.
func (r *race) launch(ctx context.Context) bool {
	for tries := min(2*len(r.list), max(maxTries, len(r.list))); r.next < tries; {
		u, again := r.list[r.next%len(r.list)], r.next >= len(r.list)
		if r.next++; r.done[u] || ctx.Err() != nil {
			continue
		}
		if !again {
			r.began[u] = time.Now()
		}
		r.pending++
		r.running.Go(func() { r.results <- r.try(ctx, u, r.q, again) })
		return true
	}
	return false
}

// leave notes that the others were too slow.
func (r *race) leave() {
	for u, at := range r.began {
		if time.Since(at) >= stagger {
			r.failed(u, r.q.qtype, Silent)
		}
	}
}

// failed counts what an upstream did wrong, and has it asked last.
func (s *Server) failed(u *upstream, qtype uint16, f Failure) {
	s.Stats.Failures[f].Add(1)
	u.about(qtype).fail(s.options.Now())
}

// try asks one server once, without EDNS if need be.
func (s *Server) try(ctx context.Context, u *upstream, q question, again bool) (o outcome) {
	defer func() {
		if p := recover(); p != nil {
			s.panicked(p)
			o = outcome{u: u, fault: Malformed}
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, s.options.Timeout)
	defer cancel()
	now := s.options.Now()
	edns := u.edns(now, again)
	m, err := s.exchange(ctx, u, q, edns)
	if err == nil && edns && declines(m) {
		// RFC 6891 6.2.2 and 7; some say SERVFAIL or REFUSED, and some of those mean it.
		if plain, err := s.exchange(ctx, u, q, false); err == nil && !declines(plain) {
			s.Stats.Failures[NoEDNS].Add(1)
			u.declined(now, m.Rcode)
			m = plain
		}
	} else if err == nil && edns {
		u.tookEDNS(now)
	} else if err == nil && again && u.plainUntil.Load() <= now.UnixNano() {
		u.plain(now, false)
	}
	return s.judge(ctx, u, q, m, err)
}

// declines says that an answer to a question with EDNS looks like that of a
// server that does not know EDNS.
func declines(m *dns.Msg) bool {
	switch m.Rcode {
	case dns.RcodeFormatError, dns.RcodeNotImplemented, dns.RcodeServerFailure, dns.RcodeRefused:
		return m.IsEdns0() == nil
	}
	return m.Rcode == dns.RcodeBadVers
}

// judge says how good an answer is, and what that says about the server.
func (s *Server) judge(ctx context.Context, u *upstream, q question, m *dns.Msg, err error) outcome {
	o := outcome{u: u, msg: m}
	switch {
	case err != nil:
		o.fault = kind(err)
		if ctx.Err() == context.Canceled {
			return o // another was faster, or the server ends
		}
	case m.Rcode == dns.RcodeSuccess && refers(m) && q.rd: // who does not want recursion may want that
		o.fault = Lame
	case m.Rcode == dns.RcodeSuccess || m.Rcode == dns.RcodeNameError:
		o.good = true
	case m.Rcode == dns.RcodeRefused && !q.rd: // of a look into its cache
		o.fault = ServFail
	case m.Rcode == dns.RcodeRefused:
		o.fault = Refused
	default:
		o.fault = ServFail
		s.Stats.Failures[ServFail].Add(1)
	}
	if o.good || o.fault == ServFail { // a server that cannot resolve this may do the next
		u.about(q.qtype).row.Store(0)
		return o
	}
	s.failed(u, q.qtype, o.fault)
	return o
}

// refers says that m is a referral (RFC 2308 section 2.2): its sender does not
// resolve, or not for us.
func refers(m *dns.Msg) bool {
	return !m.Authoritative && len(m.Answer) == 0 && has(m.Ns, dns.TypeNS) && !has(m.Ns, dns.TypeSOA)
}

// kind is the failure that an error is.
func kind(err error) Failure {
	var netErr net.Error
	switch {
	case errors.Is(err, errCut):
		return Uncut
	case errors.Is(err, errMalformed), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return Malformed
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return Silent
	case errors.As(err, &netErr) && netErr.Timeout():
		return Silent
	}
	return Unreachable
}

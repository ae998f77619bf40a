package dns64

import (
	"sync/atomic"

	"github.com/miekg/dns"
)

// Result is what became of a query. Each query has one.
type Result int

// Results.
const (
	Local      Result = iota // answered from what is known here: the cache, ipv4only.arpa, errors in the query
	Asked                    // answered with what an upstream said
	Failed                   // no upstream said anything in time
	Limited                  // the client has its share of what is under way
	Prohibited               // the client may not ask
	Ignored                  // no query, or one that made us panic
	results
)

var resultNames = [...]string{
	Local: "local", Asked: "asked", Failed: "failed", Limited: "limited", Prohibited: "prohibited", Ignored: "ignored",
}

func (r Result) String() string { return resultNames[r] }

// Failure is what an upstream did wrong.
type Failure int

// Failures.
const (
	Silent      Failure = iota // no answer in time
	Unreachable                // the network or the host says so
	Mismatched                 // an answer to another question, or with another identifier: forged, or late
	Malformed                  // does not parse
	Uncut                      // cut over UDP, and not to be had over TCP
	NoEDNS                     // does not take EDNS (RFC 6891)
	Lame                       // refers elsewhere instead of resolving
	Refused                    // REFUSED
	ServFail                   // SERVFAIL and the other errors
	failures
)

var failureNames = [...]string{
	Silent: "silent", Unreachable: "unreachable", Mismatched: "mismatched", Malformed: "malformed", Uncut: "truncated",
	NoEDNS: "no-edns", Lame: "lame", Refused: "refused", ServFail: "servfail",
}

func (f Failure) String() string { return failureNames[f] }

// Stats counts since the start.
type Stats struct {
	Queries, Synthesised, Dropped, Panics, Upstream, Reused, CacheHits atomic.Uint64

	Responses [dns.RcodeBadVers + 2]atomic.Uint64 // by response code; the last: any other
	Results   [results]atomic.Uint64
	Failures  [failures]atomic.Uint64
}

func (s *Stats) responded(rcode int) {
	s.Responses[min(rcode, len(s.Responses)-1)].Add(1)
}

func (s *Server) count(r Result) { s.Stats.Results[r].Add(1) }

//go:build linux

package metrics

import (
	"github.com/miekg/dns"

	"github.com/natless/natless/netstack/local/dns64"
)

var (
	localDelivered = desc("local_delivered_packets_total", "Packets that the stack behind the translator's own addresses took.")
	localDropped   = desc("local_dropped_packets_total", "Packets that it did not take because its queue was full.")
	localWritten   = desc("local_sent_packets_total", "Packets that it sent.")
	localErrors    = desc("local_send_errors_total", "Packets that it could not send.")
	localPanics    = desc("local_panics_total", "Packets that it panicked on and survived.")

	dnsQueries = desc("dns64_queries_total", "Queries that came.")
	dnsAnswers = desc("dns64_responses_total", "Answers given, by their code.", "rcode")
	dnsMade    = desc("dns64_synthesised_total", "Answers with AAAA records made from A records.")
	dnsResults = desc("dns64_results_total", "Queries by what became of them: "+
		"local, asked (of upstreams), failed (no upstream said anything in time), "+
		"limited (the client has its share of what is under way), prohibited (see dns64.clients), ignored.", "result")
	dnsDropped  = desc("dns64_dropped_queries_total", "Queries and connections beyond the share of their client, limited ones included.")
	dnsPanics   = desc("dns64_panics_total", "Queries that it panicked on and survived.")
	dnsUnderWay = desc("dns64_queries_in_progress", "Queries that wait for upstream servers.")
	dnsAsking   = desc("dns64_questions_in_progress", "Questions that upstream servers are being asked, also for the cache alone.")
	dnsHits     = desc("dns64_cache_hits_total", "Queries answered from the cache alone.")
	dnsCached   = desc("dns64_cache_entries", "Answers in the cache.")
	dnsBytes    = desc("dns64_cache_bytes", "Size of the answers in the cache.")
	dnsAsked    = desc("dns64_upstream_requests_total", "Questions put to upstream servers.")
	dnsReused   = desc("dns64_upstream_reused_connections_total", "Questions put to upstream servers over a TCP connection that was there.")
	dnsFailed   = desc("dns64_upstream_failures_total", "What upstream servers did wrong: "+
		"silent, unreachable, mismatched (answers to another question: late or forged), malformed, "+
		"truncated (and no TCP), no-edns, lame (refers elsewhere), refused, servfail.", "kind")
)

func (c *Collector) local(s sink) {
	l := c.Local()
	s.counter(localDelivered, l.Delivered)
	s.counter(localDropped, l.Dropped)
	s.counter(localWritten, l.Written)
	s.counter(localErrors, l.WriteErrors)
	s.counter(localPanics, l.Panics)
}

func (c *Collector) dns64(s sink) {
	d := c.DNS64()
	if d == nil {
		return
	}
	n := &d.Stats
	s.counter(dnsQueries, n.Queries.Load())
	for code := range n.Responses {
		name := dns.RcodeToString[code]
		if code == len(n.Responses)-1 {
			name = "other"
		}
		if count := n.Responses[code].Load(); count > 0 || code <= dns.RcodeRefused {
			s.counter(dnsAnswers, count, name)
		}
	}
	s.counter(dnsMade, n.Synthesised.Load())
	for r := range n.Results {
		s.counter(dnsResults, n.Results[r].Load(), dns64.Result(r).String())
	}
	s.counter(dnsDropped, n.Dropped.Load()+n.Results[dns64.Limited].Load())
	s.counter(dnsPanics, n.Panics.Load())
	s.gauge(dnsUnderWay, float64(d.InProgress()))
	s.gauge(dnsAsking, float64(d.Asking()))
	s.counter(dnsHits, n.CacheHits.Load())
	entries, size := d.Cached()
	s.gauge(dnsCached, float64(entries))
	s.gauge(dnsBytes, float64(size))
	s.counter(dnsAsked, n.Upstream.Load())
	s.counter(dnsReused, n.Reused.Load())
	for f := range n.Failures {
		s.counter(dnsFailed, n.Failures[f].Load(), dns64.Failure(f).String())
	}
}

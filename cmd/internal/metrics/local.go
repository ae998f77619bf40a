//go:build linux

package metrics

import "github.com/miekg/dns"

var (
	localDelivered = desc("local_delivered_packets_total", "Packets that the stack behind the translator's own addresses took.")
	localDropped   = desc("local_dropped_packets_total", "Packets that it did not take because its queue was full.")
	localWritten   = desc("local_sent_packets_total", "Packets that it sent.")
	localErrors    = desc("local_send_errors_total", "Packets that it could not send.")
	localPanics    = desc("local_panics_total", "Packets that it panicked on and survived.")

	dnsQueries  = desc("dns64_queries_total", "Queries that came.")
	dnsAnswers  = desc("dns64_responses_total", "Answers given, by their code.", "rcode")
	dnsMade     = desc("dns64_synthesised_total", "Answers with AAAA records made from A records.")
	dnsDropped  = desc("dns64_dropped_queries_total", "Queries that came while too many were being answered.")
	dnsPanics   = desc("dns64_panics_total", "Queries that it panicked on and survived.")
	dnsUnderWay = desc("dns64_queries_in_progress", "Queries being answered.")
	dnsHits     = desc("dns64_cache_hits_total", "Questions answered from the cache.")
	dnsCached   = desc("dns64_cache_entries", "Answers in the cache.")
	dnsBytes    = desc("dns64_cache_bytes", "Size of the answers in the cache.")
	dnsAsked    = desc("dns64_upstream_requests_total", "Questions put to upstream servers.")
	dnsFailed   = desc("dns64_upstream_failures_total", "Questions that an upstream server did not answer, or not properly.")
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
	s.counter(dnsDropped, n.Dropped.Load())
	s.counter(dnsPanics, n.Panics.Load())
	s.gauge(dnsUnderWay, float64(d.InProgress()))
	s.counter(dnsHits, n.CacheHits.Load())
	entries, size := d.Cached()
	s.gauge(dnsCached, float64(entries))
	s.gauge(dnsBytes, float64(size))
	s.counter(dnsAsked, n.Upstream.Load())
	s.counter(dnsFailed, n.UpstreamErrors.Load())
}

//go:build linux

package metrics

// Sums only: no label names a flow, an address or a workload.
var (
	flowsOpen       = desc("flows_open", "Flows that are open, where flows are recorded.")
	flowsMax        = desc("flows_max", "Flows that may be open at a time (flows.max_flows).")
	flowRecords     = desc("flow_records_total", "Flow records that were made, by why: idle, active, end, forced.", "reason")
	flowLostPackets = desc("flow_unitemised_packets_total", "Packets that were translated and found no room to be itemised.")
	flowLostBytes   = desc("flow_unitemised_bytes_total", "And their bytes.")
	flowsDenied     = desc("flows_denied_open", "Flows that are open, beside the others, of what policies denied.")
	flowLostDenied  = desc("flow_unitemised_denied_packets_total", "Packets that policies denied and that found no room to be itemised.")
	flowWritten     = desc("flow_receiver_records_total", "Records that were written to a file or sent to a collector.", "receiver")
	flowDropped     = desc("flow_receiver_dropped_records_total", "Records that a file or collector did not take in time.", "receiver")
	flowReceiverUp  = desc("flow_receiver_up", "Whether a file or collector takes records.", "receiver")
)

var flowReasons = []string{"idle", "active", "end", "forced"}

func (c *Collector) flows(s sink) {
	f := c.Flows()
	if f.Enabled {
		s.gauge(flowsOpen, float64(f.Open))
		s.gauge(flowsMax, float64(f.MaxFlows))
		for _, why := range flowReasons {
			s.counter(flowRecords, f.Records[why], why)
		}
		s.counter(flowLostPackets, f.Lost.Packets)
		s.counter(flowLostBytes, f.Lost.Bytes)
		s.gauge(flowsDenied, float64(f.Denied))
		s.counter(flowLostDenied, f.Refused)
	}
	for _, r := range f.Receivers {
		s.counter(flowWritten, r.Written, r.Name)
		s.counter(flowDropped, r.Dropped, r.Name)
		s.is(flowReceiverUp, r.State == "ok", r.Name)
	}
}

package ipfix

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/natless/natless/netstack/flows"
)

// field is an information element (IANA's registry of IPFIX) and its length.
type field struct {
	id, length uint16
	enterprise uint32
}

// reverse is the enterprise number of what goes the other way (RFC 5103 6.1).
const reverse = 29305

const (
	firstTemplate = 256
	templateFlow  = 256
	templateOwner = 257 // ownership began or ended
	templateWho   = 258 // options: whose a serial is
	templateDrawn = 259 // options: that flows are of a sample
	templateOther = 260 // a flow that was not just forwarded
	variable      = 65535
)

// flowFields are those of a flow, from who began it to the other.
var flowFields = []field{
	{id: 152, length: 8},                    // flowStartMilliseconds
	{id: 153, length: 8},                    // flowEndMilliseconds
	{id: 8, length: 4},                      // sourceIPv4Address
	{id: 12, length: 4},                     // destinationIPv4Address
	{id: 7, length: 2},                      // sourceTransportPort
	{id: 11, length: 2},                     // destinationTransportPort
	{id: 4, length: 1},                      // protocolIdentifier
	{id: 136, length: 1},                    // flowEndReason
	{id: 6, length: 2},                      // tcpControlBits
	{id: 32, length: 2},                     // icmpTypeCodeIPv4
	{id: 1, length: 8},                      // octetDeltaCount
	{id: 2, length: 8},                      // packetDeltaCount
	{id: 1, length: 8, enterprise: reverse}, // and the other way
	{id: 2, length: 8, enterprise: reverse},
	{id: 6, length: 2, enterprise: reverse},
	{id: 239, length: 1}, // biflowDirection: initiator
	{id: 89, length: 1},  // forwardingStatus: forwarded
	{id: 138, length: 8}, // observationPointId: the serial
	{id: 34, length: 4},  // samplingInterval: one of so many packets was counted
}

// otherFields are those of a flow that was not forwarded, or would not be but for an audit:
// all of a flow's, and which rule said so. Collectors that know of firewalls find the
// event; the rule is the selector that RFC 5477 8.2.5 has a name for.
var otherFields = append(slices.Clip(flowFields),
	field{id: 233, length: 1},        // firewallEvent
	field{id: 335, length: variable}, // selectorName: the rule
)

// ownerFields are those of a port block that is given, or taken back (RFC 8158 5.6.10
// and .11).
var ownerFields = []field{
	{id: 323, length: 8}, // observationTimeMilliseconds
	{id: 230, length: 1}, // natEvent
	{id: 27, length: 16}, // sourceIPv6Address
	{id: 225, length: 4}, // postNATSourceIPv4Address
	{id: 361, length: 2}, // portRangeStart
	{id: 362, length: 2}, // portRangeEnd
	{id: 138, length: 8}, // observationPointId
}

// whoFields say whose a serial is, which is their scope.
var whoFields = []field{
	{id: 138, length: 8},        // observationPointId
	{id: 27, length: 16},        // sourceIPv6Address
	{id: 225, length: 4},        // postNATSourceIPv4Address
	{id: 361, length: 2},        // portRangeStart
	{id: 362, length: 2},        // portRangeEnd
	{id: 350, length: variable}, // virtualStationName: the workload
}

// drawnFields say of which sample flows are (RFC 5477), in the elements that collectors
// look for. The scope is the exporter.
var drawnFields = []field{
	{id: 144, length: 4}, // exportingProcessId
	{id: 34, length: 4},  // samplingInterval
	{id: 35, length: 1},  // samplingAlgorithm
}

// random is the samplingAlgorithm of a sample by chance.
const random = 2

// templates are the records that describe the others, and say that flows are of a sample
// of one packet in so many, where they are.
func templates(sample int, add func(set uint16, record []byte) error) error {
	if sample > 1 {
		if err := add(setOptions, describe(templateDrawn, drawnFields, 1)); err != nil {
			return err
		}
		b := binary.BigEndian.AppendUint32(nil, 1)
		b = binary.BigEndian.AppendUint32(b, uint32(sample))
		if err := add(templateDrawn, append(b, random)); err != nil {
			return err
		}
	}
	if err := add(setTemplates, describe(templateFlow, flowFields, 0)); err != nil {
		return err
	}
	if err := add(setTemplates, describe(templateOther, otherFields, 0)); err != nil {
		return err
	}
	if err := add(setTemplates, describe(templateOwner, ownerFields, 0)); err != nil {
		return err
	}
	return add(setOptions, describe(templateWho, whoFields, 1))
}

// describe is a template record, of options where some of its fields are their scope.
func describe(id uint16, fields []field, scope uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, id)
	b = binary.BigEndian.AppendUint16(b, uint16(len(fields)))
	if scope > 0 {
		b = binary.BigEndian.AppendUint16(b, scope)
	}
	for _, f := range fields {
		if f.enterprise == 0 {
			b = binary.BigEndian.AppendUint16(b, f.id)
			b = binary.BigEndian.AppendUint16(b, f.length)
			continue
		}
		b = binary.BigEndian.AppendUint16(b, f.id|0x8000)
		b = binary.BigEndian.AppendUint16(b, f.length)
		b = binary.BigEndian.AppendUint32(b, f.enterprise)
	}
	return b
}

// Owner is who has ports of an address.
type Owner struct {
	Serial      uint64
	IPv6, IPv4  netip.Addr
	First, Last uint16
	Name        string
}

// Event says that ports were given, or taken back.
type Event struct {
	At    time.Time
	Given bool
	Owner
}

const (
	icmp      = 1
	tcp       = 6
	initiator = 1
	given     = 16 // natEvent: port block allocation
	takenBack = 17 // natEvent: port block de-allocation
)

// statuses are the forwardingStatus of each verdict (RFC 7270 4.12): forwarded, dropped by
// an access list, and by a policer.
var statuses = [flows.NumVerdicts]byte{flows.Forwarded: 64, flows.Denied: 129, flows.DeniedFragment: 129, flows.Shed: 138}

// events are the firewallEvent of each verdict: none, or that the flow is denied.
var events = [flows.NumVerdicts]byte{flows.Denied: 3, flows.DeniedFragment: 3}

// templateOf is which template a flow's record has.
func templateOf(r *flows.Record) uint16 {
	if r.Verdict == flows.Forwarded && r.Rule == "" {
		return templateFlow
	}
	return templateOther
}

// appendOther is appendFlow for templateOther.
func appendOther(b []byte, r *flows.Record, serial uint64) []byte {
	b = append(appendFlow(b, r, serial), events[r.Verdict])
	return appendName(b, r.Rule)
}

// appendName is a text of variable length (RFC 7011 7).
func appendName(b []byte, name string) []byte {
	name = name[:min(len(name), 254)]
	return append(append(b, byte(len(name))), name...)
}

func appendFlow(b []byte, r *flows.Record, serial uint64) []byte {
	there, back := flows.Sent, flows.Received
	src, dst, sport, dport := r.Local, r.Remote, r.LocalPort, r.RemotePort
	if r.Began == flows.Received {
		there, back, src, dst, sport, dport = back, there, dst, src, dport, sport
	}
	var icmpType uint16
	if r.Proto == icmp {
		icmpType, sport, dport = r.RemotePort, 0, r.RemotePort // as NetFlow has it, for those who read it so
	}
	b = binary.BigEndian.AppendUint64(b, uint64(r.Start.UnixMilli()))
	b = binary.BigEndian.AppendUint64(b, uint64(r.End.UnixMilli()))
	b = binary.BigEndian.AppendUint32(b, src)
	b = binary.BigEndian.AppendUint32(b, dst)
	b = binary.BigEndian.AppendUint16(b, sport)
	b = binary.BigEndian.AppendUint16(b, dport)
	b = append(b, r.Proto, byte(r.Reason))
	b = binary.BigEndian.AppendUint16(b, uint16(r.Flags[there]))
	b = binary.BigEndian.AppendUint16(b, icmpType)
	b = binary.BigEndian.AppendUint64(b, r.Bytes[there])
	b = binary.BigEndian.AppendUint64(b, r.Packets[there])
	b = binary.BigEndian.AppendUint64(b, r.Bytes[back])
	b = binary.BigEndian.AppendUint64(b, r.Packets[back])
	b = binary.BigEndian.AppendUint16(b, uint16(r.Flags[back]))
	b = append(b, initiator, statuses[r.Verdict])
	b = binary.BigEndian.AppendUint64(b, serial)
	return binary.BigEndian.AppendUint32(b, uint32(max(r.Sample, 1)))
}

func appendEvent(b []byte, e *Event) []byte {
	what := byte(takenBack)
	if e.Given {
		what = given
	}
	b = binary.BigEndian.AppendUint64(b, uint64(e.At.UnixMilli()))
	b = append(b, what)
	b = appendPorts(b, &e.Owner)
	return binary.BigEndian.AppendUint64(b, e.Serial)
}

func appendWho(b []byte, o *Owner) []byte {
	b = binary.BigEndian.AppendUint64(b, o.Serial)
	b = appendPorts(b, o)
	return appendName(b, o.Name)
}

func appendPorts(b []byte, o *Owner) []byte {
	v6, v4 := o.IPv6.As16(), o.IPv4.As4()
	b = append(append(b, v6[:]...), v4[:]...)
	b = binary.BigEndian.AppendUint16(b, o.First)
	return binary.BigEndian.AppendUint16(b, o.Last)
}

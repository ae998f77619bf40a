// Package policy says which IPv4 remote, protocol and port a workload may talk to:
// an ordered list of policies, as the Kubernetes ClusterNetworkPolicy API has them,
// compiled to one immutable table of flat arrays, which packets are judged by in the
// daemon and, as it stands, in the kernel. What a packet means to it, since nothing is
// remembered of connections, is in judge.go. How packets are read and answered may not
// enter here, nor how policies are written down.
package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/natless/natless/translator/ports"
)

// Tier is the group that a policy is in.
type Tier uint8

// The tiers, in the order in which they are asked.
const (
	Admin Tier = iota
	NetworkPolicy
	Baseline
	numTiers
)

// TierNames are the tiers' names, by tier.
var TierNames = []string{Admin: "Admin", NetworkPolicy: "NetworkPolicy", Baseline: "Baseline"}

func (t Tier) String() string { return TierNames[t] }

// Action is what a rule says of what it matches.
type Action uint8

// The actions.
const (
	Accept Action = iota
	Deny
	Pass // skips what is left of the tier
)

// ActionNames are the actions' names, by action.
var ActionNames = []string{Accept: "Accept", Deny: "Deny", Pass: "Pass"}

func (a Action) String() string { return ActionNames[a] }

// Answer is what the sender of a denied packet hears.
type Answer uint8

// The answers.
const (
	ICMP    Answer = iota // administratively prohibited
	Silence               // nothing
	Reset                 // a RST for TCP, else ICMP
)

// AnswerNames are the answers' names, by answer.
var AnswerNames = []string{ICMP: "icmp", Silence: "silence", Reset: "reset"}

func (a Answer) String() string { return AnswerNames[a] }

// Direction is that of a connection, as its workload sees it.
type Direction uint8

// The directions: to a remote's port, and to the workload's.
const (
	Egress Direction = iota
	Ingress
	numDirections
)

var directionNames = [numDirections]string{Egress: "egress", Ingress: "ingress"}

func (d Direction) String() string { return directionNames[d] }

// Protocol numbers (IANA).
const (
	ProtoICMP    = 1
	ProtoTCP     = 6
	ProtoUDP     = 17
	ProtoDCCP    = 33
	ProtoSCTP    = 132
	ProtoUDPLite = 136
)

// Protocol is a protocol and those of its ports that are meant: all of them, if
// neither the first nor the last is given.
type Protocol struct {
	Number uint8
	Ports  ports.Range // the zero value: all
}

// whole says that no port is looked at.
func (p Protocol) whole() bool { return p.Ports == (ports.Range{}) || p.Ports == allPorts }

var protoNames = map[uint8]string{ProtoICMP: "icmp", ProtoTCP: "tcp", ProtoUDP: "udp", ProtoDCCP: "dccp", ProtoSCTP: "sctp", ProtoUDPLite: "udplite"}

// String is "tcp/443", "udp/8000-8100", or "icmp".
func (p Protocol) String() string {
	name := protoNames[p.Number]
	if name == "" {
		name = strconv.Itoa(int(p.Number))
	}
	if p.whole() {
		return name
	}
	return name + "/" + p.Ports.String()
}

var allPorts = ports.Range{First: 0, Last: 65535}

// Rule is one of a policy's.
type Rule struct {
	Name      string
	Action    Action
	Networks  []netip.Prefix // of remotes; those of IPv6 match nothing
	Protocols []Protocol     // nil: all protocols
}

// Policy is rules for the workloads that it selects.
type Policy struct {
	Name     string
	Tier     Tier
	Priority int
	Subject  Subject
	Audit    bool // nothing of it is in force, and what it would deny is told
	Answer   Answer

	Egress, Ingress []Rule
}

// Rules are those of a direction.
func (p *Policy) Rules(d Direction) []Rule {
	if d == Egress {
		return p.Egress
	}
	return p.Ingress
}

// Workload is what a subject goes by.
type Workload struct {
	Name   string // the namespace is what stands before its first slash
	Labels map[string]string
}

// Namespace is the workload's, or "".
func (w Workload) Namespace() string {
	if namespace, _, ok := strings.Cut(w.Name, "/"); ok {
		return namespace
	}
	return ""
}

// Subject says which workloads a policy selects. The zero value selects all.
type Subject struct {
	Name      string // a pattern: * is any text, ? any character; "": any
	Namespace string // "": any
	Labels    map[string]string
}

// Selects reports whether a policy with this subject is about a workload.
func (s *Subject) Selects(w Workload) bool {
	if s.Name != "" && !like(s.Name, w.Name) || s.Namespace != "" && s.Namespace != w.Namespace() {
		return false
	}
	for k, v := range s.Labels {
		if has, ok := w.Labels[k]; !ok || has != v {
			return false
		}
	}
	return true
}

// like holds a text against a pattern in which * is any text and ? any character.
func like(pattern, s string) bool {
	star, from := -1, 0 // where the last * stood, and what it has begun with
	p, i := 0, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			from++
			p, i = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// Ordered are policies in the order in which they are asked.
func Ordered(all []Policy) []Policy {
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b Policy) int {
		return cmp.Or(cmp.Compare(a.Tier, b.Tier), cmp.Compare(a.Priority, b.Priority))
	})
	return all
}

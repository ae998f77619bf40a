package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/natless/natless/translator/policy"
	"github.com/natless/natless/translator/ports"
)

// Policy is one of the policies, in the words of the Kubernetes ClusterNetworkPolicy
// API (policy.networking.k8s.io/v1beta1).
type Policy struct {
	Name     string        `yaml:"name"`
	Tier     PolicyTier    `yaml:"tier"`
	Priority int           `yaml:"priority"`
	Subject  PolicySubject `yaml:"subject"`
	Audit    bool          `yaml:"audit"`
	Answer   PolicyAnswer  `yaml:"answer"`
	Egress   []EgressRule  `yaml:"egress"`
	Ingress  []IngressRule `yaml:"ingress"`
}

// PolicySubject says which workloads a policy selects; the zero value: all.
type PolicySubject struct {
	Name      string            `yaml:"name"` // a pattern
	Namespace string            `yaml:"namespace"`
	Labels    map[string]string `yaml:"labels"`
}

// EgressRule is about what a workload begins.
type EgressRule struct {
	Name      string           `yaml:"name"`
	Action    PolicyAction     `yaml:"action"`
	To        []PolicyPeer     `yaml:"to"`
	Protocols []PolicyProtocol `yaml:"protocols"`
}

// IngressRule is about what others begin with a workload.
type IngressRule struct {
	Name      string           `yaml:"name"`
	Action    PolicyAction     `yaml:"action"`
	From      []PolicyPeer     `yaml:"from"`
	Protocols []PolicyProtocol `yaml:"protocols"`
}

// PolicyPeer is the other end.
type PolicyPeer struct {
	Networks []netip.Prefix `yaml:"networks"`
}

// PolicyProtocol is a protocol, or a name of named_ports: one of its fields is given.
type PolicyProtocol struct {
	TCP       *PolicyTransport `yaml:"tcp"`
	UDP       *PolicyTransport `yaml:"udp"`
	SCTP      *PolicyTransport `yaml:"sctp"`
	DCCP      *PolicyTransport `yaml:"dccp"`
	UDPLite   *PolicyTransport `yaml:"udplite"`
	ICMP      *struct{}        `yaml:"icmp"` // echo
	NamedPort string           `yaml:"destinationNamedPort"`
}

// PolicyTransport is what is looked at of a protocol with ports.
type PolicyTransport struct {
	DestinationPort *PolicyPort `yaml:"destinationPort"` // nil: none is
}

// PolicyPort is a port or a range: one of both is given.
type PolicyPort struct {
	Number int              `yaml:"number"`
	Range  *PolicyPortRange `yaml:"range"`
}

// PolicyPortRange is ports from the first to the last.
type PolicyPortRange struct {
	Start int `yaml:"start"`
	End   int `yaml:"end"`
}

// PolicyTier is Admin, NetworkPolicy or Baseline; the zero value is missing.
type PolicyTier int

// UnmarshalText takes a tier's name.
func (t *PolicyTier) UnmarshalText(text []byte) error {
	i, err := oneOf(string(text), policy.TierNames)
	*t = PolicyTier(i + 1)
	return err
}

// PolicyAction is Accept, Deny or Pass; the zero value is missing.
type PolicyAction int

// UnmarshalText takes an action's name.
func (a *PolicyAction) UnmarshalText(text []byte) error {
	i, err := oneOf(string(text), policy.ActionNames)
	*a = PolicyAction(i + 1)
	return err
}

// PolicyAnswer is what the sender of a denied packet hears.
type PolicyAnswer policy.Answer

// UnmarshalText takes icmp, silence or reset.
func (a *PolicyAnswer) UnmarshalText(text []byte) error {
	i, err := oneOf(string(text), policy.AnswerNames)
	*a = PolicyAnswer(i)
	return err
}

// NamedPorts are names for ports, as policies have them.
type NamedPorts map[string][]NamedPort

// NamedPort is a port or a range of a protocol that a name stands for.
type NamedPort policy.Protocol

// UnmarshalText takes tcp/443 or udp/8000-8100.
func (p *NamedPort) UnmarshalText(text []byte) error {
	name, which, ok := strings.Cut(string(text), "/")
	number := slices.Index(transportNames, name)
	set, err := ports.Parse(which)
	if !ok || number < 0 || err != nil || set.Len() != 1 {
		return fmt.Errorf("%q is not a protocol and ports, such as tcp/443 or udp/8000-8100", text)
	}
	*p = NamedPort{Number: transports[number], Ports: set.Longest()}
	return nil
}

// transportNames are protocols with ports, by their keys, and transports their numbers.
var (
	transportNames = []string{"tcp", "udp", "sctp", "dccp", "udplite"}
	transports     = []uint8{policy.ProtoTCP, policy.ProtoUDP, policy.ProtoSCTP, policy.ProtoDCCP, policy.ProtoUDPLite}
)

// policyFile is what a file of policies has.
type policyFile struct {
	Policies []Policy `yaml:"policies"`
}

// PolicySet are the policies of the file and of those that it names, as they are
// asked.
func (c *Config) PolicySet() []policy.Policy { return c.policySet }

// policyReader puts policies together, from wherever they were written.
type policyReader struct {
	validator
	set  []policy.Policy
	seen map[string]string // where a name was
	file string            // that is being read; "": the configuration
	root ast.Node
}

func (v validator) policies() {
	r := policyReader{validator: v, seen: map[string]string{}}
	r.all(v.Policies)
	for i, path := range v.PoliciesFile {
		key := "policies_file"
		if len(v.PoliciesFile) > 1 {
			key += "[" + strconv.Itoa(i) + "]"
		}
		if err := r.read(path); err != nil {
			v.fail(key, err)
		}
	}
	v.policySet = policy.Ordered(r.set)
}

// read takes the policies of a file. An error is about the file as a whole.
func (r *policyReader) read(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var f policyFile
	d := decoder{file: path}
	r.file, r.root = path, d.parse(data)
	if r.root != nil {
		d.value(r.root, "", reflect.ValueOf(&f).Elem())
	}
	for _, e := range d.errs {
		r.report(e)
	}
	if d.errs == nil {
		r.all(f.Policies)
	}
	return nil
}

// wrong reports what is wrong at a key of the file that is being read.
func (r *policyReader) wrong(key, format string, args ...any) {
	e := Error{File: r.file, Key: key, Err: fmt.Errorf(format, args...)}
	if r.root != nil {
		e.Line = line(locate(r.root, key))
	}
	r.report(e)
}

func (r *policyReader) all(list []Policy) {
	for i := range list {
		r.one(&list[i], "policies["+strconv.Itoa(i)+"]")
	}
}

func (r *policyReader) one(p *Policy, key string) {
	where := key
	if r.file != "" {
		where = r.file + ": " + key
	}
	switch {
	case p.Name == "":
		r.wrong(key+".name", "missing")
	case strings.ContainsFunc(p.Name, func(c rune) bool { return c <= ' ' || c == 0x7f }) || len(p.Name) > 253:
		r.wrong(key+".name", "%q is not a name of up to 253 characters without spaces", p.Name)
	case r.seen[p.Name] != "":
		r.wrong(key+".name", "%s is called %q too", r.seen[p.Name], p.Name)
	default:
		r.seen[p.Name] = where
	}
	if p.Tier == 0 {
		r.wrong(key+".tier", "missing: one of %s", strings.Join(policy.TierNames, ", "))
	}
	if p.Priority < 0 || p.Priority > 1000 {
		r.wrong(key+".priority", "%d is not between 0 and 1000", p.Priority)
	}
	made := policy.Policy{Name: p.Name, Tier: policy.Tier(p.Tier - 1), Priority: p.Priority, Audit: p.Audit, Answer: policy.Answer(p.Answer),
		Subject: policy.Subject{Name: p.Subject.Name, Namespace: p.Subject.Namespace, Labels: p.Subject.Labels}}
	names := map[string]bool{}
	twice := func(direction, name, at string) {
		if name != "" && names[direction+name] {
			r.wrong(at+".name", "another rule of this direction is called %q", name)
		}
		names[direction+name] = true
	}
	for i, e := range p.Egress {
		at := key + ".egress[" + strconv.Itoa(i) + "]"
		twice("egress ", e.Name, at)
		made.Egress = append(made.Egress, r.rule(at, e.Name, e.Action, at+".to", e.To, e.Protocols))
	}
	for i, in := range p.Ingress {
		at := key + ".ingress[" + strconv.Itoa(i) + "]"
		twice("ingress ", in.Name, at)
		made.Ingress = append(made.Ingress, r.rule(at, in.Name, in.Action, at+".from", in.From, in.Protocols))
	}
	r.set = append(r.set, made)
}

func (r *policyReader) rule(key, name string, action PolicyAction, peersKey string, peers []PolicyPeer, protocols []PolicyProtocol) policy.Rule {
	if action == 0 {
		r.wrong(key+".action", "missing: one of %s", strings.Join(policy.ActionNames, ", "))
	}
	if len(name) > 100 || strings.ContainsAny(name, "\n\r\t\x00") {
		r.wrong(key+".name", "%q is not a name of up to 100 characters", name)
	}
	made := policy.Rule{Name: name, Action: policy.Action(action - 1)}
	for i, peer := range peers {
		at := peersKey + "[" + strconv.Itoa(i) + "].networks"
		if len(peer.Networks) == 0 {
			r.wrong(at, "missing: 0.0.0.0/0 is everything")
		}
		for j, n := range peer.Networks {
			if n.Addr().Is6() && r.Prefix.IsValid() && n.Bits() >= r.Prefix.Bits() && r.Prefix.Contains(n.Addr()) {
				r.wrong(at+"["+strconv.Itoa(j)+"]", "%s stands for IPv4 addresses: write these", n)
			}
		}
		made.Networks = append(made.Networks, peer.Networks...)
	}
	if len(peers) == 0 {
		r.wrong(peersKey, "missing: [{networks: [0.0.0.0/0]}] is everything")
	}
	for i := range protocols {
		some, err := r.protocol(&protocols[i])
		if err != nil {
			r.wrong(key+".protocols["+strconv.Itoa(i)+"]", "%w", err)
		}
		made.Protocols = append(made.Protocols, some...)
	}
	return made
}

func (r *policyReader) protocol(p *PolicyProtocol) (list []policy.Protocol, err error) {
	given := 0
	for i, t := range []*PolicyTransport{p.TCP, p.UDP, p.SCTP, p.DCCP, p.UDPLite} {
		if t == nil {
			continue
		}
		given++
		one := policy.Protocol{Number: transports[i]}
		if t.DestinationPort != nil {
			if one.Ports, err = t.DestinationPort.ports(); err != nil {
				return nil, err
			}
		}
		list = append(list, one)
	}
	if p.ICMP != nil {
		given++
		list = append(list, policy.Protocol{Number: policy.ProtoICMP})
	}
	if p.NamedPort != "" {
		given++
		named, ok := r.NamedPorts[p.NamedPort]
		if !ok {
			return nil, fmt.Errorf("named_ports has no %q", p.NamedPort)
		}
		for _, one := range named {
			list = append(list, policy.Protocol(one))
		}
	}
	if given != 1 {
		return nil, fmt.Errorf("must have one of %s", strings.Join(keys(reflect.TypeFor[PolicyProtocol]()), ", "))
	}
	return list, nil
}

func (p *PolicyPort) ports() (ports.Range, error) {
	valid := func(n int) bool { return 1 <= n && n <= 65535 }
	switch {
	case (p.Number != 0) == (p.Range != nil):
		return ports.Range{}, errors.New("destinationPort must have one of number, range")
	case p.Range == nil && !valid(p.Number):
		return ports.Range{}, fmt.Errorf("%d is not between 1 and 65535", p.Number)
	case p.Range == nil:
		return ports.Single(uint16(p.Number)), nil
	case !valid(p.Range.Start) || !valid(p.Range.End) || p.Range.Start > p.Range.End:
		return ports.Range{}, fmt.Errorf("%d to %d is not a range between 1 and 65535", p.Range.Start, p.Range.End)
	}
	return ports.Range{First: uint16(p.Range.Start), Last: uint16(p.Range.End)}, nil
}

package config

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Flows is what is recorded of who talked to whom. It is off where the file does not
// speak of it, and on where it does, unless that says otherwise.
type Flows struct {
	Enabled  bool          `yaml:"enabled"`   // false: only who owns what goes to collectors
	Idle     time.Duration `yaml:"idle"`      // after which a silent flow has ended
	Active   time.Duration `yaml:"active"`    // after which one that goes on has a record
	MaxFlows int           `yaml:"max_flows"` // that are open at a time
	Sample   Sample        `yaml:"sample"`    // of so many packets one is counted
	JSON     FlowsJSON     `yaml:"json"`
	IPFIX    FlowsIPFIX    `yaml:"ipfix"`
}

// FlowsJSON is a file, or a pipe, with a record a line.
type FlowsJSON struct {
	Path    string `yaml:"path"`     // "" is none
	MaxSize int    `yaml:"max_size"` // of a file, in MiB, at which it becomes PATH.1
	Keep    int    `yaml:"keep"`     // of these
}

// FlowsIPFIX is who gets records by IPFIX (RFC 7011).
type FlowsIPFIX struct {
	Collectors []string `yaml:"collectors"` // udp://, tcp:// or tls:// with host and port
	CA         string   `yaml:"ca"`         // file of certificates that collectors' are signed with; "": the system's
	Domain     int      `yaml:"domain"`     // observation domain, to tell hosts apart
}

func defaultFlows() Flows {
	return Flows{Idle: 15 * time.Second, Active: time.Minute, MaxFlows: 262_144, Sample: 1, JSON: FlowsJSON{MaxSize: 100, Keep: 5}}
}

func (f *Flows) setDefaults(given map[string]bool) {
	if !given["enabled"] {
		f.Enabled = true
	}
}

// Sample is of how many packets one is counted in flow records.
type Sample int

const maxSample = 1_000_000

// UnmarshalText takes 1/N.
func (s *Sample) UnmarshalText(text []byte) error {
	n, found := strings.CutPrefix(string(text), "1/")
	of, err := strconv.Atoi(n)
	if !found || err != nil {
		return fmt.Errorf("%q is not a part of all packets such as 1/100", text)
	}
	*s = Sample(max(of, 0)) // no number below 1 is valid
	return nil
}

func (s Sample) String() string { return "1/" + strconv.Itoa(int(s)) }

func (v validator) flows() {
	f := v.Flows
	v.check(time.Second <= f.Idle && f.Idle <= time.Hour, "flows.idle", "%s is not between 1s and 1h", f.Idle)
	v.check(f.Idle <= f.Active && f.Active <= 24*time.Hour, "flows.active", "%s is not between idle (%s) and 24h", f.Active, f.Idle)
	v.between("flows.max_flows", f.MaxFlows, 1024, 10_000_000)
	v.check(1 <= f.Sample && f.Sample <= maxSample, "flows.sample", "%v is not between 1/1 and 1/%d", f.Sample, maxSample)
	v.check(f.JSON.Path == "" || filepath.IsAbs(f.JSON.Path), "flows.json.path", "%q is not an absolute path", f.JSON.Path)
	v.between("flows.json.max_size", f.JSON.MaxSize, 1, 1_000_000)
	v.between("flows.json.keep", f.JSON.Keep, 0, 1000)
	v.between("flows.ipfix.domain", f.IPFIX.Domain, 0, 1<<31-1)
	for i, c := range f.IPFIX.Collectors {
		if _, _, err := Collector(c); err != nil {
			v.fail("flows.ipfix.collectors["+strconv.Itoa(i)+"]", err)
		}
	}
}

// Collector reads a collector: udp, tcp or tls, and host with port.
func Collector(s string) (transport, address string, err error) {
	u, err := url.Parse(s)
	if err != nil || u.Path != "" || u.RawQuery != "" || u.User != nil || u.Hostname() == "" {
		return "", "", fmt.Errorf("%q is not a collector such as udp://192.0.2.9:4739 or tls://collector.example:4740", s)
	}
	port := u.Port()
	switch {
	case u.Scheme != "udp" && u.Scheme != "tcp" && u.Scheme != "tls":
		return "", "", fmt.Errorf("%q: there are udp://, tcp:// and tls://", s)
	case port == "" && u.Scheme == "tls": // RFC 7011 10.1
		port = "4740"
	case port == "":
		port = "4739"
	}
	return u.Scheme, net.JoinHostPort(u.Hostname(), port), nil
}

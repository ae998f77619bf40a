//go:build linux

package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	cni "github.com/containernetworking/cni/pkg/version"

	"github.com/natless/natless/cmd/internal/conflist"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/translator/special"
)

// baseConfig is what giving back needs: the part of the network configuration in
// which no container's wishes are.
type baseConfig struct {
	types.PluginConf
	Socket string `json:"socket"` // of natlessd
	// TCPTWReuse is true by default: see sysctls.
	TCPTWReuse *bool `json:"tcpTwReuse"`
}

// pluginConfig is the plugin's part of the network configuration. Everything
// but type is optional.
type pluginConfig struct {
	baseConfig
	wishes
	Annotations []string `json:"annotations"` // of pods, that are heeded
	// Wishes of one container go before those of the network: from the
	// runtime (capability "natless"), then from the pod's annotations, then from args.
	RuntimeConfig struct {
		Natless strictWishes `json:"natless"`
		// PodAnnotations are all of the pod's. containerd and CRI-O give them to
		// plugins that have this capability.
		PodAnnotations map[string]string `json:"io.kubernetes.cri.pod-annotations"`
	} `json:"runtimeConfig"`
	Args struct {
		CNI struct {
			Natless strictWishes `json:"natless"`
		} `json:"cni"`
	} `json:"args"`
}

// wishes are what a workload may ask of natlessd.
type wishes struct {
	Pool       string     `json:"pool"`
	Ports      int        `json:"ports"`
	Address    netip.Addr `json:"address"`
	ExtraPorts []uint16   `json:"extraPorts"`
	IPv4       string     `json:"ipv4"` // inside, prefix or none; "": as the pool has it

	Labels map[string]string `json:"labels"` // that policies select by
}

// ipv4None: the container gets nothing. natlessd does not hear of it.
const ipv4None = "none"

// strictWishes takes no key that it does not know: a wish with a slip of the
// pen in it is not granted in part.
type strictWishes wishes

func (w *strictWishes) UnmarshalJSON(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	return d.Decode((*wishes)(w))
}

// parse reads the configuration from standard input.
func parse(args *skel.CmdArgs) (*pluginConfig, error) {
	c := new(pluginConfig)
	if err := json.Unmarshal(args.StdinData, c); err != nil {
		if key, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
			return nil, types.NewError(types.ErrUnsupportedField, "unsupported field "+key+" among the wishes",
				"known are pool, ports, address, extraPorts, ipv4, labels")
		}
		return nil, types.NewError(types.ErrDecodingFailure, "network configuration: "+err.Error(), "")
	}
	if err := misspelt(args.StdinData); err != nil {
		return nil, err
	}
	for _, name := range c.Annotations {
		if !slices.Contains(conflist.Annotations, name) {
			return nil, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("annotations: %q is not an annotation of natless", name),
				"known are "+strings.Join(conflist.Annotations, ", "))
		}
	}
	pod, err := annotated(c.RuntimeConfig.PodAnnotations, c.Annotations)
	if err != nil {
		return nil, err
	}
	for _, own := range []wishes{wishes(c.Args.CNI.Natless), pod, wishes(c.RuntimeConfig.Natless)} {
		c.wishes.override(own)
	}
	if err := c.wishes.validate(); err != nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, err.Error(), "")
	}
	c.Socket = cmp.Or(c.Socket, api.DefaultSocket)
	return c, nil
}

// parseBase reads what DEL and GC need. They do not judge wishes: what ADD refused is
// taken down all the same, or the runtime would try that for ever.
func parseBase(args *skel.CmdArgs) (*baseConfig, error) {
	c := new(baseConfig)
	if err := json.Unmarshal(args.StdinData, c); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "network configuration: "+err.Error(), "")
	}
	c.Socket = cmp.Or(c.Socket, api.DefaultSocket)
	return c, nil
}

// misspelt refuses a key that somebody meant to be one of ours: it would do nothing,
// and nobody would be told.
func misspelt(stdin []byte) error {
	key, meant := conflist.Misspelt(stdin)
	if key == "" {
		return nil
	}
	return types.NewError(types.ErrUnsupportedField, fmt.Sprintf("unsupported field %q in the network configuration: is it %q?", key, meant),
		"known are "+strings.Join(conflist.Keys, ", "))
}

func (w *wishes) override(by wishes) {
	if by.Pool != "" {
		w.Pool = by.Pool
	}
	if by.Ports != 0 {
		w.Ports = by.Ports
	}
	if by.Address.IsValid() {
		w.Address = by.Address
	}
	if by.ExtraPorts != nil {
		w.ExtraPorts = by.ExtraPorts
	}
	if by.IPv4 != "" {
		w.IPv4 = by.IPv4
	}
	if by.Labels != nil {
		w.Labels = by.Labels
	}
}

func (w *wishes) validate() error {
	if w.Ports < 0 || w.Ports > 65536 {
		return fmt.Errorf("ports: %d is not between 1 and 65536", w.Ports)
	}
	if w.Address.IsValid() && !w.Address.Is4() {
		return fmt.Errorf("address: %s is not an IPv4 address", w.Address)
	}
	if !slices.Contains([]string{"", api.IPv4Inside, api.IPv4Prefix, ipv4None}, w.IPv4) {
		return fmt.Errorf("ipv4: %q is none of inside, prefix, none", w.IPv4)
	}
	return nil
}

// keepsTimeWait reports whether the kernel's own setting of tcp_tw_reuse stays.
func (c *baseConfig) keepsTimeWait() bool { return c.TCPTWReuse != nil && !*c.TCPTWReuse }

func key(args *skel.CmdArgs) api.Key {
	return api.Key{ContainerID: args.ContainerID, Interface: args.IfName}
}

// request is what ADD asks natlessd for.
func (c *pluginConfig) request(args *skel.CmdArgs, ipv6 []netip.Addr) (api.Request, error) {
	var pod struct {
		types.CommonArgs
		K8S_POD_NAMESPACE types.UnmarshallableString //revive:disable-line:var-naming the key in CNI_ARGS
		K8S_POD_NAME      types.UnmarshallableString
	}
	pod.IgnoreUnknown = true
	if err := types.LoadArgs(args.Args, &pod); err != nil {
		return api.Request{}, types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_ARGS: "+err.Error(), "")
	}
	name := string(pod.K8S_POD_NAME)
	if name != "" && pod.K8S_POD_NAMESPACE != "" {
		name = string(pod.K8S_POD_NAMESPACE) + "/" + name
	}
	return api.Request{
		Name: name, Network: c.Name, Netns: args.Netns, IPv6: ipv6,
		Pool: c.Pool, Ports: c.Ports, Address: c.Address, ExtraPorts: c.ExtraPorts,
		Inside: cmp.Or(c.IPv4, api.IPv4ByPool), Labels: c.Labels,
	}, nil
}

// previous is the result of the plugin before this one, nil where there is none.
func (c *baseConfig) previous() (*types100.Result, error) {
	if c.RawPrevResult == nil {
		return nil, nil
	}
	if err := cni.ParsePrevResult(&c.PluginConf); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "prevResult: "+err.Error(), "")
	}
	r, err := types100.NewResultFromResult(c.PrevResult)
	if err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "prevResult: "+err.Error(), "")
	}
	return r, nil
}

// containerIPv6 gives the IPv6 addresses of the container's interface and a
// gateway, as far as the previous plugin named one.
func containerIPv6(r *types100.Result, ifname string) (addrs []netip.Addr, gateway netip.Addr) {
	for _, ip := range r.IPs {
		if ip.Interface != nil && *ip.Interface >= 0 && *ip.Interface < len(r.Interfaces) {
			if i := r.Interfaces[*ip.Interface]; i.Name != ifname || i.Sandbox == "" {
				continue
			}
		}
		a, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok || !a.Is6() || special.Never(a) {
			continue
		}
		addrs = append(addrs, a)
		if g, ok := netip.AddrFromSlice(ip.Gateway); ok && g.Is6() && !gateway.IsValid() {
			gateway = g
		}
	}
	return addrs, gateway
}

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// The fast path: it translates the packets that are plain and passes all others
// on as they came, to the daemon. It knows no rule of its own: each of its bytes
// is what the Go package translator makes of the same packet, and where that
// would do anything but translate, the packet is passed on.
//
// IPv4 of workloads that have it inside is forwarded in the same way, and what is not
// plain of it brought to the daemon and back: see inside.h.
//
// A translated packet goes from here to the device it leaves by. Netfilter does
// not see it, nor does what follows here; packet sockets at both devices do, and
// so do filters and queues at the egress of the device. See ../README.md.
#include "inside.h"
#include "descend.h"
#include "shed.h"

// tell counts what became of a packet.
static __always_inline void tell(int why, __u32 bytes, __u32 first)
{
	__u32 at = first + why;
	struct count *n = bpf_map_lookup_elem(&reasons, &at);

	if (n) {
		n->packets++;
		n->bytes += bytes;
	}
}

// judge counts what became of a packet and says what the kernel is to do with it.
static __always_inline int judge(int why, int action, __u32 bytes, __u32 first)
{
	tell(why, bytes, first);
	if (why == LOST)
		return TC_ACT_SHOT;
	return why ? TC_ACT_UNSPEC : action;
}

// passes says that a packet is passed on to who may lead it to the daemon.
static __always_inline int passes(int why)
{
	return why && why != LOST && why != HOST_ROUTE && why != NOT_THIS_FAMILY && why != NOT_PLAIN_LINK;
}

// to_daemon says that an IPv6 packet is for somebody behind the prefix, or for the
// translator itself.
static __always_inline int to_daemon(struct __sk_buff *skb)
{
	__u32 zero = 0, *gen = bpf_map_lookup_elem(&active, &zero), g;
	struct config *c;
	__u64 dst[2];

	if (!gen || bpf_skb_load_bytes(skb, ETH + 24, dst, sizeof(dst)))
		return 0;
	g = *gen;
	c = bpf_map_lookup_elem(&configs, &g);
	return c && (in_prefix(c, be64(dst[0]), be64(dst[1])) || own6(c, be64(dst[0]), be64(dst[1])));
}

// shed6 says that a packet is more than its sender may bring.
static __always_inline int shed6(struct __sk_buff *skb, int what)
{
	__u32 *index = limited6(skb, ETH);

	return index && to_daemon(skb) && over6(skb, ETH, *index, AT_INTERFACE, what);
}

// shed_inside is shed6 for IPv4 of a workload that has it inside.
static __attribute__((noinline)) int shed_inside(struct __sk_buff *skb, struct entry_inside *in, int what)
{
	struct sender k = { .length = 128 };
	__u32 *index, header;

	put6((__u32 *)k.addr, in->hi, in->lo);
	index = bpf_map_lookup_elem(&senders, &k);
	if (!index)
		return 0;
	header = header4(skb, ETH);
	return header && over(*index, AT_INTERFACE, skb->len - ETH, opens4(skb, header), what);
}

// over_uplink says that a packet is more than may come for whom it is for.
static __always_inline int over_uplink(struct __sk_buff *skb, int what)
{
	if (skb->protocol == be16(ETH_P_IP))
		return over4(skb, ETH, AT_INTERFACE, what);
	return skb->protocol == be16(ETH_P_IPV6) && over_fabric(skb, what);
}

// uplink stands where IPv4 packets for workloads come in, or at an edge those of the fabric.
SEC("tc")
int uplink(struct __sk_buff *skb)
{
	__u32 bytes = skb->len - ETH;
	int action = TC_ACT_UNSPEC, delivered = 0, why;

	if (caps() && over_uplink(skb, CAPS))
		return TC_ACT_SHOT;
	why = skb->protocol == be16(ETH_P_IPV6) ? from_fabric(skb, &action) : to6(skb, &action, &delivered);
	if (passes(why) && over_uplink(skb, SHARE))
		return TC_ACT_SHOT;
	return judge(why, action, bytes, delivered ? 4 * NUM_REASONS : 0);
}

// workload stands at a workload's interface on the host's side.
SEC("tc")
int workload(struct __sk_buff *skb)
{
	__u32 bytes = skb->len - ETH;
	int action = TC_ACT_UNSPEC, why;

	if (caps() && skb->protocol == be16(ETH_P_IPV6) && shed6(skb, CAPS))
		return TC_ACT_SHOT;
	why = to4(skb, &action);
	if (passes(why) && shed6(skb, SHARE))
		return TC_ACT_SHOT;
	return judge(why, action, bytes, NUM_REASONS);
}

// sent4 stands at a workload's own interface on the host's side, also where that is
// the port of a bridge, if the workload has its IPv4 address inside.
SEC("tc")
int sent4(struct __sk_buff *skb)
{
	__u32 bytes = skb->len - ETH, key = skb->ifindex;
	struct entry_inside *in;
	struct config *c;
	struct tables t = {};
	void *insiders;
	int action = TC_ACT_SHOT, delivered = 0, why;

	if (skb->protocol != be16(ETH_P_IP))
		return TC_ACT_UNSPEC;
	why = tables_inside(&t, &insiders);
	if (why) {
		tell(why, bytes, 2 * NUM_REASONS);
		return TC_ACT_SHOT;
	}
	c = t.c; // pass4 takes what is in force by then, or nothing
	in = bpf_map_lookup_elem(insiders, &key);
	if (!in) {
		tell(SPOOFED, bytes, 2 * NUM_REASONS);
		return TC_ACT_SHOT;
	}
	if (caps() && shed_inside(skb, in, CAPS))
		return TC_ACT_SHOT;
	why = pass4(skb, &t, in, &action, &delivered);
	tell(why, bytes, delivered ? 4 * NUM_REASONS : 2 * NUM_REASONS);
	if (!why)
		return action;
	if (why == LOST)
		return TC_ACT_SHOT;
	if (shed_inside(skb, in, SHARE))
		return TC_ACT_SHOT;
	return steer(skb, c, in);
}

// given4 stands at the TAP, from which the daemon's frames come.
SEC("tc")
int given4(struct __sk_buff *skb)
{
	__u32 bytes = skb->len - ETH;
	int action = TC_ACT_SHOT, why = give(skb, &action);

	tell(why, bytes, 3 * NUM_REASONS);
	return why ? TC_ACT_SHOT : action;
}

char _license[] SEC("license") = "Dual BSD/GPL";

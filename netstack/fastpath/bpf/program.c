// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// The fast path: it translates the packets that are plain and passes all others
// on as they came, to the daemon. It knows no rule of its own: each of its bytes
// is what the Go package translator makes of the same packet, and where that
// would do anything but translate, the packet is passed on.
//
// A translated packet goes from here to the device it leaves by. Netfilter does
// not see it, nor does what follows here; packet sockets at both devices do, and
// so do filters and queues at the egress of the device. See ../README.md.
#include "to4.h"
#include "to6.h"

// judge counts what became of a packet and says what the kernel is to do with it.
static __always_inline int judge(int why, int action, __u32 bytes, __u32 first)
{
	__u32 at = first + why;
	struct count *n = bpf_map_lookup_elem(&reasons, &at);

	if (n) {
		n->packets++;
		n->bytes += bytes;
	}
	if (why == LOST)
		return TC_ACT_SHOT;
	return why ? TC_ACT_UNSPEC : action;
}

// uplink stands where IPv4 packets for workloads come in.
SEC("tc")
int uplink(struct __sk_buff *skb)
{
	__u32 bytes = skb->len - ETH;
	int action = TC_ACT_UNSPEC, why = to6(skb, &action);

	return judge(why, action, bytes, 0);
}

// workload stands at a workload's interface on the host's side.
SEC("tc")
int workload(struct __sk_buff *skb)
{
	__u32 bytes = skb->len - ETH;
	int action = TC_ACT_UNSPEC, why = to4(skb, &action);

	return judge(why, action, bytes, NUM_REASONS);
}

char _license[] SEC("license") = "Dual BSD/GPL";

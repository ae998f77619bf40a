// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// Which queue of the device a packet comes to (TUNSETSTEERINGEBPF). Each processor has a
// queue for bulk, and one for packets of flows that send little now and then: these do
// not stand behind superpackets, as one thread reads both and gives them out first. No
// connection is remembered, but what flows of the same hash have sent lately; a collision costs one
// of them its precedence for a moment.
#include "../../fastpath/bpf/kernel.h"

enum {
	FLOWS = 4096,
	HOSTS = 1024,
	EPOCH = 23,	   // a shift: an epoch has 2^23 ns, 8.4 ms
	CALM = 12,	   // epochs without a packet, after which what a flow had in bulk's queue has left it
	SPARSE = 16 << 10, // bytes that a sparse flow may send in an epoch
	CROWD = 64 << 10,  // bytes that all sparse flows of a host may send in an epoch
	PACKET = 256,	   // bytes that a packet counts besides its own
};

// what flows, or hosts, of one hash sent in an epoch, and the last epoch in which a
// packet of such a flow was bulk.
struct recent {
	__u32 epoch, cost, bulk, unused;
};

struct place {
	__u32 shift;  // of bulk, from the processor that it comes on
	__u32 queues; // for bulk
	__u32 link;   // size of the link header
	__u32 sparse; // 1: there are as many queues for sparse flows
	__u32 seed;   // of the hash, so that nobody can choose whose flows he meets
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FLOWS + HOSTS);
	__type(key, __u32);
	__type(value, struct recent);
} recents SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct place);
} places SEC(".maps");

static __always_inline __u64 mix(__u64 h, __u64 word)
{
	h = (h ^ word) * 0x9e3779b97f4a7c15ull;
	return h ^ h >> 29;
}

// a packet's place among flows and hosts. Its host is who sends IPv6, or gets IPv4: the
// workload, as far as an address says.
struct keys {
	__u32 flow, host;
};

struct addresses {
	__u64 word[4];
};

static __always_inline int keys(struct __sk_buff *skb, __u32 at, __u64 seed, struct keys *k)
{
	struct addresses a = {};
	__u64 host;
	__u32 ports = 0;
	__u8 first, protocol;
	__u16 fragment = 0;

	if (bpf_skb_load_bytes(skb, at, &first, 1))
		return 0;
	if (first >> 4 == 4) {
		if (bpf_skb_load_bytes(skb, at + 12, a.word, 8) || bpf_skb_load_bytes(skb, at + 9, &protocol, 1) ||
		    bpf_skb_load_bytes(skb, at + 6, &fragment, 2))
			return 0;
		host = mix(seed, be64(a.word[0]) << 32);
		at += (first & 15) * 4;
	} else {
		if (bpf_skb_load_bytes(skb, at + 8, &a, 32) || bpf_skb_load_bytes(skb, at + 6, &protocol, 1))
			return 0;
		host = mix(mix(seed, a.word[0]), a.word[1]);
		at += 40;
	}
	if ((protocol == 6 || protocol == 17) && !(fragment & be16(0x3fff)))
		bpf_skb_load_bytes(skb, at, &ports, 4);
	k->host = FLOWS + (mix(host, 0) >> 32 & (HOSTS - 1));
	k->flow = mix(mix(mix(mix(mix(seed << 32 | ports, a.word[0]), a.word[1]), a.word[2]), a.word[3]), 0) >> 32 & (FLOWS - 1);
	return 1;
}

// spend adds to what was sent in this epoch.
static __always_inline __u32 spend(struct recent *r, __u32 now, __u32 cost)
{
	if (r->epoch != now) {
		r->epoch = now;
		r->cost = 0;
	}
	return r->cost += cost;
}

// sparse says that a packet's flow sends little. One that was bulk is so until it has
// paused, or its packets would change places.
static __always_inline int sparse(struct __sk_buff *skb, struct place *p)
{
	__u32 now = bpf_ktime_get_ns() >> EPOCH, cost = skb->len + PACKET;
	struct recent *flow, *host;
	struct keys k;

	if (!keys(skb, p->link, p->seed, &k))
		return 0;
	flow = bpf_map_lookup_elem(&recents, &k.flow);
	host = bpf_map_lookup_elem(&recents, &k.host);
	if (!flow || !host)
		return 0;
	if (spend(flow, now, cost) > SPARSE || (flow->bulk && now - flow->bulk <= CALM) || spend(host, now, cost) > CROWD) {
		flow->bulk = now;
		return 0;
	}
	return 1;
}

SEC("socket")
int steer(struct __sk_buff *skb)
{
	__u32 k = 0, processor = bpf_get_smp_processor_id();
	struct place *p = bpf_map_lookup_elem(&places, &k);

	if (!p || !p->queues)
		return processor;
	if (p->sparse && sparse(skb, p))
		return p->queues + processor % p->queues;
	return (processor + p->shift) % p->queues;
}

char _license[] SEC("license") = "Dual BSD/GPL";

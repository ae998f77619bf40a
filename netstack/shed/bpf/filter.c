// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// The policer in front of the daemon's queues: it stands in the translator's device
// (TUNSETFILTEREBPF), where every packet that the host leads to the daemon comes by on the
// CPU of who sent it, and drops what is over its workload's limits. Who is in no map
// has none. It is there only while somebody has a limit.
#include "../../fastpath/bpf/kernel.h"

enum {
	MAX_LIMITED = 2048, // who may have a limit at once, each way
	MAX_BLOCKS = 16384, // of addresses and ports that are theirs
	IPV4_HEADER = 20,
	IPV6_HEADER = 40,
	TCP = 6,
	SYN_ACK = 0x12,
	SYN = 0x02,
	BPF_F_NO_PREALLOC = 1,
};

enum bpf_map_type_more {
	BPF_MAP_TYPE_LPM_TRIE = 11,
};

// key6 is whose IPv6 source it is, key4 whose IPv4 destination and port.
struct key6 {
	__u32 length;
	__u8 addr[16];
};

struct key4 {
	__u32 length;
	__u8 addr[4];
	__u8 port[2];
	__u8 pad[2];
};

// rate is how fast something may come: so many ns for each 1024 units of it, and
// burst ns of it at once. 0: as it likes.
struct rate {
	__u64 each, burst;
};

// limit is what the daemon says of one way of one workload.
struct limit {
	struct rate packets, bytes, connections;
};

// state is what has come of it: until when each rate is used up (the generic cell rate
// algorithm), and what was dropped.
struct state {
	__u64 packets, bytes, connections;
	__u64 dropped, dropped_bytes;
};

#define LPM(name, key_t)                                \
	struct {                                        \
		__uint(type, BPF_MAP_TYPE_LPM_TRIE);    \
		__uint(max_entries, MAX_BLOCKS);        \
		__uint(map_flags, BPF_F_NO_PREALLOC);   \
		__type(key, key_t);                     \
		__type(value, __u32);                   \
	} name SEC(".maps")

LPM(senders, struct key6);
LPM(receivers, struct key4);

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_LIMITED);
	__type(key, __u32);
	__type(value, struct limit);
} limits SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_LIMITED);
	__type(key, __u32);
	__type(value, struct state);
} states SEC(".maps");

static __u64 (*bpf_ktime_get_ns)(void) = (void *)5;

// after is until when a rate is used up once so many units have come; 0: it is.
static __always_inline __u64 after(struct rate *r, __u64 until, __u64 now, __u64 units)
{
	__u64 next;

	if (!r->each)
		return now;
	next = (until > now ? until : now) + (units * r->each >> 10);
	return next - now > r->burst ? 0 : next;
}

// over says that a packet is over a limit, and counts it. CPUs may race for a state: what
// gets through by that is a packet now and then.
static __always_inline int over(__u32 index, __u32 bytes, int opens)
{
	struct limit *l = bpf_map_lookup_elem(&limits, &index);
	struct state *s = bpf_map_lookup_elem(&states, &index);
	__u64 now, packets, octets, connections;

	if (!l || !s)
		return 0;
	now = bpf_ktime_get_ns();
	packets = after(&l->packets, s->packets, now, 1024);
	octets = after(&l->bytes, s->bytes, now, bytes);
	connections = opens ? after(&l->connections, s->connections, now, 1024) : now;
	if (!packets || !octets || !connections) {
		__sync_fetch_and_add(&s->dropped, 1);
		__sync_fetch_and_add(&s->dropped_bytes, bytes);
		return 1;
	}
	s->packets = packets;
	s->bytes = octets;
	if (opens)
		s->connections = connections;
	return 0;
}

// opens says that a TCP header at some offset opens a connection.
static __always_inline int opens(struct __sk_buff *skb, __u32 at)
{
	__u8 flags;

	return !bpf_skb_load_bytes(skb, at + 13, &flags, 1) && (flags & SYN_ACK) == SYN;
}

static __always_inline int over6(struct __sk_buff *skb)
{
	struct key6 k = { .length = 128 };
	__u32 *index;
	__u8 next;

	if (bpf_skb_load_bytes(skb, 8, k.addr, sizeof(k.addr)) || bpf_skb_load_bytes(skb, 6, &next, 1))
		return 0;
	index = bpf_map_lookup_elem(&senders, &k);
	return index && over(*index, skb->len, next == TCP && opens(skb, IPV6_HEADER));
}

// over4 takes the port where there is one, the identifier of an echo message among them:
// what has none goes by the address alone.
static __always_inline int over4(struct __sk_buff *skb)
{
	struct key4 k = { .length = 48 };
	__u8 h[IPV4_HEADER];
	__u32 *index, upper;

	if (bpf_skb_load_bytes(skb, 0, h, sizeof(h)))
		return 0;
	upper = (h[0] & 15) * 4;
	__builtin_memcpy(k.addr, h + 16, 4);
	if ((h[6] & 0x1f) || h[7] || bpf_skb_load_bytes(skb, upper + (h[9] == 1 ? 4 : 2), k.port, 2))
		k.length = 32;
	index = bpf_map_lookup_elem(&receivers, &k);
	return index && over(*index, skb->len, h[9] == TCP && k.length == 48 && opens(skb, upper));
}

SEC("socket")
int police(struct __sk_buff *skb)
{
	__u8 first;

	if (bpf_skb_load_bytes(skb, 0, &first, 1))
		return -1;
	if (first >> 4 == 6)
		return over6(skb) ? 0 : -1;
	return over4(skb) ? 0 : -1;
}

const enum bpf_map_type_more *_more __attribute__((unused));
char _license[] SEC("license") = "Dual BSD/GPL";

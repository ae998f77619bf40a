// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// The policer: it holds workloads to what they may bring to the daemon. Only who has a limit
// is in its maps, which the daemon writes (netstack/shed). It stands in two places: where
// packets come in, and in front of the daemon's queues. Each has an account of its own of
// the same rate, so that a packet which comes by both is not counted twice.
#pragma once
#include "kernel.h"

enum {
	MAX_LIMITED = 16384, // who may have a limit at once, each way
	MAX_BLOCKS = 65536, // of addresses and ports that are theirs
	AT_QUEUE = 0,       // whose account it is: that of who stands in front of the queues,
	AT_INTERFACE = MAX_LIMITED, // or where packets come in

	// What a packet is held to: what an operator allows, of all packets, and what may be
	// brought to the daemon.
	CAPS = 1,
	SHARE = 2,

	HEADER6 = 40,
	IS_ICMP = 1,
	IS_TCP = 6,
	SYN_ACK = 0x12,
	SYN = 0x02,
};

// sender is whose IPv6 source it is, receiver whose IPv4 destination and port.
struct sender {
	__u32 length;
	__u8 addr[16];
};

struct receiver {
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
	struct rate packets, bytes, connections; // an operator's, of all packets
	struct rate share;                       // packets to the daemon
};

// state is what has come of it: until when each rate is used up (the generic cell rate
// algorithm), and what was dropped.
struct state {
	__u64 packets, bytes, connections, share;
	__u64 dropped, dropped_bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, MAX_BLOCKS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct sender);
	__type(value, __u32);
} senders SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, MAX_BLOCKS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct receiver);
	__type(value, __u32);
} receivers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_LIMITED);
	__type(key, __u32);
	__type(value, struct limit);
} limits SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * MAX_LIMITED);
	__type(key, __u32);
	__type(value, struct state);
} states SEC(".maps");

// capping is 1 while an operator's limits are to be held.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} capping SEC(".maps");

static __always_inline int caps(void)
{
	__u32 zero = 0, *on = bpf_map_lookup_elem(&capping, &zero);

	return on && *on;
}


// after is until when a rate is used up once so many units have come; 0: it is.
static __always_inline __u64 after(struct rate *r, __u64 until, __u64 now, __u64 units)
{
	__u64 next;

	if (!r->each)
		return now;
	next = (until > now ? until : now) + (units * r->each >> 10);
	return next - now > r->burst ? 0 : next;
}

// DRAINING in a share's time says that it was used up: then nothing passes until all of it
// is there again. Who wakes up for one packet now and then has more to do than who gets as
// many at once.
#define DRAINING 1ULL

// share_after is after for a share; DRAINING: it is used up.
static __always_inline __u64 share_after(struct rate *r, __u64 until, __u64 now)
{
	__u64 next;

	if (until & DRAINING && until > now)
		return DRAINING;
	next = after(r, until, now, 1024);
	return next ? next & ~DRAINING : DRAINING;
}

// over says that a packet is over a limit, and counts it. CPUs may race for a state: what
// gets through by that is a packet now and then.
static __always_inline int over(__u32 index, __u32 place, __u32 bytes, int opens, int what)
{
	__u32 account = index + place;
	struct limit *l = bpf_map_lookup_elem(&limits, &index);
	struct state *s = bpf_map_lookup_elem(&states, &account);
	__u64 now, packets, octets, connections, share;

	if (!l || !s)
		return 0;
	now = bpf_ktime_get_ns();
	packets = what & CAPS ? after(&l->packets, s->packets, now, 1024) : now;
	octets = what & CAPS ? after(&l->bytes, s->bytes, now, bytes) : now;
	connections = what & CAPS && opens ? after(&l->connections, s->connections, now, 1024) : now;
	share = what & SHARE ? share_after(&l->share, s->share, now) : now;
	if (share == DRAINING)
		s->share |= DRAINING;
	if (!packets || !octets || !connections || share == DRAINING) {
		__sync_fetch_and_add(&s->dropped, 1);
		__sync_fetch_and_add(&s->dropped_bytes, bytes);
		return 1;
	}
	if (what & CAPS) {
		s->packets = packets;
		s->bytes = octets;
		if (opens)
			s->connections = connections;
	}
	if (what & SHARE)
		s->share = share;
	return 0;
}

// opens says that a TCP header at some offset opens a connection.
static __always_inline int opens(struct __sk_buff *skb, __u32 at)
{
	__u8 flags;

	return !bpf_skb_load_bytes(skb, at + 13, &flags, 1) && (flags & SYN_ACK) == SYN;
}

// limited6 is the limit of who sent the IPv6 packet that begins at some offset, or 0.
static __always_inline __u32 *limited6(struct __sk_buff *skb, __u32 at)
{
	struct sender k = { .length = 128 };

	if (bpf_skb_load_bytes(skb, at + 8, k.addr, sizeof(k.addr)))
		return 0;
	return bpf_map_lookup_elem(&senders, &k);
}

// over6 and over4 have frames of their own: the programs share 512 bytes of stack.
static __attribute__((noinline, unused)) int over6(struct __sk_buff *skb, __u32 at, __u32 index, __u32 place, int what)
{
	__u8 next = 0;

	bpf_skb_load_bytes(skb, at + 6, &next, 1);
	return over(index, place, skb->len - at, next == IS_TCP && opens(skb, at + HEADER6), what);
}

// header4 is what matters of an IPv4 header: where the upper layer begins, in 16 bits, above
// them the protocol, and LATER where there is no upper layer; 0: there is no header.
enum { LATER = 1 << 24 };

static __always_inline __u32 header4(struct __sk_buff *skb, __u32 at)
{
	__u8 first, middle[4]; // from the fragment's offset to the protocol

	if (bpf_skb_load_bytes(skb, at, &first, 1) || bpf_skb_load_bytes(skb, at + 6, middle, 4))
		return 0;
	return (at + (first & 15) * 4) | (__u32)middle[3] << 16 | ((middle[0] & 0x1f) || middle[1] ? LATER : 0);
}

// opens4 says that an IPv4 packet opens a TCP connection.
static __always_inline int opens4(struct __sk_buff *skb, __u32 header)
{
	return header >> 16 == IS_TCP && opens(skb, header & 0xffff);
}

// chosen4 is where the number lies that chooses who it is for: the destination port, the
// identifier of an echo message, or the source port of what another ICMP message quotes.
// 0: there is none.
static __always_inline __u32 chosen4(struct __sk_buff *skb, __u32 header)
{
	__u32 at = header & 0xffff;
	__u8 type, first, quoted;

	if (header & LATER)
		return 0;
	if (header >> 16 != IS_ICMP)
		return at + 2;
	if (bpf_skb_load_bytes(skb, at, &type, 1))
		return 0;
	if (type == 0 || type == 8)
		return at + 4;
	at += 8;
	if (bpf_skb_load_bytes(skb, at, &first, 1) || bpf_skb_load_bytes(skb, at + 9, &quoted, 1))
		return 0;
	return at + (first & 15) * 4 + (quoted == IS_ICMP ? 4 : 0);
}

// receiver4 says whom an IPv4 packet is for, by the address alone where there is no port.
static __always_inline __u32 receiver4(struct __sk_buff *skb, __u32 at, struct receiver *k)
{
	__u32 port, header = header4(skb, at);

	if (!header || bpf_skb_load_bytes(skb, at + 16, k->addr, 4))
		return 0;
	port = chosen4(skb, header);
	if (!port || bpf_skb_load_bytes(skb, port, k->port, 2))
		k->length = 32;
	return header;
}

static __attribute__((noinline, unused)) int over4(struct __sk_buff *skb, __u32 at, __u32 place, int what)
{
	struct receiver k = { .length = 48 };
	__u32 *index, header = receiver4(skb, at, &k);

	if (!header)
		return 0;
	index = bpf_map_lookup_elem(&receivers, &k);
	return index && over(*index, place, skb->len - at, opens4(skb, header), what);
}

const struct sender *_sender __attribute__((unused));
const struct receiver *_receiver __attribute__((unused));
const struct limit *_limit __attribute__((unused));
const struct state *_state __attribute__((unused));

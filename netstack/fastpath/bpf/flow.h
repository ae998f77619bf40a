// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// Itemising what was translated by flow, as the daemon's queues do (package flows).
// The daemon takes the map away every few seconds and leaves an empty one. No packet
// depends on any of it: what finds no room is summed up by mapping, and told.
#pragma once
#include "rewrite.h"

// itemising is set before the program is loaded: of so many packets one is counted, by
// chance. Where it is 0, the kernel's verifier takes all of this out.
const volatile __u32 itemising = 0;

enum { ITEMISED, UNITEMISED, NUM_FLOW_MAPS };

struct flow_key {
	__u32 local, remote; // the workload's IPv4 address, and the other's
	__u32 slot;
	__u16 local_port, remote_port; // of an echo message: its identifier, and its type
	__u8 proto;
	__u8 pad[3];
};

struct flow_sum {
	__u64 first, last;         // of CLOCK_MONOTONIC
	__u64 packets[2], bytes[2]; // sent and received, as on an IPv4 wire
	__u32 flags[2];            // of TCP
	__u8 began;                // the direction of the first packet
	__u8 pad[7];
};

struct inner_flows {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(struct flow_key));
	__uint(value_size, sizeof(struct flow_sum));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, NUM_FLOW_MAPS);
	__type(key, __u32);
	__array(values, struct inner_flows);
} flows SEC(".maps");

static void *(*bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;
static __u32 (*bpf_get_prandom_u32)(void) = (void *)7;

enum { BPF_NOEXIST = 1 };

// one is what a packet adds.
struct one {
	__u64 now, packets, bytes;
	__u32 flags;
	__u32 received;
};

// sheet is what is written to put a flow into its map: the stack is full.
struct sheet {
	struct flow_key key;
	struct flow_sum sum;
	struct one one;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sheet);
} sheets SEC(".maps");

// counted adds to a flow that is there, or begins one. 0: there is no room.
static __always_inline int counted(void *map, struct sheet *sheet)
{
	struct flow_key *k = &sheet->key;
	struct one *o = &sheet->one;
	struct flow_sum *s = bpf_map_lookup_elem(map, k);
	__u32 d = o->received & 1;

	if (!s) {
		struct flow_sum *new = &sheet->sum;

		__builtin_memset(new, 0, sizeof(*new));
		new->first = new->last = o->now;
		new->began = d;
		new->packets[d] = o->packets;
		new->bytes[d] = o->bytes;
		new->flags[d] = o->flags;
		if (!bpf_map_update_elem(map, k, new, BPF_NOEXIST))
			return 1;
		s = bpf_map_lookup_elem(map, k); // another CPU may have begun it meanwhile
		if (!s)
			return 0;
	}
	s->last = o->now;
	__sync_fetch_and_add(&s->packets[d], o->packets);
	__sync_fetch_and_add(&s->bytes[d], o->bytes);
	if ((s->flags[d] & o->flags) != o->flags)
		__sync_fetch_and_or(&s->flags[d], o->flags);
	return 1;
}

// itemise counts a packet that is IPv4 or IPv6 now, with an upper layer behind ip
// bytes of header.
static __always_inline void itemise(struct context *ctx, struct packet *p, __u32 slot, __u32 ip, int received)
{
	__u32 which = ITEMISED, headers = p->headers, data = p->payload - headers;
	struct sheet *sheet;
	struct flow_key *k;
	struct one *o;
	void *map;

	if (!itemising)
		return;
	if (itemising > 1 && bpf_get_prandom_u32() % itemising)
		return;
	map = bpf_map_lookup_elem(&flows, &which);
	which = 0;
	sheet = bpf_map_lookup_elem(&sheets, &which);
	if (!map || !sheet)
		return;
	__builtin_memset(sheet, 0, sizeof(*sheet));
	k = &sheet->key;
	o = &sheet->one;
	o->packets = 1;
	o->received = received;
	k->slot = slot;
	k->local = received ? p->dst4 : p->src4;
	k->remote = received ? p->src4 : p->dst4;
	k->proto = p->proto;
	if (p->proto == TCP) {
		__u8 *flags = frame(ctx) + ETH + ip + 13;

		if (flags + 1 <= frame_end(ctx))
			o->flags = *flags;
	}
	if (p->proto == TCP || p->proto == UDP) {
		k->local_port = received ? p->dport : p->sport;
		k->remote_port = received ? p->sport : p->dport;
	} else {
		k->proto = ICMP4;
		k->local_port = p->sport;
		k->remote_port = 8 << 8;
	}
	if (p->gso && data > p->gso)
		o->packets = (data + p->gso - 1) / p->gso;
	o->bytes = data + o->packets * (SIZE4 + headers);
	o->now = bpf_ktime_get_ns();
	if (counted(map, sheet))
		return;
	which = UNITEMISED;
	map = bpf_map_lookup_elem(&flows, &which);
	if (!map)
		return;
	__builtin_memset(k, 0, sizeof(*k));
	k->slot = slot;
	if (!counted(map, sheet)) {
		k->slot = 0; // which is there from the beginning
		counted(map, sheet);
	}
}

const struct flow_key *_flow_key __attribute__((unused));
const struct flow_sum *_flow_sum __attribute__((unused));

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// What workloads are held to, by the tables of translator/policy. Here it is only ever
// allowed: what is not plainly so, or is so and yet to be told of, goes to the daemon.
#pragma once
#include "packet.h"

#define HERE COVER(9)
#define PASS(why) do { HERE; return why; } while (0)

// The protocols of translator/policy that are plain, in its numbers.
enum { SLOT_TCP = 0, SLOT_UDP = 1, SLOT_ICMP = 5 };

enum { INGRESS = 8 }; // added to a protocol; egress has no mark

// PLAINLY and BY_PORT are in a ref, NODE in a value of the trie.
enum { PLAINLY = 1u << 30 };
#define BY_PORT (1u << 31)
#define NODE (1u << 31)

// WORD reads a word of the table, which it asks for by line: the one variable of those
// who do that must be on the stack. Who cannot says no at once: the kernel's verifier
// would go on with both, at each step.
#define WORD(to, at)                                                        \
	do {                                                                \
		__u32 place = (at);                                         \
		struct line *l;                                             \
		line = place / LINE_WORDS;                                  \
		l = bpf_map_lookup_elem(table, &line);                      \
		if (!l)                                                     \
			return 0;                                           \
		to = l->word[place % LINE_WORDS];                           \
	} while (0)

// UNDER replaces the number of a chunk by its value for a byte of the address.
#define UNDER(v, byte)                                                      \
	do {                                                                \
		__u32 i = (byte) & 255, w = i >> 6, n;                      \
		struct line *l;                                             \
		line = c->policy_chunks / LINE_WORDS + ((v) & ~NODE);       \
		l = bpf_map_lookup_elem(table, &line);                      \
		if (!l)                                                     \
			return 0;                                           \
		n = l->word[9] >> (8 * w) & 0xff;                           \
		n += ones(((__u64)l->word[2 * w + 1] << 32 | l->word[2 * w]) << (63 - (i & 63))); \
		WORD(v, c->policy_values + l->word[8] + n - 1);             \
	} while (0)

// ones counts bits.
static __always_inline __u32 ones(__u64 v)
{
	v -= v >> 1 & 0x5555555555555555;
	v = (v & 0x3333333333333333) + (v >> 2 & 0x3333333333333333);
	v = (v + (v >> 4)) & 0x0f0f0f0f0f0f0f0f;
	return v * 0x0101010101010101 >> 56;
}

// class_of finds the class of an address; 0: there is none to be had.
static __always_inline int class_of(void *table, struct config *c, __u32 a, __u32 *class)
{
	__u32 line, v, at = (a >> 16) % (LINE_WORDS / HEAD_WORDS) * HEAD_WORDS, part = a >> 10 & 63;
	__u32 bits = at + (part >> 5);
	struct line *l;

	line = (a >> 16) / (LINE_WORDS / HEAD_WORDS);
	l = bpf_map_lookup_elem(table, &line);
	if (!l)
		return 0;
	asm volatile("" : "+r"(bits)); // an or, of whose result Linux 6.1 knows no bounds
	if (!(l->word[bits % LINE_WORDS] >> (part & 31) & 1)) {
		HERE;
		*class = l->word[at + 2];
		return 1;
	}
	v = l->word[at + 3];
	if (v & NODE) {
		HERE;
		UNDER(v, a >> 8);
	}
	if (v & NODE) {
		HERE;
		UNDER(v, a);
	}
	*class = v;
	return !(v & NODE);
}

// plain_at says that the last of the ranges at a place that begins at a port or before
// it plainly allows.
static __always_inline int plain_at(void *table, __u32 at, __u32 port)
{
	__u32 line, low = 0, high, v;

	WORD(high, at);
	for (int i = 0; i < 17; i++) {
		__u32 middle = (low + high) / 2, mask;

		if (low + 1 >= high) {
			HERE;
			break;
		}
		WORD(v, at + 1 + middle);
		mask = ((__u64)(v >> 16) - port - 1) >> 32; // all ones where it begins at port or before
		asm volatile("" : "+r"(mask)); // no branch, of which the verifier would take both sides each time
		low = (low & ~mask) | (middle & mask);
		high = (high & mask) | (middle & ~mask);
	}
	WORD(v, at + 1 + low);
	return v & 1;
}

// plainly says that something is plainly allowed: the policies of a number, a direction
// and protocol, and a port. It is judged by itself, as look is.
__attribute__((noinline)) int plainly(struct config *c, __u32 remote, __u32 number_port, __u32 about)
{
	__u32 line, class = 0, at, number = number_port >> 16;
	void *table;

	if (!c)
		return 0;
	line = c->generation;
	table = bpf_map_lookup_elem(&policy, &line);
	if (!table || number >= c->policy_numbers || !class_of(table, c, remote, &class))
		return 0;
	WORD(at, c->policy_rows + number);
	if (at == ~0u)
		return 0;
	WORD(at, c->policy_pages + at + class / PAGE_CLASSES);
	WORD(at, c->policy_leaves + at * PAGE_CLASSES + class % PAGE_CLASSES);
	WORD(at, c->policy_cells + at * LINE_WORDS + about);
	if (at & BY_PORT) {
		HERE;
		return plain_at(table, c->policy_ranges + (at & ~BY_PORT), number_port & 0xffff);
	}
	HERE;
	return (at & PLAINLY) != 0;
}

// own_port says that connections of the workload itself come from a port: the block of
// 2^client ports at a multiple of that, in its longest run; or what Linux takes.
static __always_inline int own_port(struct entry6 *e, __u16 port)
{
	__u32 rest = (1u << (e->client & 31)) - 1;

	if (!(e->flags & SHARED)) {
		HERE;
		return port >= 32768;
	}
	HERE;
	return (port & ~rest) == ((e->first + rest) & ~rest);
}

// held says whether what a workload sends (out) or gets goes by what it is held to.
static __always_inline int held(struct tables *t, struct packet *p, __u32 number, int out, int client)
{
	__u32 port = 0, about = SLOT_ICMP;

	if (p->proto == TCP || p->proto == UDP) {
		about = p->proto == TCP ? SLOT_TCP : SLOT_UDP;
		port = out ? p->dport : p->sport;
		// To a port of the other end: what the workload begins, and the answers to it.
		// Else to its own. An answer out of a port of neither goes to the daemon.
		if (out ? !client && !(p->proto == TCP && p->asks) : !client || (p->proto == TCP && p->asks)) {
			HERE;
			about += INGRESS;
			port = out ? p->sport : p->dport;
		}
	} else if (!out != !p->asks) {
		HERE;
		about += INGRESS;
	}
	if (!plainly(t->c, out ? p->dst4 : p->src4, number << 16 | port, about))
		PASS(POLICY);
	HERE;
	return TRANSLATED;
}

#undef HERE
#undef PASS

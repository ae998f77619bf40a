// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// IPv6 to IPv4, as translator/plain.go and to4.go have it.
#pragma once
#include "edge.h"
#include "mapt.h"

#define HERE COVER(5)
#define PASS(why) do { HERE; return why; } while (0)

// identification is that of n IPv4 packets with DF=0: never 0, and within the
// share of who sends.
static __always_inline __u16 identification(struct packet *p, __u32 n)
{
	__u32 zero = 0, *last;
	struct ids *own = bpf_map_lookup_elem(&drawn, &zero);
	__u32 next;
	__u16 id;

	if (!own)
		return 1;
	if (own->left < n) {
		__u32 some = (n >> 8) + 1;

		last = bpf_map_lookup_elem(&blocks, &zero);
		if (!last)
			return 1;
		HERE;
		own->next = (__sync_fetch_and_add(last, some) << 8) & 0xffff;
		own->left = some << 8;
	}
	next = own->next;
	if (next == 0 || next + n > 0x10000) {
		HERE;
		next = 1;
	}
	own->next = (next + n) & 0xffff;
	own->left -= n;
	id = p->id_base | (next & p->id_mask);
	if (!id) {
		HERE;
		id = p->id_base | ((next + 1) & p->id_mask);
	}
	if (!id) {
		HERE;
		return 1;
	}
	HERE;
	return id;
}

// read6 reads an IPv6 packet. Like look, it is judged by itself: behind it the
// kernel's verifier has one state, not one for each kind of packet.
__attribute__((noinline)) int read6(struct context *ctx, struct packet *p)
{
	__u8 *h = frame(ctx) + ETH;
	void *end = frame_end(ctx);
	__u64 *w = (__u64 *)(h + 8);
	__u32 first;
	int why;

	if (!p)
		return TRUNCATED;
	if (h + SIZE6 + LEAST_UPPER > (__u8 *)end)
		PASS(TRUNCATED);
	if (*(__u16 *)(h - 2) != be16(ETH_P_IPV6))
		PASS(NOT_PLAIN_LINK);
	first = be32(*(__u32 *)h);
	if (first >> 28 != 6)
		PASS(TRUNCATED);
	p->class = first >> 20;
	p->label = first & 0xfffff;
	p->payload = be16(*(__u16 *)(h + 4));
	if (frame_length(ctx) < ETH + SIZE6 + p->payload)
		PASS(TRUNCATED);
	if (p->payload < LEAST_UPPER)
		PASS(TRUNCATED);
	p->proto = h[6];
	p->hops = h[7];
	if (p->hops <= 1)
		PASS(HOP_LIMIT);
	p->src_hi = be64(w[0]);
	p->src_lo = be64(w[1]);
	p->dst_hi = be64(w[2]);
	p->dst_lo = be64(w[3]);
	why = upper(p, h + SIZE6, end, ICMP6, 128, 129);
	if (why)
		return why;
	return super(ctx, p);
}

// by_fabric says that an interface is one of the fabric.
static __always_inline int by_fabric(struct config *c, __u32 ifindex)
{
	for (__u32 i = 0; i < MAX_UPLINKS; i++) {
		if (c->fabric[i] == ifindex) {
			HERE;
			return 1;
		}
	}
	HERE;
	return 0;
}

// source4 finds whose packet it is, and that the interface is theirs.
static __always_inline int source4(struct context *ctx, struct tables *t, struct packet *p)
{
	struct config *c = t->c;
	struct entry6 *e;
	__u32 length;

	if (never6(p->src_hi, p->src_lo))
		PASS(NEVER_TRANSLATED);
	if (own6(c, p->src_hi, p->src_lo))
		PASS(OWN_ADDRESS);
	e = lookup6(t, p->src_hi, p->src_lo, &length);
	if (!e) {
		HERE;
		p->rule = 1; // which comes in by whichever interface, as to the daemon: see ce4
		return TRANSLATED;
	}
	if (e->flags & INSIDE)
		PASS(HAS_INSIDE); // see rule 1.6.closed
	if (e->ifindex != ingress(ctx) && (e->ifindex != FABRIC || !by_fabric(c, ingress(ctx))))
		PASS(WRONG_INTERFACE);
	p->src4 = e->v4 | suffix4(p->src_hi, p->src_lo, length, e->length4);
	if (never4(p->src4))
		PASS(NEVER_TRANSLATED);
	if (e->flags & SHARED && !owns(t, e, p->src4, p->sport)) // rule 1.3.source-port
		PASS(PORT);
	HERE;
	p->slot = e->slot;
	p->id_mask = 0xffff;
	if (e->flags & SHARED) {
		HERE;
		p->id_base = e->id_base;
		p->id_mask = e->id_mask;
	}
	p->policy = e->policy;
	if (p->policy) {
		HERE;
		p->client = own_port(e, p->sport);
	}
	return TRANSLATED;
}

// destination4 is the host behind the prefix that a packet goes to.
static __always_inline int destination4(struct tables *t, struct packet *p)
{
	struct config *c = t->c;
	__u32 length;

	if (never6(p->dst_hi, p->dst_lo))
		PASS(NEVER_TRANSLATED);
	if (own6(c, p->dst_hi, p->dst_lo))
		PASS(OWN_ADDRESS);
	if (!in_prefix(c, p->dst_hi, p->dst_lo))
		PASS(UNMAPPED_DESTINATION);
	if (c->flags & MAPPED_IN_PREFIX && lookup6(t, p->dst_hi, p->dst_lo, &length))
		PASS(MAPPED_PEER);
	p->dst4 = extract(c->prefix_length, p->dst_hi, p->dst_lo);
	if (never4(p->dst4))
		PASS(NEVER_TRANSLATED);
	if (c->flags & GLOBAL_ONLY && non_global(p->dst4))
		PASS(NON_GLOBAL);
	if (p->dst4 == c->own4)
		PASS(OWN_ADDRESS);
	if (near4(t, p->dst4)) {
		if (find4(t, p->dst4, &length))
			PASS(MAPPED_PEER);
		if (block4(t, p->dst4) && p->dst4 != c->host4)
			PASS(OWN_ADDRESS);
		HERE;
	}
	HERE;
	return TRANSLATED;
}

// write4 writes the IPv4 packet. It is judged by itself, as read6 is.
__attribute__((noinline)) int write4(struct context *ctx, struct packet *p)
{
	__u64 sum6, diff, change, old;
	__u32 first, second, third;
	__u8 *h, *l4;
	__u16 *at;
	__u32 *w;
	int whole;

	if (!p)
		return LOST;
	sum6 = addresses6(p), diff = add(~sum6, addresses4(p));
	// Of the IPv6 header, half goes with the kernel's knowledge and half is overwritten.
	old = (p->src_lo & 0xffffffff) + (p->dst_hi >> 32) + (p->dst_hi & 0xffffffff) +
	      (p->dst_lo >> 32) + (p->dst_lo & 0xffffffff);
	whole = p->proto == ICMP6 || (!p->gso && !partial(p, sum6, p->proto));
	first = 0x45u << 24 | (__u32)p->class << 16 | (SIZE4 + p->payload); // rules 3.version, 3.tos, 3.total-length
	second = (__u32)p->id << 16 | (p->df ? DF : 0); // rule 3.identification-df
	third = (__u32)(p->hops - 1) << 24 | (p->proto == ICMP6 ? ICMP4 : p->proto) << 16; // rules 3.ttl, 3.protocol-icmp
	h = frame(ctx) + ETH;
	w = (__u32 *)h;
	l4 = h + SIZE4;
	at = field(ctx, p, l4);
	if (!at || l4 + LEAST_UPPER > frame_end(ctx))
		PASS(LOST);
	third |= (__u16)~fold((__u64)first + second + third + p->src4 + p->dst4); // rule 4.ipv4-header-made
	*(__u16 *)(h - 2) = be16(ETH_P_IP);
	w[0] = be32(first);
	w[1] = be32(second);
	w[2] = be32(third);
	w[3] = be32(p->src4); // rule 3.addresses
	w[4] = be32(p->dst4);
	if (p->proto == ICMP6) {
		HERE;
		change = echo(p, l4, at, p->type == 128 ? 8 : 0, add(sum6, p->payload + ICMP6), 0);
	} else {
		HERE;
		change = checksum(p, at, diff, whole);
	}
	finish(ctx, p, ETH + SIZE4, diff, add(change, ~old), whole);
	return TRANSLATED;
}

static __always_inline int to4(struct context *ctx, int *action)
{
	struct packet p = {};
	struct tables t;
	__u32 length, by, to, bytes = frame_length(ctx) - ETH;
	int why;

	if ((why = plain_link(ctx, ETH_P_IPV6, SIZE6 + LEAST_TCP)) || (why = load(&t)) ||
	    (why = read6(ctx, &p)) || (why = source4(ctx, &t, &p)) || (why = ce4(t.c, &p)) ||
	    (why = destination4(&t, &p)))
		return why;
	if (p.policy && (why = held(&t, &p, p.policy, 1, p.client)))
		return why;
	// IPv4's length has 16 bits for all, IPv6's for what is behind the header.
	if (SIZE4 + p.payload > LONGEST)
		PASS(TOO_BIG);
	length = SIZE4 + segment(&p);
	if (length > t.c->mtu4)
		PASS(TOO_BIG);
	if (p.proto == ICMP6 || !COMPLETES) {
		if (partial(&p, addresses6(&p), p.proto))
			PASS(NO_CHECKSUM);
		HERE;
	}
	if ((why = capped6(&p)) || (why = led6(ctx, t.c, &p, &by)))
		return why;
	if (t.c->flags & ZERO_CLASS) { // rule 3.tos-knob
		HERE;
		p.class = 0;
	}
	if (t.c->flags & EDGE) {
		if (!EDGES)
			return UNMAPPED_DESTINATION;
		if ((why = ascend(ctx, &t, &p, &by, action)))
			return why;
		HERE;
		number(&t, p.slot, bytes, 0);
		itemise(ctx, &p, p.slot, SIZE6, 0);
		return TRANSLATED;
	}
	if ((why = way4(ctx, t.c, &p, &by, length, action, &to)))
		return why;
	if (!outside(t.c, to))
		PASS(HOST_ROUTE);
	if ((why = back(ctx, t.c, &p, by, by, to, 1)))
		return why;
	p.df = length > LONGEST_DF0; // rule 3.df
	if (!p.df) {
		HERE;
		p.id = identification(&p, p.gso ? (p.payload - p.headers + p.gso - 1) / p.gso : 1); // rule 3.identification-counter
	}
	if ((why = resize(ctx, &p, SIZE6 + p.payload, ETH_P_IP)) || (why = write4(ctx, &p)))
		return why;
	if (p.rule) {
		HERE;
		number_ce(p.slot, bytes, 0);
		return TRANSLATED;
	}
	number(&t, p.slot, bytes, 0);
	itemise(ctx, &p, p.slot, SIZE4, 0);
	return TRANSLATED;
}

#undef HERE
#undef PASS

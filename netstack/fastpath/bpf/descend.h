// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// From the fabric of an edge to workloads: see edge.h.
#pragma once
#include "to4.h"
#include "to6.h"
#include "shed.h"

#define HERE COVER(14)
#define PASS(why) do { HERE; return why; } while (0)

enum { FRAGMENT6 = 44 };

// descend reads a packet of the fabric and makes p the IPv4 packet that it stands for; of
// an echo message, too, as destination6 and held know it by that.
static __always_inline int descend(struct context *ctx, struct tables *t, struct packet *p)
{
	struct config *c = t->c;
	__u8 *h = frame(ctx) + ETH;
	__u64 *w = (__u64 *)(h + 24);
	struct entry6 *e;
	__u32 length;
	int why;

	if (!(c->flags & EDGE) || h + SIZE6 > (__u8 *)frame_end(ctx))
		PASS(NOT_THIS_FAMILY);
	e = block6(t, be64(w[0]), be64(w[1]), &length);
	if (!e) // for somebody else
		PASS(NOT_THIS_FAMILY);
	p->dst4 = e->v4;
	p->slot = e->length4;
	why = read6(ctx, p);
	if (why)
		return why;
	p->dst4 |= suffix4(p->dst_hi, p->dst_lo, length, p->slot); // rule 1.10.in
	p->label = 0;
	if (never6(p->src_hi, p->src_lo))
		PASS(NEVER_TRANSLATED);
	if (own6(c, p->src_hi, p->src_lo))
		PASS(OWN_ADDRESS);
	if (((p->src_hi ^ c->fabric_hi) & c->fabric_mask_hi) | ((p->src_lo ^ c->fabric_lo) & c->fabric_mask_lo))
		PASS(UNMAPPED_SOURCE);
	if (c->flags & OURS_IN_FABRIC && (block6(t, p->src_hi, p->src_lo, &length) || lookup6(t, p->src_hi, p->src_lo, &length))) // rule 1.10.spoofed
		PASS(MAPPED_PEER);
	p->src4 = extract(c->fabric_length, p->src_hi, p->src_lo);
	if (p->proto == ICMP6) {
		if (partial(p, addresses6(p), p->proto))
			PASS(NO_CHECKSUM);
		p->proto = ICMP4;
		p->type = p->type == 128 ? 8 : 0;
		HERE;
	}
	HERE;
	return TRANSLATED;
}

// from_fabric takes an IPv6 packet of the fabric that is for a block to the workload that it
// is for.
static __always_inline int from_fabric(struct context *ctx, int *action)
{
	struct packet p = {};
	struct tables t;
	__u64 before;
	__u32 by, bytes = frame_length(ctx) - ETH;
	int why;

	if ((why = plain_link(ctx, ETH_P_IPV6, SIZE6 + LEAST_TCP)) || (why = load(&t)) || (why = descend(ctx, &t, &p)) ||
	    (why = led6(ctx, t.c, &p, &by)))
		return why;
	before = addresses6(&p);
	if ((why = destination6(ctx, &t, &p, SIZE6)) || (why = source6(&t, &p)))
		return why;
	if (p.inside)
		return HAS_INSIDE; // which no edge has
	if (p.policy && (why = held(&t, &p, p.policy, 0, p.client)))
		return why;
	if (SIZE4 + p.payload > LONGEST)
		PASS(TOO_BIG);
	if (SIZE6 + segment(&p) > t.c->mtu6)
		PASS(TOO_BIG);
	if (t.c->flags & ZERO_CLASS) {
		HERE;
		p.class = 0;
	}
	if ((why = way6(ctx, t.c, &p, &by, SIZE6 + segment(&p), t.c->flags & ALONE, action)) || (why = trim(ctx, &p, SIZE6 + p.payload)) ||
	    (why = readdress(ctx, &p, before)))
		return why;
	number(&t, p.slot, bytes, 1);
	itemise(ctx, &p, p.slot, SIZE6, 1);
	HERE;
	return TRANSLATED;
}

// first6 says that a packet has a header with a number to choose by, which is next at at,
// behind a fragment header if there is one.
static __always_inline int first6(struct __sk_buff *skb, __u32 *at, __u8 *next)
{
	__u8 part[4];

	if (*next == FRAGMENT6) {
		if (bpf_skb_load_bytes(skb, *at, part, sizeof(part)) || part[2] || part[3] >> 3)
			return 0;
		*next = part[0];
		*at += 8;
	}
	return *next == TCP || *next == UDP || *next == ICMP6;
}

// chosen6 is chosen4 of shed.h for a packet of the fabric: neither relays nor an edge send an
// extension header but that of fragments.
static __always_inline __u32 chosen6(struct __sk_buff *skb, __u8 next)
{
	__u32 at = ETH + SIZE6;
	__u8 type;

	if (!first6(skb, &at, &next))
		return 0;
	if (next != ICMP6)
		return at + 2;
	if (bpf_skb_load_bytes(skb, at, &type, 1))
		return 0;
	if (type == 128 || type == 129)
		return at + 4;
	at += 8;
	if (bpf_skb_load_bytes(skb, at + 6, &next, 1)) // of what an error quotes
		return 0;
	at += SIZE6;
	return first6(skb, &at, &next) ? at + (next == ICMP6 ? 4 : 0) : 0;
}

// over_fabric is over4 for a packet of the fabric: whom it is for is told by the block's
// address and the port.
static __attribute__((noinline)) int over_fabric(struct __sk_buff *skb, int what)
{
	struct receiver k = { .length = 48 };
	__u32 *index, length, port;
	struct entry6 *e;
	struct tables t;
	__u64 w[2];
	__u8 next;

	if (load(&t) || !(t.c->flags & EDGE) || bpf_skb_load_bytes(skb, ETH + 24, w, sizeof(w)) || bpf_skb_load_bytes(skb, ETH + 6, &next, 1))
		return 0;
	e = block6(&t, be64(w[0]), be64(w[1]), &length);
	if (!e)
		return 0;
	*(__u32 *)k.addr = be32(e->v4 | suffix4(be64(w[0]), be64(w[1]), length, e->length4));
	port = chosen6(skb, next);
	if (!port || bpf_skb_load_bytes(skb, port, k.port, 2))
		k.length = 32;
	index = bpf_map_lookup_elem(&receivers, &k);
	return index && over(*index, AT_INTERFACE, skb->len - ETH, next == TCP && opens(skb, ETH + SIZE6), what);
}

#undef HERE
#undef PASS

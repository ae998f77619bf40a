// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// IPv4 to IPv6, as translator/plain.go and to6.go have it.
#pragma once
#include "enter.h"
#include "flow.h"
#include "mapt.h"

#define HERE COVER(6)
#define PASS(why) do { HERE; return why; } while (0)

// read4 reads an IPv4 packet. Like look, it is judged by itself: behind it the
// kernel's verifier has one state, not one for each kind of packet.
__attribute__((noinline)) int read4(struct context *ctx, struct packet *p)
{
	__u8 *h = frame(ctx) + ETH;
	void *end = frame_end(ctx);
	__u32 *w = (__u32 *)h;
	__u32 length, fragment;
	int why;

	if (!p)
		return TRUNCATED;
	if (h + SIZE4 + LEAST_UPPER > (__u8 *)end)
		PASS(TRUNCATED);
	if (*(__u16 *)(h - 2) != be16(ETH_P_IP))
		PASS(NOT_PLAIN_LINK);
	if (h[0] != 0x45)
		PASS(OPTIONS);
	length = be16(*(__u16 *)(h + 2));
	if (frame_length(ctx) < ETH + length)
		PASS(TRUNCATED);
	if (length < SIZE4 + LEAST_UPPER)
		PASS(TRUNCATED);
	fragment = be16(*(__u16 *)(h + 6));
	if (fragment & ~DF)
		PASS(FRAGMENT);
	if (fold((__u64)w[0] + w[1] + w[2] + w[3] + w[4]) != 0xffff) // rule 4.ipv4-header
		PASS(BAD_HEADER_CHECKSUM);
	p->df = fragment != 0;
	p->id = be16(*(__u16 *)(h + 4));
	p->class = h[1];
	p->payload = length - SIZE4;
	p->proto = h[9];
	p->hops = h[8];
	if (p->hops <= 1)
		PASS(HOP_LIMIT);
	p->src4 = be32(w[3]);
	p->dst4 = be32(w[4]);
	why = upper(p, h + SIZE4, end, ICMP4, 8, 0);
	if (why)
		return why;
	return super(ctx, p);
}

// trailer says that an echo reply, to who shares an address, may carry one.
static __always_inline int trailer(struct context *ctx, struct packet *p, __u32 ip)
{
	__u16 magic = 0;

	if (p->proto != ICMP4 || p->type != 0 || p->payload < 16) {
		HERE;
		return TRANSLATED;
	}
	load_bytes(ctx, ETH + ip + p->payload - 8, &magic, sizeof(magic));
	if (magic == be16(0x6e6c))
		PASS(TRAILER);
	HERE;
	return TRANSLATED;
}

// owner6 finds the workload that an IPv4 packet is for, where e is the entry of its
// address, of that length. ip is how long its header is as it came.
static __always_inline int owner6(struct context *ctx, struct tables *t, struct packet *p, struct entry4 *e, __u32 length, __u32 ip)
{
	struct config *c = t->c;
	__u32 shared = e->sizes;

	if (shared) {
		if (p->proto == ICMP4 && p->dst4 == c->host4)
			PASS(OWN_ADDRESS);
		e = port4(t, p->dst4, p->dport, shared, 0); // rule 1.3.destination-port
		if (!e)
			PASS(PORT);
		if (trailer(ctx, p, ip))
			return TRAILER;
		HERE;
	}
	p->inside = e->flags & INSIDE;
	if (!DELIVERS && p->inside)
		PASS(HAS_INSIDE);
	p->policy = e->policy;
	p->client = shared ? e->flags & CLIENT : p->dport >= 32768;
	mapped6(e, p->dst4, length, &p->dst_hi, &p->dst_lo);
	if (own6(c, p->dst_hi, p->dst_lo))
		PASS(OWN_ADDRESS);
	p->slot = e->slot;
	return TRANSLATED;
}

// customer6 finds the CE that an IPv4 packet is for.
static __always_inline int customer6(struct context *ctx, struct tables *t, struct packet *p, __u32 ip)
{
	int why = ce6(t->c, p);

	if (why)
		return why;
	if (p->dst4 == t->c->host4 || own6(t->c, p->dst_hi, p->dst_lo))
		PASS(OWN_ADDRESS);
	return p->rule == 2 ? trailer(ctx, p, ip) : TRANSLATED;
}

// destination6 finds the workload that an IPv4 packet is for.
static __always_inline int destination6(struct context *ctx, struct tables *t, struct packet *p, __u32 ip)
{
	struct entry4 *e;
	__u32 length;

	if (never4(p->dst4))
		PASS(NEVER_TRANSLATED);
	if (p->dst4 == t->c->own4)
		PASS(OWN_ADDRESS);
	e = lookup4(t, p->dst4, &length);
	if (!e) {
		HERE;
		return customer6(ctx, t, p, ip);
	}
	HERE;
	return owner6(ctx, t, p, e, length, ip);
}

// source6 puts the source into the prefix.
static __always_inline int source6(struct tables *t, struct packet *p)
{
	struct config *c = t->c;
	__u32 length;

	if (never4(p->src4))
		PASS(NEVER_TRANSLATED);
	if (c->flags & GLOBAL_ONLY && !p->inside && non_global(p->src4))
		PASS(NON_GLOBAL);
	if (p->src4 == c->host4)
		PASS(OWN_ADDRESS);
	if (near4(t, p->src4)) {
		if (find4(t, p->src4, &length))
			PASS(MAPPED_PEER);
		if (block4(t, p->src4))
			PASS(OWN_ADDRESS);
		HERE;
	}
	HERE;
	p->src_hi = c->prefix_hi;
	p->src_lo = c->prefix_lo;
	embed(c->prefix_length, p->src4, &p->src_hi, &p->src_lo);
	return TRANSLATED;
}

// write6 writes the IPv6 packet. It is judged by itself, as read4 is.
__attribute__((noinline)) int write6(struct context *ctx, struct packet *p)
{
	__u64 sum4, sum6, diff, change, *a;
	__u32 first, second;
	__u8 *h, *l4;
	__u16 *at;
	int whole;

	if (!p)
		return LOST;
	sum4 = addresses4(p), sum6 = addresses6(p), diff = add(~sum4, sum6);
	whole = p->proto == ICMP4 || (!p->gso && !partial(p, sum4, p->proto));
	first = 6u << 28 | (__u32)p->class << 20; // rules 2.traffic-class, 2.flow-label
	second = p->payload << 16 | (p->proto == ICMP4 ? ICMP6 : p->proto) << 8 | (__u8)(p->hops - 1);
	h = frame(ctx) + ETH;
	a = (__u64 *)(h + 8);
	l4 = h + SIZE6;
	at = field(ctx, p, l4);
	if (!at || l4 + LEAST_UPPER > frame_end(ctx))
		PASS(LOST);
	*(__u16 *)(h - 2) = be16(ETH_P_IPV6);
	*(__u32 *)h = be32(first);
	*(__u32 *)(h + 4) = be32(second); // rules 2.payload-length, 2.next-header-icmp, 2.hop-limit
	a[0] = be64(p->src_hi); // rule 2.addresses
	a[1] = be64(p->src_lo);
	a[2] = be64(p->dst_hi);
	a[3] = be64(p->dst_lo);
	if (p->proto == ICMP4) {
		HERE;
		change = echo(p, l4, at, p->type == 8 ? 128 : 129, 0, add(sum6, p->payload + ICMP6));
	} else {
		HERE;
		change = checksum(p, at, diff, whole);
	}
	// The IPv4 header's sum was 0, the kernel has put zeroes before its end.
	finish(ctx, p, ETH + SIZE6, diff, add(change, add(sum6, (__u64)first + second)), whole);
	return TRANSLATED;
}

// decrement counts a hop of a packet that stays IPv4, and gives it an identification.
static __always_inline int decrement(struct context *ctx, struct packet *p)
{
	__u8 *h = frame(ctx) + ETH;
	__u32 *w = (__u32 *)h;
	__u32 third = (__u32)(p->hops - 1) << 24 | (__u32)p->proto << 16, second;

	if (h + SIZE4 > frame_end(ctx))
		PASS(LOST);
	second = (be32(w[1]) & 0xffff) | (__u32)p->id << 16;
	third |= (__u16)~fold((__u64)be32(w[0]) + second + third + p->src4 + p->dst4);
	w[1] = be32(second);
	w[2] = be32(third);
	HERE;
	return TRANSLATED;
}

// deliver gives a packet to the workload that has its IPv4 address inside: as it is,
// by the way to the workload's IPv6 address. by is the interface that IPv6 from the
// translator would come in by.
static __always_inline int deliver(struct context *ctx, struct tables *t, struct packet *p, __u32 by, int *action)
{
	int why;

	p->src_hi = t->c->own_hi;
	p->src_lo = t->c->own_lo;
	if ((why = way6(ctx, t->c, p, &by, SIZE4 + segment(p), t->c->flags & ALONE, action)) || (why = trim(ctx, p, SIZE4 + p->payload)) || (why = decrement(ctx, p)))
		return why;
	return TRANSLATED;
}

static __always_inline int to6(struct context *ctx, int *action, int *delivered)
{
	struct packet p = {};
	struct tables t;
	__u32 length, by, bytes = frame_length(ctx) - ETH;
	int why;

	if ((why = plain_link(ctx, ETH_P_IP, SIZE4 + LEAST_TCP)) || (why = load(&t)) ||
	    (why = read4(ctx, &p)) || (why = destination6(ctx, &t, &p, SIZE4)) || (why = source6(&t, &p)))
		return why;
	if (p.policy && (why = held(&t, &p, p.policy, 0, p.client)))
		return why;
	length = (p.inside ? SIZE4 : SIZE6) + segment(&p);
	if (p.df || p.inside ? length > t.c->mtu6 : length > t.c->lowest6)
		PASS(TOO_BIG);
	if (p.proto == ICMP4 && !p.inside) {
		if (!p.field)
			PASS(NO_CHECKSUM);
		HERE;
	}
	if (!COMPLETES && p.proto != ICMP4 && partial(&p, addresses4(&p), p.proto))
		PASS(NO_CHECKSUM);
	if ((why = capped4(&p)) || (why = led4(ctx, t.c, &p, &by)) ||
	    (why = back(ctx, t.c, &p, by, ingress(ctx), by, t.c->flags & STRICT_SOURCE)))
		return why;
	if (p.inside) {
		HERE;
		if ((why = deliver(ctx, &t, &p, by, action)))
			return why;
		number(&t, p.slot, bytes, 1);
		itemise(ctx, &p, p.slot, SIZE4, 1);
		*delivered = 1;
		return TRANSLATED;
	}
	if (t.c->flags & ZERO_CLASS) { // rule 2.traffic-class-knob
		HERE;
		p.class = 0;
	}
	if ((why = way6(ctx, t.c, &p, &by, length, t.c->flags & ALONE, action)) || (why = resize(ctx, &p, SIZE4 + p.payload, ETH_P_IPV6)) ||
	    (why = write6(ctx, &p)))
		return why;
	if (p.rule) {
		HERE;
		number_ce(p.slot, bytes, 1);
		return TRANSLATED;
	}
	number(&t, p.slot, bytes, 1);
	itemise(ctx, &p, p.slot, SIZE6, 1);
	return TRANSLATED;
}

#undef HERE
#undef PASS

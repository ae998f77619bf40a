// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// The edge of a fabric without IPv4, as translator/edge.go has it: what is IPv4 there
// between two halves never is here. It is judged as that, and stays IPv6 with other
// addresses. What comes by the fabric is in descend.h.
#pragma once
#include "enter.h"
#include "flow.h"

#define HERE COVER(13)
#define PASS(why) do { HERE; return why; } while (0)

// block6 finds the block of the host that an address of the fabric stands for.
static __always_inline struct entry6 *block6(struct tables *t, __u64 hi, __u64 lo, __u32 *length)
{
	return entry_by6(t, host_block6(t->c, hi, lo, length));
}

// block finds the block that a workload's IPv4 address is of; of one of ports, that of the port.
static __always_inline struct entry4 *block(struct tables *t, __u32 a, __u16 port, __u32 *length)
{
	struct entry4 *e = entry_by4(t, host_block4(t->c, a, length));

	return e && e->sizes ? port4(t, a, port, e->sizes, BLOCK) : e;
}

// readdress writes the addresses that an IPv6 packet goes on with, whose sum was before,
// its class and label, and counts the hop. It is judged by itself, as read6 is.
__attribute__((noinline)) int readdress(struct context *ctx, struct packet *p, __u64 before)
{
	__u64 diff, change, *a;
	__u32 first, second;
	__u8 *h, *l4;
	__u16 *at;
	int whole;

	if (!p)
		return LOST;
	diff = add(~before, addresses6(p));
	whole = (p->proto != TCP && p->proto != UDP) || (!p->gso && !partial(p, before, p->proto));
	first = 6u << 28 | (__u32)p->class << 20 | p->label; // rule 1.10.flow-label
	h = frame(ctx) + ETH;
	a = (__u64 *)(h + 8);
	l4 = h + SIZE6;
	at = field(ctx, p, l4);
	if (!at || l4 + LEAST_UPPER > frame_end(ctx))
		PASS(LOST);
	second = be32(*(__u32 *)(h + 4)) - 1; // rule 1.10.one-decrement
	change = add(diff, (__u64)first + second + (__u32)~be32(*(__u32 *)h) + (__u32)~(second + 1));
	*(__u32 *)h = be32(first);
	*(__u32 *)(h + 4) = be32(second);
	a[0] = be64(p->src_hi);
	a[1] = be64(p->src_lo);
	a[2] = be64(p->dst_hi);
	a[3] = be64(p->dst_lo);
	HERE;
	change = add(change, checksum(p, at, diff, whole));
	finish(ctx, p, ETH + SIZE6, diff, change, whole);
	return TRANSLATED;
}

// way_fabric is way4 for what stays IPv6. Its label is one of the flow's, by which ways of
// the same cost are shared out (RFC 6438).
static __always_inline int way_fabric(struct context *ctx, struct config *c, struct packet *p, __u32 *by, __u32 length, int *action, __u32 *to)
{
	struct bpf_fib_lookup f;
	int why;

	flow6(&f, p);
	f.flowinfo |= be32(p->label);
	why = ask_on(ctx, c, p, &f, by, length, c->flags & ALONE);
	if (why)
		return why;
	*to = f.ifindex;
	return out(ctx, &f, p, action);
}

// ascend sends a packet of a workload, which has been judged as if it became IPv4, on by
// the fabric: from the block's address to the other in the fabric's prefix. Of the way back
// nothing is asked, as of IPv4: the kernel takes IPv6 from any source.
static __always_inline int ascend(struct context *ctx, struct tables *t, struct packet *p, __u32 *by, int *action)
{
	struct config *c = t->c;
	__u64 before = addresses6(p);
	__u32 length, to;
	struct entry4 *e;
	int why;

	if (p->dst4 == c->hop4)
		PASS(OWN_ADDRESS);
	e = block(t, p->src4, p->sport, &length);
	if (!e) // rule 1.10.source
		PASS(UNMAPPED_SOURCE);
	mapped6(e, p->src4, length, &p->src_hi, &p->src_lo); // rule 1.10.out
	p->dst_hi = c->fabric_hi;
	p->dst_lo = c->fabric_lo;
	embed(c->fabric_length, p->dst4, &p->dst_hi, &p->dst_lo);
	if ((why = way_fabric(ctx, c, p, by, SIZE6 + segment(p), action, &to)))
		return why;
	if (!outside(c, to))
		PASS(HOST_ROUTE);
	if ((why = trim(ctx, p, SIZE6 + p->payload)) || (why = readdress(ctx, p, before)))
		return why;
	HERE;
	return TRANSLATED;
}

#undef HERE
#undef PASS

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// What is done to a packet once it is known to be plain and its way is known: it
// is rewritten and sent there.
#pragma once
#ifdef XDP
#include "rewrite_xdp.h"
#else
#include "rewrite_tc.h"
#endif

#define HERE COVER(3)
#define PASS(why) do { HERE; return why; } while (0)

// ask_on is ask for a next hop of what comes in by the translator's device, which may have gone since it
// was heard, earlier in this tick, that the host leads there. by is then another, where
// alone says that what goes on without the device has no other way.
static __always_inline int ask_on(struct context *ctx, struct config *c, struct packet *p, struct bpf_fib_lookup *f, __u32 *by, __u32 length, int alone)
{
	__u32 flags = by_class(c->fib_flags & ~FIB_NEXT_HOP, p);
	int why = look(ctx, f, *by, length, flags);

	if (why == NO_ROUTE && alone && *by != c->via && gone(ctx, c)) {
		HERE;
		*by = c->via;
		why = look(ctx, f, *by, length, flags);
	}
	return why;
}

// way4 finds where p in its IPv4 form goes, by what interface, and how it is sent there;
// way6 does for its IPv6 form. Who passes it on after all sends it nowhere.
static __always_inline int way4(struct context *ctx, struct config *c, struct packet *p, __u32 *by, __u32 length, int *action, __u32 *to)
{
	struct bpf_fib_lookup f;
	int why;

	flow4(&f, p);
	why = ask_on(ctx, c, p, &f, by, length, c->flags & ALONE);
	if (why)
		return why;
	*to = f.ifindex;
	return out(ctx, &f, p, action);
}

static __always_inline int way6(struct context *ctx, struct config *c, struct packet *p, __u32 *by, __u32 length, int alone, int *action)
{
	struct bpf_fib_lookup f;
	int why;

	flow6(&f, p);
	why = ask_on(ctx, c, p, &f, by, length, alone);
	if (why)
		return why;
	return out(ctx, &f, p, action);
}

// field is where the checksum of the upper layer at l4 stands, or 0.
static __always_inline __u16 *field(struct context *ctx, struct packet *p, __u8 *l4)
{
	__u8 *at = l4 + (p->proto == TCP ? 16 : p->proto == UDP ? 6 : 2);

	if (at + 2 > frame_end(ctx))
		return 0;
	return (__u16 *)at;
}

// checksum brings the checksum of the upper layer along, by what became of the
// addresses. One that is the device's to complete only the kernel can tell from
// one that is not; whole is true when it surely is not. It gives what the sum of
// the packet changed by.
static __always_inline __u64 checksum(struct packet *p, __u16 *at, __u64 diff, int whole)
{
	__u16 sum;

	if (!whole) {
		HERE;
		return 0;
	}
	sum = ~fold(add(diff, (__u16)~p->field)); // rules 4.tcp, 4.udp
	if (!sum && p->proto == UDP) { // rule 4.zero-result
		HERE;
		sum = 0xffff;
	}
	*at = be16(sum);
	HERE;
	return add(sum, (__u16)~p->field);
}

// echo is checksum for an echo message, whose type changes, too, and of whose
// sum the pseudo header is a part in IPv6 alone.
static __always_inline __u64 echo(struct packet *p, __u8 *l4, __u16 *at, __u8 type, __u64 was, __u64 is)
{
	__u64 from = (__u64)p->type << 8, to = (__u64)type << 8;
	__u16 sum = ~fold((__u16)~p->field + fold(add(~add(was, from), add(is, to)))); // rule 4.icmp

	l4[0] = type;
	*at = be16(sum);
	return add(sum + to, ~(p->field + from));
}

// number sums up what was translated for a mapping.
static __always_inline void number(struct tables *t, __u32 slot, __u32 bytes, int received)
{
	__u32 at = slot;
	struct traffic *n;
	struct count *k;

	if (!(t->c->flags & COUNT_SHARED)) {
		HERE;
		at = slot * t->c->counters + bpf_get_smp_processor_id();
	}
	n = bpf_map_lookup_elem(t->counters, &at);
	if (!n)
		return;
	k = received ? &n->received : &n->sent;
	if (t->c->flags & COUNT_SHARED) {
		HERE;
		__sync_fetch_and_add(&k->packets, 1);
		__sync_fetch_and_add(&k->bytes, bytes);
	} else {
		HERE;
		k->packets++;
		k->bytes += bytes;
	}
}

#undef HERE
#undef PASS

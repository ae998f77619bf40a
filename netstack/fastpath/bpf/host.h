// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// What the host would do with a packet if there were no program: without one it
// is looked up as it came in, goes to the translator's device, comes out of that
// device translated and is looked up again. Here the same is asked, with the
// same interfaces, and what does not lead there is passed on: routes inside the
// prefix or inside a mapping, the host's own addresses, rules by the interface,
// and the check of the source (RFC 3704) stay what they are.
#pragma once
#include "ask.h"

#define HERE COVER(7)
#define PASS(why) do { HERE; return why; } while (0)

static __always_inline void put6(__u32 *to, __u64 hi, __u64 lo)
{
	to[0] = be32((__u32)(hi >> 32));
	to[1] = be32((__u32)hi);
	to[2] = be32((__u32)(lo >> 32));
	to[3] = be32((__u32)lo);
}

// flow4 is p in its IPv4 form, flow6 in its IPv6 form. Routing does not see the
// identifier of an echo message.
static __always_inline void flow(struct bpf_fib_lookup *f, struct packet *p, __u8 icmp)
{
	f->l4_protocol = icmp;
	if (p->proto == TCP || p->proto == UDP) {
		HERE;
		f->l4_protocol = p->proto;
		f->sport = be16(p->sport);
		f->dport = be16(p->dport);
	}
}

static __always_inline void flow4(struct bpf_fib_lookup *f, struct packet *p)
{
	__builtin_memset(f, 0, sizeof(*f));
	f->family = AF_INET;
	flow(f, p, ICMP4);
	f->tos = p->class;
	f->src[0] = be32(p->src4);
	f->dst[0] = be32(p->dst4);
}

static __always_inline void flow6(struct bpf_fib_lookup *f, struct packet *p)
{
	__builtin_memset(f, 0, sizeof(*f));
	f->family = AF_INET6;
	flow(f, p, ICMP6);
	f->flowinfo = be32((__u32)p->class << 20);
	put6(f->src, p->src_hi, p->src_lo);
	put6(f->dst, p->dst_hi, p->dst_lo);
}

// gone says that the translator's device is not there, or is losing the routes to
// its own addresses: nobody runs the daemon. It is judged by itself, as look is.
__attribute__((noinline)) int gone(struct context *ctx, struct config *c)
{
	struct bpf_fib_lookup f = { .family = AF_INET };

	if (!c)
		return 1;
	f.dst[0] = be32(c->own4);
	// Where there is no IPv4, nothing forwards it.
	if (!(c->flags & EDGE) && (ask(ctx, c, &f, c->via, 1) || f.ifindex != c->device)) {
		HERE;
		return 1;
	}
	__builtin_memset(&f, 0, sizeof(f));
	f.family = AF_INET6;
	put6(f.dst, c->own_hi, c->own_lo);
	return ask(ctx, c, &f, c->via, 1) || f.ifindex != c->device;
}

// diverted says that somebody looks at what the daemon translates. Who asks sees that its
// device is there: a daemon that is killed cannot say that nobody looks any more. One that
// hangs, or has left the device to the next, says nothing, and it ends by itself.
static __always_inline int diverted(struct config *c)
{
	return c->diverted_until && c->diverted_until > bpf_ktime_get_ns();
}

// led says that the host leads f, which came in here, to the translator, and by
// which interface what is translated comes in then. Who marked a packet may have
// rules for the mark, which cannot be asked for before Linux 6.10. While the
// daemon is not there nor are its routes: what goes on is what went by them
// before, as long as there was nothing else to go by.
static __always_inline int led(struct context *ctx, struct config *c, struct bpf_fib_lookup *f, __u32 length, __u32 *by)
{
	int why;

	*by = ingress(ctx);
	if (!c->device) {
		HERE;
		return diverted(c) ? DISABLED : TRANSLATED;
	}
	*by = c->device;
	if (marked(ctx))
		PASS(HOST_ROUTE);
	why = ask(ctx, c, f, ingress(ctx), length);
	if (!why && f->ifindex == c->device) {
		HERE;
		return diverted(c) ? DISABLED : TRANSLATED;
	}
	if (!gone(ctx, c)) {
		HERE;
		return why == TOO_BIG ? TOO_BIG : HOST_ROUTE;
	}
	if (!(c->flags & ALONE))
		PASS(HOST_ROUTE);
	HERE;
	*by = c->via;
	return TRANSLATED;
}

// instead asks of the translator's own address, and nothing of who sends: where it is
// assured, all that is the translator's leads where that does. Whether the interface
// forwards, how long a packet may be and whether the device is there is asked by it, too.
static __always_inline void instead(struct bpf_fib_lookup *f, struct config *c, __u8 family)
{
	__builtin_memset(f, 0, sizeof(*f));
	f->family = family;
	if (family == AF_INET)
		f->dst[0] = be32(c->own4);
	else
		put6(f->dst, c->own_hi, c->own_lo);
}

// led_by is led for p. Without the translator's device there is nobody whose word counts.
static __always_inline int led_by(struct context *ctx, struct config *c, struct packet *p, struct bpf_fib_lookup *f, __u32 length, __u32 *by)
{
	int why = led(ctx, c, f, length, by);

	p->assured &= ((__u64)(*by ^ c->device) - 1) >> 63; // without a branch, after which the verifier would look twice
	return why;
}

// led4 is led for p in its IPv4 form, led6 in its IPv6 form.
static __always_inline int led4(struct context *ctx, struct config *c, struct packet *p, __u32 *by)
{
	struct bpf_fib_lookup f; // no longer on the stack than it is needed

	flow4(&f, p);
	p->assured = assured(c) & 1;
	p->led = p->assured & (p->dst4 != c->host4); // for the host's, rules ask for ports
	if (p->led) {
		HERE;
		instead(&f, c, AF_INET);
	}
	return led_by(ctx, c, p, &f, SIZE4 + segment(p), by);
}

static __always_inline int led6(struct context *ctx, struct config *c, struct packet *p, __u32 *by)
{
	struct bpf_fib_lookup f;

	flow6(&f, p);
	p->assured = assured(c) & 1;
	p->led = p->assured & (p->src4 != c->host4);
	if (p->led) {
		HERE;
		instead(&f, c, AF_INET6);
	}
	return led_by(ctx, c, p, &f, SIZE6 + segment(p), by);
}

// outside says that an interface leads to where the fast path is for. What the
// host has behind others, such as containers of somebody else, may have rules of
// its own.
static __always_inline int outside(struct config *c, __u32 ifindex)
{
	if (!c->uplinks[0]) {
		HERE;
		return 1;
	}
	for (__u32 i = 0; i < MAX_UPLINKS; i++) {
		if (c->uplinks[i] == ifindex) {
			HERE;
			return 1;
		}
	}
	HERE;
	return 0;
}

// by_class says in the flags for a look that the class of a destination is known.
static __always_inline __u32 by_class(__u32 flags, struct packet *p)
{
	return flags | (__u32)p->assured << 31;
}

// back asks for the way back to the source of p, an IPv4 packet that came in by
// one interface and is to leave by another. The kernel takes none from an address
// that is its own; which interfaces a source may come in by is up to rp_filter,
// and what comes out of the translator's device comes from addresses that lead there.
static __always_inline int back(struct context *ctx, struct config *c, struct packet *p, __u32 by, __u32 from, __u32 to, int strict)
{
	struct bpf_fib_lookup f = { .family = AF_INET };

	if (by != c->device || (p->led && from == by)) {
		HERE;
		return TRANSLATED;
	}
	f.dst[0] = be32(p->src4);
	if (!p->led) { // else there is no rule that asks for more
		HERE;
		flow(&f, p, ICMP4);
		f.dport = be16(p->sport);
		f.sport = be16(p->dport);
		f.tos = p->class;
		f.src[0] = be32(p->dst4);
	}
	if (!look(ctx, &f, to, 1, by_class(c->fib_flags, p)) && (!strict || f.ifindex == from) && (from == by || outside(c, f.ifindex))) {
		HERE;
		return TRANSLATED;
	}
	// A device that goes loses its routes of IPv4 first: those of IPv6 may have led here,
	// or did when the host was asked, earlier in this tick.
	if (c->flags & ALONE && gone(ctx, c)) {
		HERE;
		return TRANSLATED;
	}
	PASS(HOST_ROUTE);
}

#undef HERE
#undef PASS

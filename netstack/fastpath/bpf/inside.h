// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// IPv4 of workloads that have it inside, as translator/inside.go and deliver.go have
// it: what is plain goes on as it is, all else to the daemon by a TAP, in frames that
// say whose they are. What is in no table is dropped: nothing has judged it.
#pragma once
#include "to6.h"

#define HERE COVER(8)
#define PASS(why) do { HERE; return why; } while (0)

// tables_inside takes what load takes, also while packets are to be passed on. When
// one generation is being taken away, the next is in force.
static __always_inline int tables_inside(struct tables *t, void **in)
{
	__u32 zero = 0, *gen, g;

	for (int i = 0; i < 2; i++) {
		gen = bpf_map_lookup_elem(&active, &zero);
		if (!gen)
			return DISABLED;
		g = *gen;
		t->c = bpf_map_lookup_elem(&configs, &g);
		*in = bpf_map_lookup_elem(&inside, &g);
		if (t->c && *in && t->c->inside) {
			HERE;
			return TRANSLATED;
		}
	}
	PASS(DISABLED);
}

// plain4 is plain_link for IPv4 that a workload sends: at the port of a bridge, it is
// addressed to the bridge.
static __always_inline int plain4(struct __sk_buff *skb)
{
	__u32 headers = ETH + SIZE4 + LEAST_TCP;

	if (skb->vlan_present)
		PASS(NOT_PLAIN_LINK);
	if ((void *)(long)skb->data + headers > (void *)(long)skb->data_end) {
		HERE;
		bpf_skb_pull_data(skb, skb->len < headers ? skb->len : headers);
	}
	return TRANSLATED;
}

// other finds out whether a packet is for somebody who has an entry: for a workload
// with IPv4 inside, which p says then, for another that the daemon sees to, or not.
static __always_inline int other(struct __sk_buff *skb, struct tables *t, struct packet *p)
{
	struct config *c = t->c;
	struct entry4 *e;
	__u32 length;

	if (never4(p->dst4))
		PASS(NEVER_TRANSLATED);
	if (p->dst4 == c->own4)
		PASS(OWN_ADDRESS);
	if (near4(t, p->dst4)) {
		e = find4(t, p->dst4, &length);
		if (e) {
			int why = owner6(skb, t, p, e, length, SIZE4);

			if (why)
				return why;
			if (!p->inside)
				PASS(MAPPED_PEER);
			HERE;
			return TRANSLATED;
		}
		if (p->dst4 != c->host4 && block4(t, p->dst4))
			PASS(OWN_ADDRESS);
		HERE;
	}
	if (p->dst4 == c->host4)
		PASS(OWN_ADDRESS);
	HERE;
	return TRANSLATED;
}

// leave sends a packet out of the host, by the way that it would have from the
// translator's device.
static __always_inline int leave(struct __sk_buff *skb, struct tables *t, struct packet *p, __u32 *by, int *action)
{
	__u32 length = SIZE4 + segment(p), to;
	int why = way4(skb, t->c, p, by, length, action, &to);

	if (why)
		return why;
	if (!outside(t->c, to))
		PASS(HOST_ROUTE);
	if ((why = back(skb, t->c, p, *by, *by, to, 1)) || (why = trim(skb, p, SIZE4 + p->payload)) || (why = decrement(skb, p)))
		return why;
	return TRANSLATED;
}

// pass4 judges a packet that the workload of in sent, and sends it where it goes.
static __always_inline int pass4(struct __sk_buff *skb, struct tables *t, struct entry_inside *in, int *action, int *delivered)
{
	struct packet p = {};
	__u32 by, from, bytes = skb->len - ETH;
	int why;

	if (t->c->flags & STEER)
		PASS(STEERING);
	if (diverted(t->c) && (!t->c->device || !gone(skb, t->c)))
		PASS(DISABLED);
	if ((why = plain4(skb)) || (why = load(t)) || (why = read4(skb, &p)))
		return why;
	if (p.src4 != in->of.v4) // rule 1.6.source
		PASS(UNMAPPED_SOURCE);
	if (in->of.flags & SHARED && !owns(t, &in->of, p.src4, p.sport)) // rule 1.6.source-port
		PASS(PORT);
	if ((why = other(skb, t, &p)))
		return why;
	if (in->of.policy && (why = held(t, &p, in->of.policy, 1, own_port(&in->of, p.sport))))
		return why;
	if (p.inside && p.policy && (why = held(t, &p, p.policy, 0, p.client)))
		return why;
	if (SIZE4 + segment(&p) > (p.inside ? t->c->mtu6 : t->c->mtu4))
		PASS(TOO_BIG);
	// The daemon cuts a superpacket first that may be cut up: to it the other may be IPv6 alone.
	if (p.inside && !p.df && p.gso && SIZE4 + segment(&p) > t->c->lowest6)
		return TOO_BIG; // TestDifferential meets one in a million packets
	if (in->of.flags & SHARED) {
		HERE;
		p.id = in->of.id_base | (p.id & in->of.id_mask); // rule 1.6.identification
	}
	by = t->c->device ? t->c->device : skb->ifindex;
	from = in->of.slot;
	if (p.inside) {
		HERE;
		why = deliver(skb, t, &p, by, action);
	} else {
		HERE;
		why = leave(skb, t, &p, &by, action);
	}
	if (why)
		return why;
	number(t, from, bytes, 0);
	itemise(skb, &p, from, SIZE4, 0);
	if (p.inside) {
		HERE;
		number(t, p.slot, bytes, 1);
		itemise(skb, &p, p.slot, SIZE4, 1);
		*delivered = 1;
	}
	return TRANSLATED;
}

// steer gives a packet to the daemon, with the name of who sent it.
static __always_inline int steer(struct __sk_buff *skb, struct config *c, struct entry_inside *in)
{
	__u8 *h = (__u8 *)(long)skb->data;

	if (h + ETH > (__u8 *)(long)skb->data_end)
		return TC_ACT_SHOT;
	__builtin_memcpy(h + 6, in->name, 6);
	HERE;
	return bpf_redirect(c->inside, 0);
}

// named finds the workload that a frame of the daemon names as its destination.
static __always_inline struct entry_inside *named(struct __sk_buff *skb, void *inside)
{
	__u8 *h = (__u8 *)(long)skb->data;
	struct entry_inside *in;
	__u32 key;

	if (h + ETH > (__u8 *)(long)skb->data_end)
		return 0;
	key = BY_SLOT | (__u32)h[3] << 16 | (__u32)h[4] << 8 | h[5];
	in = bpf_map_lookup_elem(inside, &key);
	if (!in)
		return 0;
	for (int i = 0; i < 6; i++)
		if (h[i] != in->name[i])
			return 0;
	HERE;
	return in;
}

// give takes a frame of the daemon to the workload that it is for; also before the
// daemon, which has just begun, has its routes.
static __always_inline int give(struct __sk_buff *skb, int *action)
{
	struct packet p = {};
	struct entry_inside *in;
	struct tables t;
	void *inside;
	__u32 by;
	int why;

	if (skb->protocol != be16(ETH_P_IP))
		PASS(NOT_THIS_FAMILY);
	if ((why = tables_inside(&t, &inside)))
		return why;
	in = named(skb, inside);
	if (!in)
		PASS(UNMAPPED_DESTINATION);
	p.src_hi = t.c->own_hi;
	p.src_lo = t.c->own_lo;
	p.dst_hi = in->hi;
	p.dst_lo = in->lo;
	by = t.c->device ? t.c->device : skb->ifindex;
	why = way6(skb, t.c, &p, &by, 1, 1, action);
	if (why)
		return why;
	HERE;
	return TRANSLATED;
}

#undef HERE
#undef PASS

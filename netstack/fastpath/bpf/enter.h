// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// What every packet goes through first.
#pragma once
#include "policy.h"
#include "rewrite.h"

#define HERE COVER(4)
#define PASS(why) do { HERE; return why; } while (0)

// load takes the tables in use. Those being replaced are missing one by one:
// whoever still sees them passes on.
static __always_inline int load(struct tables *t)
{
	__u32 zero = 0, *gen = bpf_map_lookup_elem(&active, &zero);

	if (!gen)
		return DISABLED;
	__u32 g = *gen;
	t->c = bpf_map_lookup_elem(&configs, &g);
	if (!t->c || !(t->c->flags & ENABLED))
		PASS(DISABLED);
	t->by6 = bpf_map_lookup_elem(&by6, &g);
	t->by4 = bpf_map_lookup_elem(&by4, &g);
	t->ports = bpf_map_lookup_elem(&ports, &g);
	t->near = bpf_map_lookup_elem(&near, &g);
	t->counters = bpf_map_lookup_elem(&counters, &g);
	if (!t->by6 || !t->by4 || !t->ports || !t->near || !t->counters)
		PASS(DISABLED);
	HERE;
	return TRANSLATED;
}

// plain_link says that a packet of that Ethernet type came for this host, on
// Ethernet, with at least its headers in one piece.
static __always_inline int plain_link(struct __sk_buff *skb, __u16 type, __u32 headers)
{
	if (skb->protocol != be16(type))
		PASS(NOT_THIS_FAMILY);
	if (skb->pkt_type != PACKET_HOST)
		PASS(NOT_PLAIN_LINK);
	if (skb->vlan_present)
		PASS(NOT_PLAIN_LINK);
	if ((void *)(long)skb->data + ETH + headers > (void *)(long)skb->data_end) {
		HERE;
		bpf_skb_pull_data(skb, skb->len < ETH + headers ? skb->len : ETH + headers);
	}
	return TRANSLATED;
}

#undef HERE
#undef PASS

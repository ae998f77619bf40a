// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// Rules of MAP-T (RFC 7599), as translator/mapt has them: what a CE has is computed. Who
// asks has looked for a mapping before. What no CE has is left to the daemon, which
// refuses it and counts it.
#pragma once
#include "packet.h"

#define HERE COVER(15)
#define PASS(why) do { HERE; return why; } while (0)

// ruled is what was translated by each rule, of those that are in force or were.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_RULES);
	__type(key, __u32);
	__type(value, struct traffic);
} ruled SEC(".maps");

// own_psid is the PSID that has a port; -1: no CE has it.
static __always_inline int own_psid(struct map_rule *r, __u32 port)
{
	__u32 psid = port >> (r->m & 31) & ((1u << (r->k & 31)) - 1); // rule 1.8.psid

	if (!r->k) {
		HERE;
		return 0;
	}
	if (r->a && !(port >> ((16 - r->a) & 31))) { // rule 1.8.offset
		HERE;
		return -1;
	}
	if (!r->ea && psid != r->psid) {
		HERE;
		return -1;
	}
	HERE;
	return psid;
}

// own_bits are the bits of a CE's IPv6 prefix behind the rule's.
static __always_inline __u64 own_bits(struct map_rule *r, __u32 v4, __u32 psid)
{
	__u64 ea = (__u64)(v4 & ~r->mask4) >> (r->more & 31) << (r->k & 31) | psid; // rule 1.8.ea

	return (ea & r->ea) << (r->ea_at & 63);
}

// ce_share is the share of the identifications that a CE has, which shares its address
// (RFC 7599 10.3).
static __always_inline void ce_share(struct map_rule *r, __u32 psid, struct packet *p)
{
	__u32 base = psid << (r->m & 31), mask = (1u << (r->m & 31)) - 1;

	if (r->a) {
		HERE;
		base |= 1u << ((16 - r->a) & 31);
		mask |= ((1u << ((r->a - 1) & 31)) - 1) << ((17 - r->a) & 31);
	}
	p->id_base = base;
	p->id_mask = mask;
	HERE;
}

// from_ce and to_ce are judged by themselves, and not once for each rule.
__attribute__((noinline)) int from_ce(struct map_rule *r, struct packet *p)
{
	__u32 k, more, psid, v4;
	__u64 ea;

	if (!r || !p)
		return UNMAPPED_SOURCE;
	ea = p->src_hi >> (r->ea_at & 63) & r->ea;
	k = r->k & 31, more = r->more & 31, psid = ea & ((1u << k) - 1);
	v4 = r->v4 | (__u32)(ea >> k << more) | ((__u32)(p->src_lo >> 16) & ((1u << more) - 1));
	if (!r->ea) {
		HERE;
		psid = r->psid;
	}
	if (p->src_hi != (r->hi6 | own_bits(r, v4, psid)) || p->src_lo != ((__u64)v4 << 16 | psid)) // rule 1.8.source
		PASS(UNMAPPED_SOURCE);
	if (k && own_psid(r, p->sport) != (int)psid)
		PASS(PORT);
	p->src4 = v4;
	p->id_mask = 0xffff;
	if (k)
		ce_share(r, psid, p);
	HERE;
	return TRANSLATED;
}

// ce4 is what the CE has whose packet it is, if it has no mapping. Like read6, it is judged
// by itself, and called for every packet: behind it, the verifier has one state for both.
__attribute__((noinline)) int ce4(struct config *c, struct packet *p)
{
	if (!c || !p)
		return UNMAPPED_SOURCE;
	if (!p->rule) {
		HERE;
		return TRANSLATED;
	}
	for (__u32 i = 0; i < MAX_RULES; i++) {
		struct map_rule *r = &c->rules[i];

		if (i >= c->count_rules)
			break;
		if ((p->src_hi & r->mask6) == r->hi6) {
			p->slot = i;
			return from_ce(r, p);
		}
	}
	PASS(UNMAPPED_SOURCE);
}

__attribute__((noinline)) int to_ce(struct map_rule *r, struct packet *p)
{
	int psid;

	if (!r || !p)
		return UNMAPPED_DESTINATION;
	psid = own_psid(r, p->dport);
	if (psid < 0)
		PASS(PORT);
	p->dst_hi = r->hi6 | own_bits(r, p->dst4, psid);
	p->dst_lo = (__u64)p->dst4 << 16 | (__u32)psid; // rule 1.8.identifier
	p->rule = r->k ? 2 : 1;
	HERE;
	return TRANSLATED;
}

// ce6 is the address of the CE that a packet is for.
__attribute__((noinline)) int ce6(struct config *c, struct packet *p)
{
	if (!c || !p)
		return UNMAPPED_DESTINATION;
	for (__u32 i = 0; i < MAX_RULES; i++) {
		struct map_rule *r = &c->rules[i];

		if (i >= c->count_rules)
			break;
		if ((p->dst4 & r->mask4) == r->v4) {
			p->slot = i;
			return to_ce(r, p);
		}
	}
	PASS(UNMAPPED_DESTINATION);
}

// number_ce sums up what was translated by a rule.
static __always_inline void number_ce(__u32 index, __u32 bytes, int received)
{
	struct traffic *n = bpf_map_lookup_elem(&ruled, &index);
	struct count *k;

	if (!n)
		return;
	k = received ? &n->received : &n->sent;
	k->packets++;
	k->bytes += bytes;
	HERE;
}

#undef HERE
#undef PASS

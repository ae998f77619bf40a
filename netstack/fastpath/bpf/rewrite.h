// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// What is done to a packet once it is known to be plain and its way is known: it
// is rewritten and sent there.
#pragma once
#include "host.h"

#define HERE COVER(3)
#define PASS(why) do { HERE; return why; } while (0)

// out sends the packet where route says. The kernel finds, and keeps, the
// neighbour.
static __always_inline int out(struct bpf_fib_lookup *f)
{
	struct bpf_redir_neigh to = { .nh_family = f->family };

	to.nh[0] = f->dst[0];
	if (f->family == AF_INET6) {
		HERE;
		to.nh[1] = f->dst[1];
		to.nh[2] = f->dst[2];
		to.nh[3] = f->dst[3];
	}
	return bpf_redirect_neigh(f->ifindex, &to, sizeof(to), 0);
}

// ask_on is ask for what comes in by the translator's device, which may have gone since it
// was heard, earlier in this tick, that the host leads there. by is then another, where
// alone says that what goes on without the device has no other way.
static __always_inline int ask_on(struct __sk_buff *skb, struct config *c, struct bpf_fib_lookup *f, __u32 *by, __u32 length, int alone)
{
	int why = ask(skb, c, f, *by, length);

	if (why == NO_ROUTE && alone && *by != c->via && gone(skb, c)) {
		HERE;
		*by = c->via;
		why = ask(skb, c, f, *by, length);
	}
	return why;
}

// way4 finds where p in its IPv4 form goes, by what interface, and how it is sent there;
// way6 does for its IPv6 form. Who passes it on after all sends it nowhere.
static __always_inline int way4(struct __sk_buff *skb, struct config *c, struct packet *p, __u32 *by, __u32 length, int *action, __u32 *to)
{
	struct bpf_fib_lookup f;
	int why;

	flow4(&f, p);
	why = ask_on(skb, c, &f, by, length, c->flags & ALONE);
	if (why)
		return why;
	*to = f.ifindex;
	*action = out(&f);
	return TRANSLATED;
}

static __always_inline int way6(struct __sk_buff *skb, struct config *c, struct packet *p, __u32 *by, __u32 length, int alone, int *action)
{
	struct bpf_fib_lookup f;
	int why;

	flow6(&f, p);
	why = ask_on(skb, c, &f, by, length, alone);
	if (why)
		return why;
	*action = out(&f);
	return TRANSLATED;
}

// trim cuts off what stands behind the IP packet (padding of short frames). Where the
// kernel would not, it passes the packet on.
static __always_inline int trim(struct __sk_buff *skb, struct packet *p, __u32 length)
{
	if (skb->len > ETH + length) {
		if (p->gso)
			PASS(TRUNCATED);
		if (bpf_skb_change_tail(skb, ETH + length, 0))
			PASS(UNCHANGED);
		HERE;
	}
	return TRANSLATED;
}

// resize is trim, and makes the IP header one of proto. Where the kernel would not, it
// passes the packet on, perhaps without that padding.
static __always_inline int resize(struct __sk_buff *skb, struct packet *p, __u32 length, __u16 proto)
{
	int why = trim(skb, p, length);

	if (why)
		return why;
	if (bpf_skb_change_proto(skb, be16(proto), 0))
		PASS(UNCHANGED);
	HERE;
	return TRANSLATED;
}

// field is where the checksum of the upper layer at l4 stands, or 0.
static __always_inline __u16 *field(struct __sk_buff *skb, struct packet *p, __u8 *l4)
{
	__u8 *at = l4 + (p->proto == TCP ? 16 : p->proto == UDP ? 6 : 2);

	if (at + 2 > (__u8 *)(long)skb->data_end)
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

#ifdef COVERAGE
// complete looks whether the device computed the sum of the packet, and whether
// it is still right: 36 bytes of IPv4 are now 56.
static __always_inline void complete(struct __sk_buff *skb)
{
	__s64 sum = bpf_csum_update(skb, 0);
	__u32 packet[14];

	if (sum < 0 || skb->len != ETH + sizeof(packet) || bpf_skb_load_bytes(skb, ETH, packet, sizeof(packet)))
		return;
	HERE;
	if (fold(sum) % 0xffff != fold(bpf_csum_diff(0, 0, packet, sizeof(packet), 0)) % 0xffff)
		cover(0);
}
#else
#define complete(skb) do { } while (0)
#endif

// finish tells the kernel what the sum of the packet changed by, for devices
// that computed it, and has it do the checksums that checksum left.
static __always_inline void finish(struct __sk_buff *skb, struct packet *p, __u32 l4, __u64 diff, __u64 change, int whole)
{
	bpf_csum_update(skb, be16(fold(change)));
	if (whole) {
		HERE;
		complete(skb);
		return;
	}
	if (p->proto == TCP) {
		HERE;
		bpf_l4_csum_replace(skb, l4 + 16, 0, be16(fold(diff)), BPF_F_PSEUDO_HDR);
	} else {
		HERE;
		bpf_l4_csum_replace(skb, l4 + 6, 0, be16(fold(diff)), BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0);
	}
	complete(skb);
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

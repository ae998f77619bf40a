// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// What is done to a packet at traffic control by the kernel's means.
#pragma once
#include "host.h"

#define HERE COVER(11)
#define PASS(why) do { HERE; return why; } while (0)

// capped4 and capped6 say that a workload's limits are held elsewhere.
static __always_inline int capped4(struct packet *p)
{
	(void)p;
	return TRANSLATED;
}

static __always_inline int capped6(struct packet *p)
{
	(void)p;
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

// out sends the packet where route says. The kernel finds, and keeps, the
// neighbour.
static __always_inline int out(struct __sk_buff *skb, struct bpf_fib_lookup *f, struct packet *p, int *action)
{
	struct bpf_redir_neigh to = { .nh_family = f->family };

	(void)skb, (void)p;
	to.nh[0] = f->dst[0];
	if (f->family == AF_INET6) {
		HERE;
		to.nh[1] = f->dst[1];
		to.nh[2] = f->dst[2];
		to.nh[3] = f->dst[3];
	}
	*action = bpf_redirect_neigh(f->ifindex, &to, sizeof(to), 0);
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

#undef HERE
#undef PASS

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// What is done to a frame in front of traffic control. Nobody helps: checksums are whole,
// the next hop's address is known, or the packet is passed on.
#pragma once
#include "host.h"
#include "shed.h"

#define HERE COVER(12)
#define PASS(why) do { HERE; return why; } while (0)

// half reads and writes two bytes of what is something else.
typedef __u16 __attribute__((may_alias)) half;

// limited says that somebody has a limit, which they are held to at traffic control.
static __always_inline int limited(void *map, void *key)
{
	if (bpf_map_lookup_elem(map, key))
		PASS(LIMITED);
	HERE;
	return TRANSLATED;
}

// capped4 says that who p is for may have a limit, capped6 that who it is of may.
static __always_inline int capped4(struct packet *p)
{
	struct receiver k = { .length = 48 };

	if (!caps())
		return TRANSLATED;
	*(__u32 *)k.addr = be32(p->dst4);
	*(half *)k.port = be16(p->dport);
	return limited(&receivers, &k);
}

static __always_inline int capped6(struct packet *p)
{
	struct sender k = { .length = 128 };

	if (!caps())
		return TRANSLATED;
	put6((__u32 *)k.addr, p->src_hi, p->src_lo);
	return limited(&senders, &k);
}

// plain_link says that a frame came for this host, where packets of that family are
// translated. A tag would stand where the type is.
static __always_inline int plain_link(struct xdp_md *xdp, __u16 type, __u32 headers)
{
	__u32 by = xdp->ingress_ifindex;
	half *h = (half *)(long)xdp->data, *mac;
	struct link *l;

	(void)headers;
	if (h + ETH / 2 > (half *)(long)xdp->data_end)
		return TRUNCATED; // which the program has looked at
	l = bpf_map_lookup_elem(&links, &by);
	if (!l || !(l->flags & (type == ETH_P_IP ? FROM4 : FROM6)))
		PASS(NOT_THIS_FAMILY);
	mac = (half *)l->mac;
	if ((h[0] ^ mac[0]) | (h[1] ^ mac[1]) | (h[2] ^ mac[2]))
		PASS(NOT_PLAIN_LINK);
	return TRANSLATED;
}

// out sends the packet where route says, if that takes frames.
static __always_inline int out(struct xdp_md *xdp, struct bpf_fib_lookup *f, struct packet *p, int *action)
{
	struct link *l = bpf_map_lookup_elem(&links, &f->ifindex);

	if (!l || !(l->flags & SENDS))
		PASS(NO_LINK);
	if (!(l->flags & SENDS_LONG) && bpf_xdp_get_buff_len(xdp) != xdp->data_end - xdp->data)
		PASS(NO_LINK);
	HERE;
	__builtin_memcpy(&p->ether, &f->ether, sizeof(p->ether));
	*action = bpf_redirect(f->ifindex, 0);
	return TRANSLATED;
}

// resize cuts off what stands behind the IP packet (padding of short frames), makes the IP
// header one of proto and gives the frame its addresses. Where the kernel would not, it
// passes the packet on, perhaps without that padding.
static __always_inline int resize(struct xdp_md *xdp, struct packet *p, __u32 length, __u16 proto)
{
	half *h, *e = (half *)&p->ether;
	int rest = (int)bpf_xdp_get_buff_len(xdp) - (int)(ETH + length);

	if (rest > 0) {
		if (bpf_xdp_adjust_tail(xdp, -rest))
			PASS(UNCHANGED);
		HERE;
	}
	if (bpf_xdp_adjust_head(xdp, proto == ETH_P_IP ? SIZE6 - SIZE4 : SIZE4 - SIZE6))
		PASS(UNCHANGED);
	HERE;
	h = (half *)(long)xdp->data;
	if (h + ETH / 2 > (half *)(long)xdp->data_end)
		PASS(LOST);
	h[0] = e[3];
	h[1] = e[4];
	h[2] = e[5];
	h[3] = e[0];
	h[4] = e[1];
	h[5] = e[2];
	return TRANSLATED;
}

// trim is for what goes to workloads as it is, which nothing does from here.
static __always_inline int trim(struct xdp_md *xdp, struct packet *p, __u32 length)
{
	(void)xdp, (void)p, (void)length;
	return UNCHANGED;
}

// finish has nothing to tell: checksum has left nothing.
static __always_inline void finish(struct xdp_md *xdp, struct packet *p, __u32 l4, __u64 diff, __u64 change, int whole)
{
	(void)xdp, (void)p, (void)l4, (void)diff, (void)change, (void)whole;
}

#undef HERE
#undef PASS

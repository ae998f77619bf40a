// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// Reading a packet: its upper layer, and sums. A sum is a ones' complement sum
// of 16-bit words (RFC 1071) of numbers in the host's byte order, as in
// translator/checksum.go.
#pragma once
#include "address.h"
#ifdef XDP
#include "xdp.h"
#else
#include "tc.h"
#endif

#define HERE COVER(2)
#define PASS(why) do { HERE; return why; } while (0)

enum {
	ETH = 14, // an Ethernet header, the only one there may be
	SIZE4 = 20,
	SIZE6 = 40,
	LEAST_UPPER = 8,
	LEAST_TCP = 20,

	ICMP4 = 1,
	TCP = 6,
	UDP = 17,
	ICMP6 = 58,

	LONGEST_DF0 = 1260,
	LONGEST = 65535,
	DF = 0x4000,
};

// packet is what is known of a packet, in either form.
struct packet {
	__u64 src_hi, src_lo, dst_hi, dst_lo;
	__u32 src4, dst4;
	__u32 payload; // bytes behind the IP header
	__u32 headers; // of them, the upper layer's header
	__u32 covered; // of them, what the checksum covers
	__u32 gso;     // payload of a segment, or 0
	__u32 slot;
	__u32 label;   // of the flow, in IPv6
	__u16 sport, dport; // both the identifier, of an echo message
	__u16 field;        // the checksum
	__u16 id;
	__u8 proto;
	__u8 type; // of ICMP
	__u8 class;
	__u8 hops;
	__u8 df;
	__u8 asks;   // TCP: SYN without ACK; echo: a request
	__u8 client; // of whom it is for: see CLIENT
	__u8 rule;   // a CE's, by the rule of number slot; 2: one that shares its address
	__u16 policy;
	__u16 id_base, id_mask; // its sender's share of the identifications
	__u8 inside; // it is for a workload that has its IPv4 address inside
	__u8 assured; // see assured
	__u8 led;     // and what it is for leads to the translator as its own address does
	struct ether ether; // of the next hop
};

static __always_inline __u16 fold(__u64 s)
{
	s = (s >> 32) + (s & 0xffffffff);
	s = (s >> 16) + (s & 0xffff);
	s = (s >> 16) + (s & 0xffff);
	return (s >> 16) + (s & 0xffff);
}

static __always_inline __u64 add(__u64 a, __u64 b)
{
	__u64 s = a + b;

	return s + (s < b);
}

static __always_inline __u64 addresses6(struct packet *p)
{
	return add(add(p->src_hi, p->src_lo), add(p->dst_hi, p->dst_lo));
}

static __always_inline __u64 addresses4(struct packet *p)
{
	return (__u64)p->src4 + p->dst4;
}

// segment is how long the upper layer is in a packet on the wire.
static __always_inline __u32 segment(struct packet *p)
{
	if (p->gso && p->headers + p->gso < p->payload) {
		HERE;
		return p->headers + p->gso; // rule 5.segment-size
	}
	HERE;
	return p->payload;
}

// super judges a superpacket. Its type is not to be seen here: TCP has but one;
// UDP cut into datagrams says how many they are, UDP to be cut into fragments
// (UFO) does not.
static __always_inline int super(struct context *ctx, struct packet *p)
{
	p->gso = gso_size(ctx);
	if (!p->gso) {
		HERE;
		return TRANSLATED;
	}
	if (p->proto == TCP) {
		HERE;
		return TRANSLATED;
	}
	if (p->proto != UDP)
		PASS(SUPERPACKET);
	if (!gso_segs(ctx) || (p->payload - LEAST_UPPER + p->gso - 1) / p->gso != gso_segs(ctx))
		PASS(SUPERPACKET);
	HERE;
	return TRANSLATED;
}

// upper reads the header of the upper layer at l4, of which LEAST_UPPER bytes
// are there. icmp is the ICMP of the packet's family, request and reply its
// types of echo.
static __always_inline int upper(struct packet *p, __u8 *l4, void *end, __u8 icmp, __u8 request, __u8 reply)
{
	__u16 *w = (__u16 *)l4;

	p->sport = be16(w[0]);
	p->dport = be16(w[1]);
	p->covered = p->payload;
	if (p->proto == TCP) {
		if (l4 + LEAST_TCP > (__u8 *)end)
			PASS(TRUNCATED);
		p->headers = l4[12] >> 4 << 2;
		if (p->headers < LEAST_TCP)
			PASS(UPPER_HEADER);
		if (p->headers > p->payload)
			PASS(UPPER_HEADER);
		p->field = be16(w[8]);
		p->asks = (l4[13] & 0x12) == 0x02;
		HERE;
		return TRANSLATED;
	}
	if (p->proto == UDP) {
		__u16 length = be16(w[2]);

		if (length < 8)
			PASS(UPPER_HEADER);
		if (length > p->payload)
			PASS(UPPER_HEADER);
		p->headers = 8;
		p->covered = length;
		p->field = be16(w[3]);
		if (!p->field)
			PASS(NO_CHECKSUM);
		HERE;
		return TRANSLATED;
	}
	if (p->proto == icmp) {
		p->type = l4[0];
		if (p->type != request && p->type != reply) // rule 6.echo
			PASS(PROTOCOL);
		if (l4[1])
			PASS(PROTOCOL);
		p->headers = 8;
		p->asks = p->type == request;
		p->field = be16(w[1]);
		p->sport = p->dport = be16(w[2]);
		HERE;
		return TRANSLATED;
	}
	PASS(PROTOCOL);
}

// partial says that a checksum field may hold what the device is to complete:
// the sum of the pseudo header, not inverted. sum is that of the addresses
// before translation.
static __always_inline int partial(struct packet *p, __u64 sum, __u8 proto)
{
	__u16 pseudo = fold(add(sum, p->covered + proto));

	return p->field == pseudo || (p->field == 0 && pseudo == 0xffff);
}

#undef HERE
#undef PASS

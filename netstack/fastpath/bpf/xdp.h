// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// A packet as a program in front of traffic control has it (XDP): a frame, of which the
// kernel knows nothing yet. It may be in several pieces, of which only the first is to be
// seen here.
#pragma once
#include "maps.h"

#define context xdp_md

enum {
	COMPLETES = 0,
	DELIVERS = 0,
	EDGES = 0,
	FIB_NEXT_HOP = BPF_FIB_LOOKUP_SKIP_NEIGH,
	MAX_LINKS = 64,
};

// Why a packet is passed on to traffic control, besides what it would be passed on for there.
enum xdp_reason {
	NO_NEIGHBOUR = NUM_REASONS, // the next hop's Ethernet address is not known
	NO_LINK,                    // it leaves by an interface that takes no frames of programs
	LIMITED,                    // its workload has a limit, which is held there
	NUM_XDP_REASONS,
};

// Flags of a link.
enum {
	FROM4 = 1,      // what comes in is IPv4 for workloads
	FROM6 = 2,      // what comes in is IPv6 of workloads
	SENDS = 4,      // it takes frames of programs
	SENDS_LONG = 8, // also those in several pieces
};

// link is an interface where packets are translated in front of traffic control.
struct link {
	__u8 mac[6];
	__u16 flags;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_LINKS);
	__type(key, __u32);
	__type(value, struct link);
} links SEC(".maps");

// taken counts by reason what became of packets here, of either family.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2 * NUM_XDP_REASONS);
	__type(key, __u32);
	__type(value, struct count);
} taken SEC(".maps");

// ether is a next hop's Ethernet header but for the type, source first, as in a
// bpf_fib_lookup.
struct ether {
	__u32 word[3];
};

static __always_inline __u8 *frame(struct context *ctx)
{
	return (__u8 *)(long)ctx->data;
}

static __always_inline __u8 *frame_end(struct context *ctx)
{
	return (__u8 *)(long)ctx->data_end;
}

static __always_inline __u32 frame_length(struct context *ctx)
{
	return bpf_xdp_get_buff_len(ctx);
}

static __always_inline __u32 ingress(struct context *ctx)
{
	return ctx->ingress_ifindex;
}

// Nobody has marked a packet yet, nor joined it to others.
static __always_inline __u32 marked(struct context *ctx)
{
	(void)ctx;
	return 0;
}

static __always_inline __u32 gso_size(struct context *ctx)
{
	(void)ctx;
	return 0;
}

static __always_inline __u32 gso_segs(struct context *ctx)
{
	(void)ctx;
	return 0;
}

static __always_inline void load_bytes(struct context *ctx, __u32 at, void *to, __u32 n)
{
	bpf_xdp_load_bytes(ctx, at, to, n);
}

// answered says why an answer is none to go by. A next hop's neighbour must be known: nobody
// looks for it here.
static __always_inline int answered(long rc, __u32 flags)
{
	if (rc == BPF_FIB_LKUP_RET_NO_NEIGH)
		return flags & BPF_FIB_LOOKUP_SKIP_NEIGH ? TRANSLATED : NO_NEIGHBOUR;
	return rc == BPF_FIB_LKUP_RET_SUCCESS ? TRANSLATED : NO_ROUTE;
}

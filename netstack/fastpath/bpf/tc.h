// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// A packet as a program at traffic control has it: the kernel knows of its checksums and
// segments, and finds its neighbour.
#pragma once
#include "maps.h"

#define context __sk_buff

enum {
	COMPLETES = 1,    // the kernel brings along a checksum that the device is to complete
	DELIVERS = 1,     // IPv4 goes on to workloads that have it inside
	EDGES = 1,        // the host may be the edge of a fabric without IPv4
	FIB_NEXT_HOP = 0, // flags that who asks for a next hop does without
};

// ether is what must be known of a next hop to send to it.
struct ether {};

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
	return ctx->len;
}

static __always_inline __u32 ingress(struct context *ctx)
{
	return ctx->ifindex;
}

static __always_inline __u32 marked(struct context *ctx)
{
	return ctx->mark;
}

static __always_inline __u32 gso_size(struct context *ctx)
{
	return ctx->gso_size;
}

static __always_inline __u32 gso_segs(struct context *ctx)
{
	return ctx->gso_segs;
}

static __always_inline void load_bytes(struct context *ctx, __u32 at, void *to, __u32 n)
{
	bpf_skb_load_bytes(ctx, at, to, n);
}

// answered says why an answer is none to go by. The neighbour need not be known.
static __always_inline int answered(long rc, __u32 flags)
{
	(void)flags;
	return rc == BPF_FIB_LKUP_RET_SUCCESS || rc == BPF_FIB_LKUP_RET_NO_NEIGH ? TRANSLATED : NO_ROUTE;
}

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// The fast path in front of traffic control (XDP), for physical uplinks of relays: it
// translates the plainest packets by the same code and the same maps as program.c, and
// passes all others on to that, as they came. See ../README.md.
#define XDP
#include "to6.h"
#include "to4.h"

enum { TYPE = 12 }; // where the Ethernet type is

static __always_inline void tell(void *map, __u32 at, __u32 bytes)
{
	struct count *n = bpf_map_lookup_elem(map, &at);

	if (n) {
		n->packets++;
		n->bytes += bytes;
	}
}

// told counts what became of a packet. What is translated, or lost, nobody else counts.
static __always_inline int told(int why, int action, __u32 bytes, __u32 family)
{
	tell(&taken, why + family * NUM_XDP_REASONS, bytes);
	if (why && why != LOST)
		return XDP_PASS;
	tell(&reasons, why + family * NUM_REASONS, bytes);
	return why ? XDP_DROP : action;
}

SEC("xdp.frags")
int xdp(struct xdp_md *ctx)
{
	__u32 bytes = frame_length(ctx) - ETH;
	int action = XDP_PASS, delivered = 0;
	__u8 *h = frame(ctx);

	if (h + ETH > frame_end(ctx))
		return XDP_PASS;
	if (*(__u16 *)(h + TYPE) == be16(ETH_P_IP))
		return told(to6(ctx, &action, &delivered), action, bytes, 0);
	if (*(__u16 *)(h + TYPE) == be16(ETH_P_IPV6))
		return told(to4(ctx, &action), action, bytes, 1);
	return XDP_PASS;
}

const struct link *_link __attribute__((unused));
const enum xdp_reason *_xdp_reason __attribute__((unused));

char _license[] SEC("license") = "Dual BSD/GPL";

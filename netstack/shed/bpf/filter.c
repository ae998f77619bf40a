// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// The policer in front of the daemon's queues: it stands in the translator's device
// (TUNSETFILTEREBPF), where every packet that the host leads to the daemon comes by on the
// CPU of who sent it. It is there only while somebody has a limit.
#include "../../fastpath/bpf/shed.h"

// known6 and known4 are all workloads, while strangers have a limit: whoever is in neither
// is a stranger. strangers is the place of their limit, each way, and one more; 0: none.
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, MAX_BLOCKS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct sender);
	__type(value, __u32);
} known6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, MAX_BLOCKS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct receiver);
	__type(value, __u32);
} known4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
} strangers SEC(".maps");

enum { SENT = 0, RECEIVED = 1, IS_ICMP6 = 58, ERRORS = 128 };

// error6 says that an IPv6 packet is an ICMPv6 error: those of strangers have an account of
// their own, in the daemon.
static __always_inline int error6(struct __sk_buff *skb)
{
	__u8 next, type;

	return !bpf_skb_load_bytes(skb, 6, &next, 1) && next == IS_ICMP6 && !bpf_skb_load_bytes(skb, HEADER6, &type, 1) && type < ERRORS;
}

static __attribute__((noinline)) int stranger6(struct __sk_buff *skb)
{
	struct sender k = { .length = 128 };

	return !bpf_skb_load_bytes(skb, 8, k.addr, sizeof(k.addr)) && !bpf_map_lookup_elem(&known6, &k) && !error6(skb);
}

static __attribute__((noinline)) int stranger4(struct __sk_buff *skb)
{
	struct receiver k = { .length = 48 };

	return receiver4(skb, 0, &k) && !bpf_map_lookup_elem(&known4, &k);
}

// over_strangers says that a packet is a stranger's, and over their limit.
static __always_inline int over_strangers(struct __sk_buff *skb, __u32 way)
{
	__u32 *place = bpf_map_lookup_elem(&strangers, &way);

	if (!place || !*place)
		return 0;
	if (!(way == SENT ? stranger6(skb) : stranger4(skb)))
		return 0;
	return over(*place - 1, AT_QUEUE, skb->len, 0, SHARE);
}

SEC("socket")
int police(struct __sk_buff *skb)
{
	__u32 *index;
	__u8 first;

	if (bpf_skb_load_bytes(skb, 0, &first, 1))
		return -1;
	if (first >> 4 == 4)
		return over4(skb, 0, AT_QUEUE, CAPS | SHARE) || over_strangers(skb, RECEIVED) ? 0 : -1;
	if (first >> 4 != 6)
		return -1;
	index = limited6(skb, 0);
	if (!index)
		return over_strangers(skb, SENT) ? 0 : -1;
	return over6(skb, 0, *index, AT_QUEUE, CAPS | SHARE) ? 0 : -1;
}

char _license[] SEC("license") = "Dual BSD/GPL";

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// The policer in front of the daemon's queues: it stands in the translator's device
// (TUNSETFILTEREBPF), where every packet that the host leads to the daemon comes by on the
// CPU of who sent it. It is there only while somebody has a limit.
#include "../../fastpath/bpf/shed.h"

SEC("socket")
int police(struct __sk_buff *skb)
{
	__u32 *index;
	__u8 first;

	if (bpf_skb_load_bytes(skb, 0, &first, 1))
		return -1;
	if (first >> 4 == 4)
		return over4(skb, 0, AT_QUEUE, CAPS | SHARE) ? 0 : -1;
	if (first >> 4 != 6)
		return -1;
	index = limited6(skb, 0);
	return index && over6(skb, 0, *index, AT_QUEUE, CAPS | SHARE) ? 0 : -1;
}

char _license[] SEC("license") = "Dual BSD/GPL";

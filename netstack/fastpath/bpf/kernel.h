// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// What the program needs of the kernel's interface, under the kernel's names
// (include/uapi/linux/bpf.h). It is written down here, and not included, so
// that the object does not depend on whose headers are installed.
#pragma once

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef long long __s64;

#define SEC(name) __attribute__((section(name), used))
#define __always_inline inline __attribute__((always_inline))
#define __uint(name, val) int(*name)[val]
#define __type(name, val) typeof(val) *name
#define __array(name, val) typeof(val) *name[]
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define be16(x) ((__u16)__builtin_bswap16(x))
#define be32(x) ((__u32)__builtin_bswap32(x))
#define be64(x) ((__u64)__builtin_bswap64(x))
#else
#define be16(x) ((__u16)(x))
#define be32(x) ((__u32)(x))
#define be64(x) ((__u64)(x))
#endif

enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LPM_TRIE = 11,
	BPF_MAP_TYPE_ARRAY_OF_MAPS = 12,
};

enum {
	BPF_F_NO_PREALLOC = 1,
	BPF_F_INNER_MAP = 1 << 12, // the number of elements may differ; Linux 5.10
	BPF_F_MMAPABLE = 1 << 10,
	BPF_F_PSEUDO_HDR = 1 << 4,
	BPF_F_MARK_MANGLED_0 = 1 << 5,

	BPF_FIB_LOOKUP_SKIP_NEIGH = 1 << 2, // Linux 6.3

	BPF_FIB_LKUP_RET_SUCCESS = 0,
	BPF_FIB_LKUP_RET_NO_NEIGH = 7,
	BPF_FIB_LKUP_RET_FRAG_NEEDED = 8,

	TC_ACT_UNSPEC = -1, // as TCX_NEXT
	TC_ACT_SHOT = 2,

	XDP_DROP = 1,
	XDP_PASS = 2,

	PACKET_HOST = 0,

	AF_INET = 2,
	AF_INET6 = 10,

	ETH_P_IP = 0x0800,
	ETH_P_IPV6 = 0x86dd,
};

struct __sk_buff {
	__u32 len;
	__u32 pkt_type;
	__u32 mark;
	__u32 queue_mapping;
	__u32 protocol;
	__u32 vlan_present;
	__u32 vlan_tci;
	__u32 vlan_proto;
	__u32 priority;
	__u32 ingress_ifindex;
	__u32 ifindex;
	__u32 tc_index;
	__u32 cb[5];
	__u32 hash;
	__u32 tc_classid;
	__u32 data;
	__u32 data_end;
	__u32 napi_id;
	__u32 family;
	__u32 remote_ip4;
	__u32 local_ip4;
	__u32 remote_ip6[4];
	__u32 local_ip6[4];
	__u32 remote_port;
	__u32 local_port;
	__u32 data_meta;
	__u64 flow_keys;
	__u64 tstamp;
	__u32 wire_len;
	__u32 gso_segs;
	__u64 sk;
	__u32 gso_size;
};

struct xdp_md {
	__u32 data;
	__u32 data_end;
	__u32 data_meta;
	__u32 ingress_ifindex;
	__u32 rx_queue_index;
	__u32 egress_ifindex;
};

struct bpf_fib_lookup {
	__u8 family;
	__u8 l4_protocol;
	__u16 sport;
	__u16 dport;
	__u16 tot_len;
	__u32 ifindex;
	union {
		__u8 tos;       // IPv4
		__u32 flowinfo; // IPv6
	};
	__u32 src[4];
	__u32 dst[4]; // becomes the gateway
	__u16 h_vlan_proto;
	__u16 h_vlan_TCI;
	union {
		struct {
			__u8 smac[6];
			__u8 dmac[6];
		};
		__u32 ether[3];
	};
} __attribute__((aligned(8)));

// word reads what has been written as something else.
typedef __u64 __attribute__((may_alias)) word;

struct bpf_redir_neigh {
	__u32 nh_family;
	__u32 nh[4];
};

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static __u64 (*bpf_ktime_get_ns)(void) = (void *)5;
static __u32 (*bpf_get_smp_processor_id)(void) = (void *)8;
static long (*bpf_l4_csum_replace)(struct __sk_buff *, __u32 offset, __u64 from, __u64 to, __u64 flags) = (void *)11;
static long (*bpf_redirect)(__u32 ifindex, __u64 flags) = (void *)23;
static long (*bpf_skb_load_bytes)(struct __sk_buff *, __u32 offset, void *to, __u32 len) = (void *)26;
static __s64 (*bpf_csum_diff)(__u32 *from, __u32 from_size, __u32 *to, __u32 to_size, __u32 seed) = (void *)28;
static long (*bpf_skb_change_proto)(struct __sk_buff *, __u16 proto, __u64 flags) = (void *)31;
static long (*bpf_skb_change_tail)(struct __sk_buff *, __u32 len, __u64 flags) = (void *)38;
static long (*bpf_skb_pull_data)(struct __sk_buff *, __u32 len) = (void *)39;
static long (*bpf_xdp_adjust_head)(struct xdp_md *, int delta) = (void *)44;
static __s64 (*bpf_csum_update)(struct __sk_buff *, __u32 csum) = (void *)40;
static long (*bpf_xdp_adjust_tail)(struct xdp_md *, int delta) = (void *)65;
static long (*bpf_fib_lookup)(void *ctx, struct bpf_fib_lookup *, int len, __u32 flags) = (void *)69;
static __u64 (*bpf_jiffies64)(void) = (void *)118;
static long (*bpf_redirect_neigh)(__u32 ifindex, struct bpf_redir_neigh *, int len, __u64 flags) = (void *)152;
static __u64 (*bpf_ktime_get_coarse_ns)(void) = (void *)160;
static __u64 (*bpf_xdp_get_buff_len)(struct xdp_md *) = (void *)188;
static long (*bpf_xdp_load_bytes)(struct xdp_md *, __u32 offset, void *to, __u32 len) = (void *)189;

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// The maps. A table, of either generation, is one inner map of each kind; an
// inner map's own size is made to fit and has nothing to do with what stands
// here.
#pragma once
#include "layout.h"

// Memory that can be mapped begins where a page does, and each bin where a line does.
#define BINS(name, bin)                                                       \
	struct inner_##name {                                                 \
		__uint(type, BPF_MAP_TYPE_ARRAY);                             \
		__uint(max_entries, 1);                                       \
		__uint(map_flags, BPF_F_INNER_MAP | BPF_F_MMAPABLE);          \
		__uint(key_size, sizeof(__u32));                              \
		__uint(value_size, sizeof(struct bin));                       \
	}

BINS(by6, bin6);
BINS(by4, bin4);
BINS(ports, bin_port);

struct inner_inside {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct entry_inside));
};

struct inner_near {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NEAR_WORDS);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u64));
};

struct inner_counters {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_INNER_MAP);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct traffic));
};

struct inner_policy {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_INNER_MAP);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct line));
};

#define OUTER(name)                                   \
	struct {                                          \
		__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);     \
		__uint(max_entries, GENERATIONS);             \
		__type(key, __u32);                           \
		__array(values, struct inner_##name);         \
	} name SEC(".maps")

OUTER(by6);
OUTER(by4);
OUTER(ports);
OUTER(inside);
OUTER(near);
OUTER(counters);
OUTER(policy);

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GENERATIONS);
	__type(key, __u32);
	__type(value, struct config);
} configs SEC(".maps");

// active is the generation in use.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} active SEC(".maps");

// reasons count what became of packets: first those of the uplink, then those
// of workloads, of IPv4 that workloads send, and that the daemon gives to them; last,
// IPv4 that went to workloads by themselves.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 5 * NUM_REASONS);
	__type(key, __u32);
	__type(value, struct count);
} reasons SEC(".maps");

// blocks is how many blocks of identifications CPUs have drawn, drawn is what
// each has left of its own.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} blocks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ids);
} drawn SEC(".maps");

// assurance is until when, by the monotonic clock, the daemon sees to what ALONE says, and to
// what parts says: it looks whenever the kernel tells of a change.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} assurance SEC(".maps");

// SEVERAL in the number of a class: there are several ways to it, of which a flow has one.
#define SEVERAL (1u << 31)

// parts4 and parts6 say of which class a destination is, by the number of that, which no
// other class had of late; 0: each address of that prefix has a way of its own.
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, MAX_PARTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct part4);
	__type(value, __u32);
} parts4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, MAX_PARTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct part6);
	__type(value, __u32);
} parts6 SEC(".maps");

// assured says that prefix and mappings lead to the translator alone, and that destinations
// of a class have the same way. An edge asks. It is judged by itself, as look is: behind it
// the kernel's verifier has one state.
__attribute__((noinline)) int assured(struct config *c)
{
	__u32 zero = 0;
	__u64 *until;

	if (!c || (c->flags & (ALONE | EDGE)) != ALONE)
		return 0;
	until = bpf_map_lookup_elem(&assurance, &zero);
	return until && *until > bpf_ktime_get_coarse_ns();
}

#ifdef COVERAGE
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, __u64);
} coverage SEC(".maps");

static __always_inline void cover(__u32 at)
{
	__u64 *n = bpf_map_lookup_elem(&coverage, &at);
	if (n)
		__sync_fetch_and_add(n, 1);
}

// COVER marks a branch: a test wants to see every one of them taken.
#define COVER(file) cover((file) * 1024 + __LINE__)
#else
#define COVER(file) do { } while (0)
#endif

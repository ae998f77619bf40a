// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// Finding in tables of bins, as bins.go writes them.
#pragma once
#include "maps.h"

// tables is one generation, as a packet sees it from beginning to end.
struct tables {
	struct config *c;
	void *by6, *by4, *ports, *near, *counters;
};

// MULTIPLIER is that of splitmix64 (Steele, Lea and Flood, 2014).
#define MULTIPLIER 0xbf58476d1ce4e5b9ull

static __always_inline __u64 scramble(__u64 h)
{
	h *= MULTIPLIER;
	return h ^ h >> 32;
}

static __always_inline __u64 hash6(struct key6 *k, __u64 seed)
{
	__u64 h = scramble(seed ^ ((__u64)k->word[0] << 32 | k->word[1]));

	h = scramble(h ^ ((__u64)k->word[2] << 32 | k->word[3]));
	return (h ^ k->length) * MULTIPLIER;
}

static __always_inline __u64 hash4(struct key4 *k, __u64 seed)
{
	return scramble(seed ^ ((__u64)k->v4 << 32 | k->length)) * MULTIPLIER;
}

static __always_inline __u64 hash_port(struct key_port *k, __u64 seed)
{
	return scramble(seed ^ ((__u64)k->v4 << 32 | (__u32)k->base << 16 | k->size)) * MULTIPLIER;
}

static __always_inline int same6(struct key6 *k, struct key6 *o)
{
	return !((k->word[3] ^ o->word[3]) | (k->word[2] ^ o->word[2]) | (k->word[1] ^ o->word[1]) |
		 (k->word[0] ^ o->word[0]) | (k->length ^ o->length));
}

static __always_inline int same4(struct key4 *k, struct key4 *o)
{
	return !((k->v4 ^ o->v4) | (k->length ^ o->length));
}

static __always_inline int same_port(struct key_port *k, struct key_port *o)
{
	return !((k->v4 ^ o->v4) | (k->base ^ o->base) | (k->size ^ o->size));
}

// seen is at, known no sooner than live: no processor reads what stands there before it has
// seen that it does.
static __always_inline __u32 seen(__u32 at, __u64 live)
{
	asm volatile("%0 &= 0" : "+r"(live));
	return at + live;
}

// FIND makes find_NAME, which says in which bin of a generation's table a key stands, or 0. It
// is judged by itself, as look is: behind it the kernel's verifier has one state. entry_NAME
// is what stands in that bin.
#define FIND(name, kind, bin_of, hash, same)                                                    \
	__attribute__((noinline)) int find_##name(struct kind *k, __u32 generation)             \
	{                                                                                       \
		void *table = bpf_map_lookup_elem(&name, &generation);                          \
		__u32 at = 0, next = 0, live;                                                   \
		struct bins *head;                                                              \
                                                                                                \
		if (!k || !table || !(head = bpf_map_lookup_elem(table, &at)))                  \
			return 0;                                                               \
		at = FIRST_BIN + (__u32)((hash(k, head->seed) >> 32) * head->homes >> 32);      \
		for (__u32 i = 0; i < MAX_PROBES; i++) {                                        \
			struct bin_of *b = bpf_map_lookup_elem(table, &at);                     \
                                                                                                \
			if (!b)                                                                 \
				return 0;                                                       \
			live = b->live;                                                         \
			if (live && same(k, &b->key))                                           \
				return seen(at, live);                                         \
			if (i != 1)                                                             \
				next = b->next;                                                 \
			at = i ? next : at ^ 1;                                                 \
			if (!at)                                                                \
				break;                                                          \
		}                                                                               \
		return 0;                                                                       \
	}                                                                                       \
                                                                                                \
	static __always_inline typeof(((struct bin_of *)0)->entry) *entry_##name(struct tables *t, __u32 at) \
	{                                                                                       \
		struct bin_of *b = at ? bpf_map_lookup_elem(t->name, &at) : 0;                  \
                                                                                                \
		if (!b)                                                                         \
			return 0;                                                               \
		asm volatile("" : "+r"(b)); /* no sum before it is known that there is one */   \
		return &b->entry;                                                               \
	}

FIND(by6, key6, bin6, hash6, same6)
FIND(by4, key4, bin4, hash4, same4)
FIND(ports, key_port, bin_port, hash_port, same_port)


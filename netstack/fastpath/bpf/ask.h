// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// Asking the host for a way, which takes a good part of what a packet takes. What it
// said is remembered by each CPU, to the end of the tick of the kernel's clock (of 1 to
// 10 ms) that it was said in: a stream asks once a tick.
#pragma once
#include "packet.h"

#define HERE COVER(10)
#define PASS(why) do { HERE; return why; } while (0)

enum {
	WAYS_BITS = 8, // of what is remembered by each CPU
	ASKED_WORDS = 6,
};

// way is an answer, to what the first words of a bpf_fib_lookup asked for.
struct way {
	__u64 asked[ASKED_WORDS];
	__u64 tick; // 0: there is none
	__u32 gateway[4];
	__u32 ifindex;
	__u32 longest; // packet that it is for
	__u32 family;
	struct ether ether;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1 << WAYS_BITS);
	__type(key, __u32);
	__type(value, struct way);
} ways SEC(".maps");

// place is where the answer is remembered. Of those who meet there, the first in a tick
// has it: with more streams than there are places, none is in the way of all others.
static __always_inline __u32 place(word *w)
{
	__u64 h = w[0] * 0x9e3779b97f4a7c15 + w[1] * 0xbf58476d1ce4e5b9 + w[2] * 0x94d049bb133111eb +
		  w[3] * 0xd6e8feb86659fd93 + w[4] * 0xa0761d6478bd642f + w[5] * 0xe7037ed1a0b428db;

	return h >> (64 - WAYS_BITS);
}

static __always_inline int same(struct way *y, word *w)
{
	return ((y->asked[0] ^ w[0]) | (y->asked[1] ^ w[1]) | (y->asked[2] ^ w[2]) | (y->asked[3] ^ w[3]) |
		(y->asked[4] ^ w[4]) | (y->asked[5] ^ w[5])) == 0;
}

// look is ask, which the kernel's verifier judges by itself, and not once for each way
// that leads here: it is no static function (Linux 5.12).
__attribute__((noinline)) int look(struct context *ctx, struct bpf_fib_lookup *f, __u32 ifindex, __u32 length, __u32 flags)
{
	word *w = (word *)f;
	__u64 now = bpf_jiffies64();
	struct way *y;
	int keep = 0, why; // keep: what is remembered is another's
	__u32 at;
	long rc;

	if (!f)
		return NO_ROUTE;
	f->tot_len = flags; // other flags have other answers
	f->ifindex = ifindex;
	at = place(w);
	y = bpf_map_lookup_elem(&ways, &at);
	if (!y)
		return NO_ROUTE;
	if (y->tick == now) {
		keep = !same(y, w);
		if (!keep && length <= y->longest) {
			HERE;
			f->family = y->family;
			f->ifindex = y->ifindex;
			__builtin_memcpy(f->dst, y->gateway, sizeof(y->gateway));
			__builtin_memcpy(&f->ether, &y->ether, sizeof(y->ether));
			return TRANSLATED;
		}
		HERE;
	}
	if (!keep) {
		HERE;
		y->tick = 0;
		for (int i = 0; i < ASKED_WORDS; i++)
			y->asked[i] = w[i];
	}
	f->tot_len = length;
	rc = bpf_fib_lookup(ctx, f, sizeof(*f), flags);
	if (rc == BPF_FIB_LKUP_RET_FRAG_NEEDED)
		PASS(TOO_BIG);
	why = answered(rc, flags);
	if (why)
		PASS(why);
	if (keep) {
		HERE;
		return TRANSLATED;
	}
	HERE;
	y->family = f->family;
	y->ifindex = f->ifindex;
	__builtin_memcpy(y->gateway, f->dst, sizeof(y->gateway));
	__builtin_memcpy(&y->ether, &f->ether, sizeof(y->ether));
	y->longest = f->tot_len; // the MTU; before Linux 5.12, what was asked for
	y->tick = now;
	return TRANSLATED;
}

// ask is where the kernel would send f, whose longest packet on the wire has
// length bytes, if it came in by an interface. The kernel knows the MTU of the
// route. The neighbour need not be known.
static __always_inline int ask(struct context *ctx, struct config *c, struct bpf_fib_lookup *f, __u32 ifindex, __u32 length)
{
	return look(ctx, f, ifindex, length, c->fib_flags);
}

#undef HERE
#undef PASS

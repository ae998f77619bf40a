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
	CHOICES_BITS = 13, // of lines of choices
	CHOICES = 8,
	ASKED_WORDS = 6,
};

// answer is what was said.
struct answer {
	__u64 tick; // 0: there is none
	__u32 gateway[4];
	__u32 ifindex;
	__u32 longest; // packet that it is for
	__u32 family;
	struct ether ether;
};

// way is an answer to what the first words of a bpf_fib_lookup asked for.
struct way {
	__u64 asked[ASKED_WORDS];
	struct answer answer;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1 << WAYS_BITS);
	__type(key, __u32);
	__type(value, struct way);
} ways SEC(".maps");

// mixed is of what is asked for; its upper bits are where the answer is remembered. Of those
// who meet there, the first in a tick has it: with more streams than there are places, none
// is in the way of all others.
static __always_inline __u64 mixed(word *w)
{
	return w[0] * 0x9e3779b97f4a7c15 + w[1] * 0xbf58476d1ce4e5b9 + w[2] * 0x94d049bb133111eb +
		  w[3] * 0xd6e8feb86659fd93 + w[4] * 0xa0761d6478bd642f + w[5] * 0xe7037ed1a0b428db;
}

static __always_inline __u64 mixed_pair(__u64 a, __u64 b)
{
	return a * 0x9e3779b97f4a7c15 + b * 0xbf58476d1ce4e5b9;
}

static __always_inline int same(struct way *y, word *w)
{
	return ((y->asked[0] ^ w[0]) | (y->asked[1] ^ w[1]) | (y->asked[2] ^ w[2]) | (y->asked[3] ^ w[3]) |
		(y->asked[4] ^ w[4]) | (y->asked[5] ^ w[5])) == 0;
}

// common is what was said of one destination of a class, by way of a gateway, and holds for
// all of them. What was asked without a
// neighbour stands behind the rest, as both are asked for a packet; and behind that, each of
// several ways.
struct class_way {
	__u64 class, how; // it was asked for
	struct answer answer;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 3 * CLASSES);
	__type(key, __u32);
	__type(value, struct class_way);
} common SEC(".maps");

// chosen is which of several ways a flow has: where in common that is. It holds while the
// daemon's word is the same: it changes whenever the host does, and every ten seconds. A
// choice is 32 bits of the flow, 16 of where that is and 16 of the word; those who meet
// share a line of the processor's cache.
struct choices {
	__u64 of[CHOICES];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << CHOICES_BITS);
	__uint(map_flags, BPF_F_MMAPABLE); // begins where a line does
	__type(key, __u32);
	__type(value, struct choices);
} chosen SEC(".maps");

// BY_CLASS in the flags of look: it is assured what class a destination is of.
#define BY_CLASS (1u << 31)

static __always_inline __u32 class_of_way(struct bpf_fib_lookup *f)
{
	__u32 *number;

	if (f->family == AF_INET) {
		struct part4 k = { 32, f->dst[0] };

		number = bpf_map_lookup_elem(&parts4, &k);
	} else {
		struct part6 k = { 128, { f->dst[0], f->dst[1], f->dst[2], f->dst[3] } };

		number = bpf_map_lookup_elem(&parts6, &k);
	}
	return number ? *number : 0;
}

static __always_inline __u16 word_given(void)
{
	__u32 zero = 0;
	__u64 *until = bpf_map_lookup_elem(&assurance, &zero);

	return until ? *until >> 16 : 0; // in ns
}

static __always_inline struct choices *choices_of(__u64 flow)
{
	__u32 at = flow >> (64 - CHOICES_BITS);

	return bpf_map_lookup_elem(&chosen, &at);
}

static __always_inline __u64 choice(__u64 flow, __u32 way, __u16 word)
{
	return flow >> 12 << 32 | way << 16 | word;
}

// choice_of is where the way of a flow is in common; 0: it is not known.
static __always_inline __u32 choice_of(__u64 flow, __u16 word)
{
	struct choices *n = choices_of(flow);

	for (int i = 0; n && i < CHOICES; i++) {
		if (((n->of[i] ^ choice(flow, 0, word)) & ~0xffff0000ull) == 0) {
			HERE;
			return (__u32)n->of[i] >> 16;
		}
	}
	HERE;
	return 0;
}

// choose remembers it, in the stead of what holds no more, if there is that.
static __always_inline void choose(__u64 flow, __u16 word, __u32 way)
{
	struct choices *n = choices_of(flow);
	__u32 at = flow >> 44 & (CHOICES - 1);

	if (!n)
		return;
	for (__u32 i = 0; i < CHOICES; i++) {
		if ((__u16)n->of[i] != word) {
			HERE;
			at = i;
		}
	}
	HERE;
	n->of[at & (CHOICES - 1)] = choice(flow, way, word);
}

// one_of is where one of several ways is in common.
static __always_inline __u32 one_of(struct bpf_fib_lookup *f, __u32 class, __u64 how)
{
	word *w = (word *)f;
	__u64 h = mixed_pair(w[4], w[5]) + mixed_pair(how ^ f->ifindex, class);

	return 2 * CLASSES + (h >> 54); // of CLASSES
}

static __always_inline void take(struct bpf_fib_lookup *f, struct answer *a)
{
	f->family = a->family;
	f->ifindex = a->ifindex;
	__builtin_memcpy(f->dst, a->gateway, sizeof(a->gateway));
	__builtin_memcpy(&f->ether, &a->ether, sizeof(a->ether));
}

static __always_inline void keep(struct answer *a, struct bpf_fib_lookup *f, __u64 now)
{
	a->family = f->family;
	a->ifindex = f->ifindex;
	__builtin_memcpy(a->gateway, f->dst, sizeof(a->gateway));
	__builtin_memcpy(&a->ether, &f->ether, sizeof(a->ether));
	a->longest = f->tot_len; // the MTU; before Linux 5.12, what was asked for
	a->tick = now;
}

// look is ask, which the kernel's verifier judges by itself, and not once for each way
// that leads here: it is no static function (Linux 5.12).
__attribute__((noinline)) int look(struct context *ctx, struct bpf_fib_lookup *f, __u32 ifindex, __u32 length, __u32 flags)
{
	word *w = (word *)f;
	__u64 now = bpf_jiffies64(), how, flow, dst[2];
	__u32 at, class = 0;
	struct class_way *all = 0;
	struct way *y;
	__u16 given = 0;
	int full = 0, why; // full: what is remembered is another's
	long rc;

	if (!f)
		return NO_ROUTE;
	how = (__u64)(flags & ~BY_CLASS) << 32 | ifindex;
	f->tot_len = flags & ~BY_CLASS; // other flags have other answers
	f->ifindex = ifindex;
	flow = mixed(w);
	at = flow >> (64 - WAYS_BITS);
	y = bpf_map_lookup_elem(&ways, &at);
	if (!y)
		return NO_ROUTE;
	if (y->answer.tick == now) {
		full = !same(y, w);
		if (!full && length <= y->answer.longest) {
			HERE;
			take(f, &y->answer);
			return TRANSLATED;
		}
		HERE;
	}
	if (!full) {
		HERE;
		y->answer.tick = 0;
		for (int i = 0; i < ASKED_WORDS; i++)
			y->asked[i] = w[i];
	}
	if (flags & BY_CLASS) {
		HERE;
		class = class_of_way(f);
	}
	if (class) {
		at = class % CLASSES + (flags & BPF_FIB_LOOKUP_SKIP_NEIGH ? CLASSES : 0);
		if (class & SEVERAL) {
			HERE;
			given = word_given();
			at = choice_of(flow, given);
		}
		all = bpf_map_lookup_elem(&common, &at);
		if (all && all->answer.tick == now && all->class == class && all->how == how && length <= all->answer.longest) {
			HERE;
			take(f, &all->answer);
			if (!full)
				y->answer = all->answer;
			return TRANSLATED;
		}
		HERE;
	}
	dst[0] = w[4];
	dst[1] = w[5];
	f->tot_len = length;
	rc = bpf_fib_lookup(ctx, f, sizeof(*f), flags & ~BY_CLASS);
	if (rc == BPF_FIB_LKUP_RET_FRAG_NEEDED)
		PASS(TOO_BIG);
	why = answered(rc, flags);
	if (why)
		PASS(why);
	if (class && ((dst[0] ^ w[4]) | (dst[1] ^ w[5]))) { // by a gateway
		if (class & SEVERAL) {
			HERE;
			at = one_of(f, class, how);
			choose(flow, given, at);
			all = bpf_map_lookup_elem(&common, &at);
		}
		if (all) {
			HERE;
			all->class = class;
			all->how = how;
			keep(&all->answer, f, now);
		}
	}
	if (!full) {
		HERE;
		keep(&y->answer, f, now);
	}
	HERE;
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

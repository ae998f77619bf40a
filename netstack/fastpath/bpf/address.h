// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// Addresses, as translator/special, translator/address.go, translator/ours.go and
// translator/mapping have them.
#pragma once
#include "bins.h"

#define HERE COVER(1)

static __always_inline int never4(__u32 a) // rule 1.1.never4
{
	return a >> 24 == 0 || a >> 24 == 127 || a >> 24 >= 224 || a >> 16 == (169 << 8 | 254);
}

static __always_inline int never6(__u64 hi, __u64 lo) // rule 1.1.never6
{
	return hi >> 54 == 0xfe80 >> 6 || hi >> 56 == 0xff || (hi == 0 && (lo <= 1 || lo >> 32 == 0xffff));
}

// non_global says that a is not globally reachable (RFC 6052 3.1).
static __always_inline int non_global(__u32 a) // rule 1.1.non-global
{
	return a >> 24 == 0 || a >> 24 == 10 || a >> 24 == 127 || a >> 24 >= 224 ||
	       a >> 22 == (100 << 2 | 1) ||                                    // 100.64.0.0/10
	       a >> 16 == (169 << 8 | 254) || a >> 20 == (172 << 4 | 1) ||     // 172.16.0.0/12
	       a >> 16 == (192 << 8 | 168) ||
	       (a >> 8 == 192 << 16 && (a & 0xff) != 9 && (a & 0xff) != 10) || // 192.0.0.0/24
	       a >> 8 == (192 << 16 | 2) || a >> 17 == (198 << 7 | 9) ||       // 192.0.2.0/24, 198.18.0.0/15
	       a >> 8 == (198 << 16 | 51 << 8 | 100) || a >> 8 == (203 << 16 | 113);
}

static __always_inline int in_prefix(struct config *c, __u64 hi, __u64 lo)
{
	return (((hi ^ c->prefix_hi) & c->prefix_mask_hi) | ((lo ^ c->prefix_lo) & c->prefix_mask_lo)) == 0;
}

// embed puts a into a prefix of n bits that is in hi and lo (RFC 6052 2.2).
static __always_inline void embed(__u32 n, __u32 a, __u64 *hi, __u64 *lo)
{
	__u64 top = (__u64)a << 32;

	n &= 127;
	if (n == 96) {
		HERE;
		*lo |= a; // rule 1.1.96
	} else if (n == 64) {
		HERE;
		*lo = top >> 8; // rule 1.1.64
	} else {
		HERE;
		*hi |= top >> (n & 63);
		*lo = top << ((64 - n) & 63) >> 8; // rules 1.1.32, 1.1.40, 1.1.48, 1.1.56
	}
}

// extract takes the address out of a prefix of n bits again.
static __always_inline __u32 extract(__u32 n, __u64 hi, __u64 lo)
{
	n &= 127;
	if (n == 96) {
		HERE;
		return lo;
	}
	if (n == 64) {
		HERE;
		return lo << 8 >> 32;
	}
	HERE;
	return (hi << (n & 63) | lo << 8 >> ((64 - n) & 63)) >> 32; // rule 1.1.octet-u
}

// suffix4 is the suffix of a behind len6 bits, as that behind len4 bits
// (RFC 7757 3.3).
static __always_inline __u32 suffix4(__u64 hi, __u64 lo, __u32 len6, __u32 len4)
{
	__u64 suffix;

	if (len6 >= 128) {
		HERE;
		suffix = 0;
	} else if (len6 >= 64) {
		HERE;
		suffix = lo << (len6 & 63);
	} else if (len6 > 0) {
		HERE;
		suffix = hi << len6 | lo >> (64 - len6);
	} else {
		HERE;
		suffix = hi;
	}
	return suffix >> 32 >> (len4 & 63); // rule 1.2.suffix
}

// mapped6 is the other way: the address of a under e.
static __always_inline void mapped6(struct entry4 *e, __u32 a, __u32 len4, __u64 *hi, __u64 *lo)
{
	__u64 suffix = (__u64)a << 32 << (len4 & 63);
	__u32 len6 = e->length6;

	*hi = e->hi;
	*lo = e->lo;
	if (len6 >= 128) {
		HERE;
	} else if (len6 >= 64) {
		HERE;
		*lo |= suffix >> (len6 & 63);
	} else if (len6 > 0) {
		HERE;
		*hi |= suffix >> len6;
		*lo |= suffix << (64 - len6);
	} else {
		HERE;
		*hi |= suffix;
	}
}

// longest6 is the bin of the longest prefix of a kind that covers an address, or 0, and the
// length of that prefix.
static __always_inline int longest6(struct level6 *levels, __u32 count, __u32 kind, __u64 hi, __u64 lo, __u32 generation, __u32 *length)
{
	struct key6 k;

	for (__u32 i = 0; i < MAX_LENGTHS; i++) {
		struct level6 *l = &levels[i]; // rule 1.2.longest-prefix
		__u32 at;

		if (i >= count) {
			HERE;
			break;
		}
		__u64 h = hi & l->mask_hi, w = lo & l->mask_lo;
		k.length = kind | l->length;
		k.word[0] = h >> 32;
		k.word[1] = h;
		k.word[2] = w >> 32;
		k.word[3] = w;
		at = find_by6(&k, generation);
		if (at) {
			HERE;
			*length = l->length;
			return at;
		}
		HERE;
	}
	return 0;
}

// longest4 is the same for IPv4, of up to most lengths.
static __always_inline int longest4(struct level4 *levels, __u32 count, __u32 most, __u32 kind, __u32 a, __u32 generation, __u32 *length)
{
	struct key4 k;

	for (__u32 i = 0; i < most; i++) {
		struct level4 *l = &levels[i];
		__u32 at;

		if (i >= count) {
			HERE;
			break;
		}
		k.length = kind | l->length;
		k.v4 = a & l->mask;
		at = find_by4(&k, generation);
		if (at) {
			HERE;
			*length = l->length;
			return at;
		}
		HERE;
	}
	return 0;
}

// These are judged by themselves, as look is: of mappings, of the addresses that are ours,
// and of the blocks of a host.
__attribute__((noinline)) int mapping6(struct config *c, __u64 hi, __u64 lo, __u32 *length)
{
	return c && length ? longest6(c->levels6, c->count6, 0, hi, lo, c->generation, length) : 0;
}

__attribute__((noinline)) int mapping4(struct config *c, __u32 a, __u32 *length)
{
	return c && length ? longest4(c->levels4, c->count4, MAX_LENGTHS, 0, a, c->generation, length) : 0;
}

__attribute__((noinline)) int ours4(struct config *c, __u32 a)
{
	__u32 length;

	return c ? longest4(c->ours4, c->count_ours4, ALL_LENGTHS4, OURS, a, c->generation, &length) : 0;
}

__attribute__((noinline)) int host_block6(struct config *c, __u64 hi, __u64 lo, __u32 *length)
{
	return c && length ? longest6(c->blocks6, c->count_blocks6, BLOCK, hi, lo, c->generation, length) : 0;
}

__attribute__((noinline)) int host_block4(struct config *c, __u32 a, __u32 *length)
{
	return c && length ? longest4(c->blocks4, c->count_blocks4, MAX_LENGTHS, BLOCK, a, c->generation, length) : 0;
}

// lookup6 finds the mapping with the longest IPv6 prefix that covers an
// address, and the length of that prefix.
static __always_inline struct entry6 *lookup6(struct tables *t, __u64 hi, __u64 lo, __u32 *length)
{
	return entry_by6(t, mapping6(t->c, hi, lo, length));
}

// near4 is false for most addresses that no mapping covers.
static __always_inline int near4(struct tables *t, __u32 a)
{
	__u32 at = a >> 22;
	__u64 *word = bpf_map_lookup_elem(t->near, &at);

	return word && *word >> (a >> 16 & 63) & 1;
}

// find4 is lookup4 for an address that near4 is true for.
static __always_inline struct entry4 *find4(struct tables *t, __u32 a, __u32 *length)
{
	return entry_by4(t, mapping4(t->c, a, length));
}

static __always_inline struct entry4 *lookup4(struct tables *t, __u32 a, __u32 *length)
{
	if (!near4(t, a)) {
		HERE;
		return 0;
	}
	HERE;
	return find4(t, a, length);
}

// block4 says that a, which near4 is true for, lies in a block of ours.
static __always_inline int block4(struct tables *t, __u32 a)
{
	return ours4(t->c, a) != 0;
}

// own6 says that an IPv6 address is the translator's own, or one that its errors
// come from.
static __always_inline int own6(struct config *c, __u64 hi, __u64 lo)
{
	return (hi == c->own_hi && lo == c->own_lo) ||
	       (((hi ^ c->source_hi) & c->source_mask_hi) | ((lo ^ c->source_lo) & c->source_mask_lo)) == 0;
}

// owner is the bin of who owns a port of a shared address, or 0. sizes has a bit for each
// size of block that may hold it; large ones hold most ports, and come first. kind is
// BLOCK, where it is a block's, or 0. It is judged by itself.
__attribute__((noinline)) int owner(__u32 a, __u32 port, __u32 sizes, __u32 kind, __u32 generation)
{
	struct key_port k = { .v4 = a };

	for (int n = PORT_SIZES - 1; n >= 0; n--) {
		__u32 at;

		if (!(sizes >> n & 1)) {
			HERE;
			continue;
		}
		k.size = kind | n;
		k.base = port >> n << n;
		at = find_ports(&k, generation);
		if (at) {
			HERE;
			return at;
		}
		HERE;
	}
	return 0;
}

// port4 is the mapping, or block, that owns a port.
static __always_inline struct entry4 *port4(struct tables *t, __u32 a, __u32 port, __u32 sizes, __u32 kind)
{
	return entry_ports(t, owner(a, port, sizes, kind, t->c->generation));
}

// owns reports whether a port belongs to e, which is shared.
static __always_inline int owns(struct tables *t, struct entry6 *e, __u32 v4, __u16 port)
{
	struct entry4 *o;

	if ((__u16)(port - e->first) <= (__u16)(e->last - e->first)) {
		HERE;
		return 1;
	}
	if (!(e->flags & HOLES)) {
		HERE;
		return 0;
	}
	o = port4(t, v4, port, e->sizes, 0);
	if (o && o->slot == e->slot) {
		HERE;
		return 1;
	}
	HERE;
	return 0;
}

#undef HERE

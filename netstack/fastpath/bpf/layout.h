// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// What lies in the maps. All numbers, addresses and ports are in the host's
// byte order: an IPv6 address is two halves, hi and lo, as in translator/mapping.
// LAYOUT counts up with every change that a running program or a pinned map
// would not survive.
#pragma once
#include "kernel.h"

enum {
	LAYOUT = 13,
	MAX_LENGTHS = 16, // prefix lengths in use, of each family
	ALL_LENGTHS4 = 33, // a pool without an address that somebody else holds is of many
	GENERATIONS = 2,
	MAX_UPLINKS = 8, // and interfaces of the fabric
	NEAR_WORDS = 1024, // a bit for each IPv4 /16
	PORT_SIZES = 17,   // blocks of ports: 2^0 to 2^16
	LINE_WORDS = 16,   // of a line of the policies' table
	HEAD_WORDS = 4,    // of what it begins with, by an address's first 16 bits
	PAGE_CLASSES = 64, // that a page of it has cells for
	MAX_RULES = 64,    // of MAP-T
	MAX_PARTS = 4096,  // prefixes that part destinations, of each family
	CLASSES = 1024,    // of destinations that have the same ways, of both families
	FIRST_BIN = 2,     // of a table; what stands before is its head
	MAX_PROBES = 16,   // bins that may have to be read for a key
};

// Flags of a config.
enum {
	ENABLED = 1,
	GLOBAL_ONLY = 2,     // the prefix is the well-known one
	ZERO_CLASS = 4,      // TOS and traffic class become 0
	MAPPED_IN_PREFIX = 8, // some mapping's IPv6 prefix overlaps the prefix
	COUNT_SHARED = 16,   // CPUs share the counters of a mapping
	STRICT_SOURCE = 32,  // IPv4 comes in where the host would send to its source (RFC 3704 2.2)
	ALONE = 64,          // nothing but the translator has a way of its own in prefix and mappings
	STEER = 128,         // all IPv4 of workloads that have it inside goes by the daemon
	EDGE = 256,          // what is IPv4 leaves and comes as IPv6: see edge.h
	OURS_IN_FABRIC = 512, // some mapping's or block's IPv6 prefix overlaps that of the fabric
};

struct level6 {
	__u64 mask_hi, mask_lo;
	__u32 length;
	__u32 pad;
};

struct level4 {
	__u32 mask;
	__u32 length;
};

// map_rule is a rule of MAP-T, as translator/mapt has it for a packet.
struct map_rule {
	__u64 hi6, mask6; // the IPv6 prefix, which is within the upper half
	__u64 ea;         // as many ones as there are EA bits
	__u32 v4, mask4;
	__u8 ea_at;       // where they end in the upper half
	__u8 more;        // bits of an IPv4 address that are behind the EA bits
	__u8 k, m, a;     // bits of the PSID, behind it, and before it in a port
	__u8 pad;
	__u16 psid;       // where there are no EA bits
};

// config is what a generation of tables goes with.
struct config {
	__u32 flags;
	__u32 prefix_length;
	__u64 prefix_hi, prefix_lo;
	__u64 prefix_mask_hi, prefix_mask_lo;
	__u64 own_hi, own_lo;
	__u32 own4;
	__u32 host4; // 0: none
	__u32 mtu4, mtu6, lowest6;
	__u32 fib_flags;    // for bpf_fib_lookup
	__u32 device;       // the translator's, where the host leads what is to be translated; 0: not asked for
	__u32 via;          // whose routing decides while the device is gone
	__u32 counters;     // of each mapping: one for each CPU, or one
	__u32 count6, count4; // levels
	__u32 uplinks[MAX_UPLINKS]; // where IPv4 comes from and goes to; none: wherever
	__u32 fabric[MAX_UPLINKS]; // where IPv6 of who is at FABRIC comes in
	__u32 inside;       // the TAP of workloads with IPv4 inside; 0: there is none
	struct level6 levels6[MAX_LENGTHS]; // longest first
	struct level4 levels4[MAX_LENGTHS];
	struct level4 ours4[ALL_LENGTHS4]; // of blocks of ours, shortest first: see OURS
	__u32 count_ours4;
	__u32 generation;
	// Where the parts of the policies' table begin, in words, and how many numbers it has.
	__u32 policy_numbers, policy_chunks, policy_values, policy_rows, policy_pages, policy_leaves, policy_cells, policy_ranges;
	__u64 source_hi, source_lo;           // what errors of the translator come from, or its own
	__u64 source_mask_hi, source_mask_lo; // address once more
	__u64 fabric_hi, fabric_lo;           // the prefix of an edge's fabric
	__u64 fabric_mask_hi, fabric_mask_lo;
	__u32 fabric_length;
	__u32 hop4;                           // IPv4 of hops there
	struct level6 blocks6[MAX_LENGTHS];   // of what the host has there, longest first
	struct level4 blocks4[MAX_LENGTHS];
	__u32 count_blocks6, count_blocks4;
	__u32 count_rules, pad_rules;
	__u64 diverted_until; // on the monotonic clock, all packets are the daemon's
	struct map_rule rules[MAX_RULES];
};

struct key6 {
	__u32 length;
	__u32 word[4];
};

// FABRIC in the ifindex of an entry6: packets come in by any interface of the fabric.
enum {
	FABRIC = 2147483646, // no interface has that index
};

// Flags of an entry6.
enum {
	SHARED = 1, // ports decide
	HOLES = 2,  // the port set is more than first to last
	INSIDE = 4, // the workload has its IPv4 address inside: its IPv6 is not translated
	CLIENT = 8, // of an entry4: its own connections come from the ports of that block
};

// entry6 is a mapping by its IPv6 prefix.
struct entry6 {
	__u32 v4;
	__u32 slot;
	__u32 ifindex; // of the workload's host-side interface; 0: not known, nothing is translated
	__u32 sizes;   // HOLES: which block sizes its ports are in, in the map ports
	__u16 first, last; // the longest run of ports
	__u16 id_base, id_mask;
	__u8 length4;
	__u8 flags;
	__u16 policy; // the number of what it is held to; 0: nothing
	__u8 class;   // of what it may take of the daemon
	__u8 client;  // its own connections come from 2^client ports: see own_port
	__u8 pad[2];
};

// OURS in the length of a key4: whatever mappings there are, the addresses behind
// it are ours, and nobody's where there is none. They are never a source of what
// comes in, nor a destination of what leaves.
enum { OURS = 64 };

// BLOCK in the length of a key6 or key4, and in the size of a key_port: it is the host's
// address on the fabric of an edge for a block that it was lent, or that block.
enum { BLOCK = 256 };

struct key4 {
	__u32 length;
	__u32 v4;
};

// entry4 is a mapping by its IPv4 prefix or, under a key_port, by its ports. For
// an address that is shared the first says in sizes which blocks to look for.
struct entry4 {
	__u64 hi, lo;
	__u32 slot;
	__u32 sizes;
	__u32 length6;
	__u8 flags; // INSIDE, CLIENT
	__u8 class; // as in entry6
	__u16 policy;
};

// line is what the policies' table consists of, as translator/policy has it.
struct line {
	__u32 word[LINE_WORDS];
};

// BY_SLOT in the key of an entry_inside: the rest is the slot of the mapping, else
// the interface that the workload is at.
enum { BY_SLOT = 1u << 31 };

// entry_inside is a workload that has its IPv4 address inside.
struct entry_inside {
	__u64 hi, lo;     // its IPv6 address, by which it is reached
	struct entry6 of; // its mapping
	__u32 ifindex;    // its own, or the port of a bridge
	__u8 name[6];     // the Ethernet address that names it to the daemon
	__u16 pad;
};

// key_port is an aligned block of 2^size ports.
struct key_port {
	__u32 v4;
	__u16 base;
	__u16 size;
};

// A table of mappings is an array of bins, each a line of the processor's cache: of a million
// mappings none is in a cache, and who looks one up waits for memory once. The hash of a key
// says its home; where somebody else is at home there, it may stand in the other bin of the
// pair, which processors fetch with it, and else in one that the home's next leads to. A bin
// whose live is 0 has nothing in it, but its next counts.
struct bin6 {
	__u32 live, next;
	struct key6 key;
	struct entry6 entry;
	__u32 pad;
};

struct bin4 {
	__u32 live, next;
	struct key4 key;
	struct entry4 entry;
	__u64 pad[2];
};

struct bin_port {
	__u32 live, next;
	struct key_port key;
	struct entry4 entry;
	__u64 pad[2];
};

// bins is the head of a table, which stands in the stead of the first bin.
struct bins {
	__u64 seed;
	__u32 homes;
};

// part4 and part6 are prefixes, in network byte order, of destinations that the host has the
// same routes for, but for those of longer ones.
struct part4 {
	__u32 length;
	__u32 v4;
};

struct part6 {
	__u32 length;
	__u32 word[4];
};

// count is packets, superpackets counting as one, and their bytes from the IP
// header on, as they came in.
struct count {
	__u64 packets, bytes;
};

// traffic is what was translated for one mapping: 6→4 and 4→6.
struct traffic {
	struct count sent, received;
};

// ids are IPv4 identifications that a CPU has drawn.
struct ids {
	__u32 next, left;
};

// reason is why a packet was passed on to the daemon, but for the first and the last
// two.
enum reason {
	TRANSLATED,
	DISABLED,         // there are no tables, or they are being replaced
	NOT_PLAIN_LINK,   // VLAN tag, not Ethernet, or not for this host
	NOT_THIS_FAMILY,  // nothing to translate at this interface
	TRUNCATED,        // lengths that disagree, or too short
	OPTIONS,          // IPv4 options
	BAD_HEADER_CHECKSUM,
	FRAGMENT,
	PROTOCOL,         // extension header, or neither TCP nor UDP nor echo
	UPPER_HEADER,     // its length is wrong
	NO_CHECKSUM,      // UDP without, or a partial one of echo
	HOP_LIMIT,
	TOO_BIG,
	SUPERPACKET,      // of a kind that cannot be told
	OWN_ADDRESS,      // the translator's, or another of ours that no workload has
	NEVER_TRANSLATED,
	NON_GLOBAL,
	UNMAPPED_SOURCE,
	UNMAPPED_DESTINATION,
	MAPPED_PEER,      // hairpin, or a workload's address from outside
	WRONG_INTERFACE,  // the source belongs to another one
	PORT,             // outside the set, or nobody's
	TRAILER,          // echo reply that may carry one
	NO_ROUTE,
	HOST_ROUTE,       // the host has another way for it than to the translator
	UNCHANGED,        // the kernel would not make room
	HAS_INSIDE,       // IPv6 of a workload that has IPv4 inside
	STEERING,         // all of it is wanted there
	POLICY,           // policies do not plainly allow it
	SPOOFED,          // dropped: IPv4 by an interface of which nobody knows whose it is
	LOST,             // dropped: the kernel refused a packet already rewritten
	NUM_REASONS,
};

// The types that Go is to know, too.
const struct key6 *_key6 __attribute__((unused));
const struct entry6 *_entry6 __attribute__((unused));
const struct key4 *_key4 __attribute__((unused));
const struct bin6 *_bin6 __attribute__((unused));
const struct bin4 *_bin4 __attribute__((unused));
const struct bin_port *_bin_port __attribute__((unused));
const struct bins *_bins __attribute__((unused));
const struct entry4 *_entry4 __attribute__((unused));
const struct line *_line __attribute__((unused));
const struct key_port *_key_port __attribute__((unused));
const struct entry_inside *_entry_inside __attribute__((unused));
const struct traffic *_traffic __attribute__((unused));
const enum reason *_reason __attribute__((unused));

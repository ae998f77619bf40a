// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// The fast path: it translates the packets that are plain and passes all others
// on as they came, to the daemon. It knows no rule of its own: each of its bytes
// is what the Go package translator makes of the same packet, and where that
// would do anything but translate, the packet is passed on.
#include "rewrite.h"

#define HERE COVER(4)
#define PASS(why) do { HERE; return why; } while (0)

// load takes the tables in use. Those being replaced are missing one by one:
// whoever still sees them passes on.
static __always_inline int load(struct tables *t)
{
	__u32 zero = 0, *gen = bpf_map_lookup_elem(&active, &zero);

	if (!gen)
		return DISABLED;
	__u32 g = *gen;
	t->c = bpf_map_lookup_elem(&configs, &g);
	if (!t->c || !(t->c->flags & ENABLED))
		PASS(DISABLED);
	t->by6 = bpf_map_lookup_elem(&by6, &g);
	t->by4 = bpf_map_lookup_elem(&by4, &g);
	t->ports = bpf_map_lookup_elem(&ports, &g);
	t->near = bpf_map_lookup_elem(&near, &g);
	t->counters = bpf_map_lookup_elem(&counters, &g);
	if (!t->by6 || !t->by4 || !t->ports || !t->near || !t->counters)
		PASS(DISABLED);
	HERE;
	return TRANSLATED;
}

// plain_link says that a packet of that Ethernet type came for this host, on
// Ethernet, with at least its headers in one piece.
static __always_inline int plain_link(struct __sk_buff *skb, __u16 type, __u32 headers)
{
	if (skb->protocol != be16(type))
		PASS(NOT_THIS_FAMILY);
	if (skb->pkt_type != PACKET_HOST)
		PASS(NOT_PLAIN_LINK);
	if (skb->vlan_present)
		PASS(NOT_PLAIN_LINK);
	if ((void *)(long)skb->data + ETH + headers > (void *)(long)skb->data_end) {
		HERE;
		bpf_skb_pull_data(skb, skb->len < ETH + headers ? skb->len : ETH + headers);
	}
	return TRANSLATED;
}

// identification is that of n IPv4 packets with DF=0: never 0, and within the
// workload's share where it has one.
static __always_inline __u16 identification(struct entry6 *e, __u32 n)
{
	__u32 zero = 0, *last;
	struct ids *own = bpf_map_lookup_elem(&drawn, &zero);
	__u32 next;
	__u16 id;

	if (!own)
		return 1;
	if (own->left < n) {
		__u32 some = (n >> 8) + 1;

		last = bpf_map_lookup_elem(&blocks, &zero);
		if (!last)
			return 1;
		HERE;
		own->next = (__sync_fetch_and_add(last, some) << 8) & 0xffff;
		own->left = some << 8;
	}
	next = own->next;
	if (next == 0 || next + n > 0x10000) {
		HERE;
		next = 1;
	}
	own->next = (next + n) & 0xffff;
	own->left -= n;
	id = next;
	if (!(e->flags & SHARED)) {
		HERE;
		return id;
	}
	id = e->id_base | (next & e->id_mask);
	if (!id) {
		HERE;
		id = e->id_base | ((next + 1) & e->id_mask);
	}
	if (!id) {
		HERE;
		return 1;
	}
	HERE;
	return id;
}

// read6 reads an IPv6 packet.
static __always_inline int read6(struct __sk_buff *skb, struct packet *p)
{
	__u8 *h = (__u8 *)(long)skb->data + ETH;
	void *end = (void *)(long)skb->data_end;
	__u64 *w = (__u64 *)(h + 8);
	__u32 first;
	int why;

	if (h + SIZE6 + LEAST_UPPER > (__u8 *)end)
		PASS(TRUNCATED);
	if (*(__u16 *)(h - 2) != be16(ETH_P_IPV6))
		PASS(NOT_PLAIN_LINK);
	first = be32(*(__u32 *)h);
	if (first >> 28 != 6)
		PASS(TRUNCATED);
	p->class = first >> 20;
	p->payload = be16(*(__u16 *)(h + 4));
	if (skb->len < ETH + SIZE6 + p->payload)
		PASS(TRUNCATED);
	if (p->payload < LEAST_UPPER)
		PASS(TRUNCATED);
	p->proto = h[6];
	p->hops = h[7];
	if (p->hops <= 1)
		PASS(HOP_LIMIT);
	p->src_hi = be64(w[0]);
	p->src_lo = be64(w[1]);
	p->dst_hi = be64(w[2]);
	p->dst_lo = be64(w[3]);
	why = upper(p, h + SIZE6, end, ICMP6, 128, 129);
	if (why)
		return why;
	return super(skb, p);
}

// read4 reads an IPv4 packet.
static __always_inline int read4(struct __sk_buff *skb, struct packet *p)
{
	__u8 *h = (__u8 *)(long)skb->data + ETH;
	void *end = (void *)(long)skb->data_end;
	__u32 *w = (__u32 *)h;
	__u32 length, fragment;
	int why;

	if (h + SIZE4 + LEAST_UPPER > (__u8 *)end)
		PASS(TRUNCATED);
	if (*(__u16 *)(h - 2) != be16(ETH_P_IP))
		PASS(NOT_PLAIN_LINK);
	if (h[0] != 0x45)
		PASS(OPTIONS);
	length = be16(*(__u16 *)(h + 2));
	if (skb->len < ETH + length)
		PASS(TRUNCATED);
	if (length < SIZE4 + LEAST_UPPER)
		PASS(TRUNCATED);
	fragment = be16(*(__u16 *)(h + 6));
	if (fragment & ~DF)
		PASS(FRAGMENT);
	if (fold((__u64)w[0] + w[1] + w[2] + w[3] + w[4]) != 0xffff)
		PASS(BAD_HEADER_CHECKSUM);
	p->df = fragment != 0;
	p->class = h[1];
	p->payload = length - SIZE4;
	p->proto = h[9];
	p->hops = h[8];
	if (p->hops <= 1)
		PASS(HOP_LIMIT);
	p->src4 = be32(w[3]);
	p->dst4 = be32(w[4]);
	why = upper(p, h + SIZE4, end, ICMP4, 8, 0);
	if (why)
		return why;
	return super(skb, p);
}

// source4 finds whose packet it is, and that the interface is theirs.
static __always_inline int source4(struct __sk_buff *skb, struct tables *t, struct packet *p, struct entry6 **of)
{
	struct config *c = t->c;
	struct entry6 *e;
	__u32 length;

	if (never6(p->src_hi, p->src_lo))
		PASS(NEVER_TRANSLATED);
	if (p->src_hi == c->own_hi && p->src_lo == c->own_lo)
		PASS(OWN_ADDRESS);
	e = lookup6(t, p->src_hi, p->src_lo, &length);
	if (!e)
		PASS(UNMAPPED_SOURCE);
	if (e->ifindex != skb->ifindex)
		PASS(WRONG_INTERFACE);
	p->src4 = e->v4 | suffix4(p->src_hi, p->src_lo, length, e->length4);
	if (never4(p->src4))
		PASS(NEVER_TRANSLATED);
	if (e->flags & SHARED && !owns(t, e, p->src4, p->sport))
		PASS(PORT);
	HERE;
	p->slot = e->slot;
	*of = e;
	return TRANSLATED;
}

// destination4 is the host behind the prefix that a packet goes to.
static __always_inline int destination4(struct tables *t, struct packet *p)
{
	struct config *c = t->c;
	__u32 length;

	if (never6(p->dst_hi, p->dst_lo))
		PASS(NEVER_TRANSLATED);
	if (p->dst_hi == c->own_hi && p->dst_lo == c->own_lo)
		PASS(OWN_ADDRESS);
	if (!in_prefix(c, p->dst_hi, p->dst_lo))
		PASS(UNMAPPED_DESTINATION);
	if (c->flags & MAPPED_IN_PREFIX && lookup6(t, p->dst_hi, p->dst_lo, &length))
		PASS(MAPPED_PEER);
	p->dst4 = extract(c, p->dst_hi, p->dst_lo);
	if (never4(p->dst4))
		PASS(NEVER_TRANSLATED);
	if (c->flags & GLOBAL_ONLY && non_global(p->dst4))
		PASS(NON_GLOBAL);
	if (p->dst4 == c->own4)
		PASS(OWN_ADDRESS);
	if (lookup4(t, p->dst4, &length))
		PASS(MAPPED_PEER);
	HERE;
	return TRANSLATED;
}

// write4 writes the IPv4 packet.
static __always_inline int write4(struct __sk_buff *skb, struct packet *p)
{
	__u64 sum6 = addresses6(p), diff = add(~sum6, addresses4(p)), change;
	// Of the IPv6 header, half goes with the kernel's knowledge and half is overwritten.
	__u64 old = (p->src_lo & 0xffffffff) + (p->dst_hi >> 32) + (p->dst_hi & 0xffffffff) +
		    (p->dst_lo >> 32) + (p->dst_lo & 0xffffffff);
	int whole = p->proto == ICMP6 || (!p->gso && !partial(p, sum6, p->proto));
	__u32 first = 0x45u << 24 | (__u32)p->class << 16 | (SIZE4 + p->payload);
	__u32 second = (__u32)p->id << 16 | (p->df ? DF : 0);
	__u32 third = (__u32)(p->hops - 1) << 24 | (p->proto == ICMP6 ? ICMP4 : p->proto) << 16;
	__u8 *h, *l4;
	__u16 *at;
	__u32 *w;

	h = (__u8 *)(long)skb->data + ETH;
	w = (__u32 *)h;
	l4 = h + SIZE4;
	at = field(skb, p, l4);
	if (!at || l4 + LEAST_UPPER > (__u8 *)(long)skb->data_end)
		PASS(LOST);
	third |= (__u16)~fold((__u64)first + second + third + p->src4 + p->dst4);
	*(__u16 *)(h - 2) = be16(ETH_P_IP);
	w[0] = be32(first);
	w[1] = be32(second);
	w[2] = be32(third);
	w[3] = be32(p->src4);
	w[4] = be32(p->dst4);
	if (p->proto == ICMP6) {
		HERE;
		change = echo(p, l4, at, p->type == 128 ? 8 : 0, add(sum6, p->payload + ICMP6), 0);
	} else {
		HERE;
		change = checksum(p, at, diff, whole);
	}
	finish(skb, p, ETH + SIZE4, diff, add(change, ~old), whole);
	return TRANSLATED;
}

static __always_inline int to4(struct __sk_buff *skb, int *action)
{
	struct bpf_fib_lookup f = { .family = AF_INET };
	struct packet p = {};
	struct entry6 *e = 0;
	struct tables t;
	__u32 length, bytes = skb->len - ETH;
	int why;

	if ((why = plain_link(skb, ETH_P_IPV6, SIZE6 + LEAST_TCP)) || (why = load(&t)) ||
	    (why = read6(skb, &p)) || (why = source4(skb, &t, &p, &e)) || (why = destination4(&t, &p)))
		return why;
	length = SIZE4 + segment(&p);
	if (length > t.c->mtu4)
		PASS(TOO_BIG);
	if (p.proto == ICMP6) {
		if (partial(&p, addresses6(&p), ICMP6))
			PASS(NO_CHECKSUM);
		HERE;
	}
	if (t.c->flags & ZERO_CLASS) {
		HERE;
		p.class = 0;
	}
	f.tos = p.class;
	f.sport = be16(p.sport);
	f.dport = be16(p.dport);
	f.src[0] = be32(p.src4);
	f.dst[0] = be32(p.dst4);
	if ((why = route(skb, t.c, &p, &f, length)))
		return why;
	p.df = length > LONGEST_DF0;
	if (!p.df) {
		HERE;
		p.id = identification(e, p.gso ? (p.payload - p.headers + p.gso - 1) / p.gso : 1);
	}
	if ((why = resize(skb, &p, SIZE6 + p.payload, ETH_P_IP)) || (why = write4(skb, &p)))
		return why;
	number(&t, p.slot, bytes, 0);
	*action = out(&f);
	return TRANSLATED;
}

// destination6 finds the workload that an IPv4 packet is for.
static __always_inline int destination6(struct __sk_buff *skb, struct tables *t, struct packet *p)
{
	struct config *c = t->c;
	struct entry4 *e;
	__u32 length;

	if (never4(p->dst4))
		PASS(NEVER_TRANSLATED);
	if (p->dst4 == c->own4)
		PASS(OWN_ADDRESS);
	e = lookup4(t, p->dst4, &length);
	if (!e)
		PASS(UNMAPPED_DESTINATION);
	if (e->sizes) {
		if (p->proto == ICMP4 && p->dst4 == c->host4)
			PASS(OWN_ADDRESS);
		e = port4(t, p->dst4, p->dport, e->sizes);
		if (!e)
			PASS(PORT);
		if (p->proto == ICMP4 && p->type == 0 && p->payload >= 16) {
			__u16 magic = 0;

			bpf_skb_load_bytes(skb, ETH + SIZE4 + p->payload - 8, &magic, sizeof(magic));
			if (magic == be16(0x6e6c))
				PASS(TRAILER);
			HERE;
		}
		HERE;
	}
	mapped6(e, p->dst4, length, &p->dst_hi, &p->dst_lo);
	p->slot = e->slot;
	return TRANSLATED;
}

// source6 puts the source into the prefix.
static __always_inline int source6(struct tables *t, struct packet *p)
{
	struct config *c = t->c;
	__u32 length;

	if (never4(p->src4))
		PASS(NEVER_TRANSLATED);
	if (c->flags & GLOBAL_ONLY && non_global(p->src4))
		PASS(NON_GLOBAL);
	if (lookup4(t, p->src4, &length))
		PASS(MAPPED_PEER);
	HERE;
	embed(c, p->src4, &p->src_hi, &p->src_lo);
	return TRANSLATED;
}

// write6 writes the IPv6 packet.
static __always_inline int write6(struct __sk_buff *skb, struct packet *p)
{
	__u64 sum4 = addresses4(p), sum6 = addresses6(p), diff = add(~sum4, sum6), change;
	int whole = p->proto == ICMP4 || (!p->gso && !partial(p, sum4, p->proto));
	__u32 first = 6u << 28 | (__u32)p->class << 20;
	__u32 second = p->payload << 16 | (p->proto == ICMP4 ? ICMP6 : p->proto) << 8 | (__u8)(p->hops - 1);
	__u8 *h, *l4;
	__u16 *at;
	__u64 *a;

	h = (__u8 *)(long)skb->data + ETH;
	a = (__u64 *)(h + 8);
	l4 = h + SIZE6;
	at = field(skb, p, l4);
	if (!at || l4 + LEAST_UPPER > (__u8 *)(long)skb->data_end)
		PASS(LOST);
	*(__u16 *)(h - 2) = be16(ETH_P_IPV6);
	*(__u32 *)h = be32(first);
	*(__u32 *)(h + 4) = be32(second);
	a[0] = be64(p->src_hi);
	a[1] = be64(p->src_lo);
	a[2] = be64(p->dst_hi);
	a[3] = be64(p->dst_lo);
	if (p->proto == ICMP4) {
		HERE;
		change = echo(p, l4, at, p->type == 8 ? 128 : 129, 0, add(sum6, p->payload + ICMP6));
	} else {
		HERE;
		change = checksum(p, at, diff, whole);
	}
	// The IPv4 header's sum was 0, the kernel has put zeroes before its end.
	finish(skb, p, ETH + SIZE6, diff, add(change, add(sum6, (__u64)first + second)), whole);
	return TRANSLATED;
}

static __always_inline void put6(__u32 *to, __u64 hi, __u64 lo)
{
	to[0] = be32((__u32)(hi >> 32));
	to[1] = be32((__u32)hi);
	to[2] = be32((__u32)(lo >> 32));
	to[3] = be32((__u32)lo);
}

static __always_inline int to6(struct __sk_buff *skb, int *action)
{
	struct bpf_fib_lookup f = { .family = AF_INET6 };
	struct packet p = {};
	struct tables t;
	__u32 length, bytes = skb->len - ETH;
	int why;

	if ((why = plain_link(skb, ETH_P_IP, SIZE4 + LEAST_TCP)) || (why = load(&t)) ||
	    (why = read4(skb, &p)) || (why = destination6(skb, &t, &p)) || (why = source6(&t, &p)))
		return why;
	length = SIZE6 + segment(&p);
	if (p.df ? length > t.c->mtu6 : length > t.c->lowest6)
		PASS(TOO_BIG);
	if (p.proto == ICMP4) {
		if (!p.field)
			PASS(NO_CHECKSUM);
		HERE;
	}
	if (t.c->flags & ZERO_CLASS) {
		HERE;
		p.class = 0;
	}
	f.tos = be32((__u32)p.class << 20);
	f.sport = be16(p.sport);
	f.dport = be16(p.dport);
	put6(f.src, p.src_hi, p.src_lo);
	put6(f.dst, p.dst_hi, p.dst_lo);
	if ((why = route(skb, t.c, &p, &f, length)) || (why = resize(skb, &p, SIZE4 + p.payload, ETH_P_IPV6)) ||
	    (why = write6(skb, &p)))
		return why;
	number(&t, p.slot, bytes, 1);
	*action = out(&f);
	return TRANSLATED;
}

// judge counts what became of a packet and says what the kernel is to do with it.
static __always_inline int judge(int why, int action, __u32 bytes, __u32 first)
{
	__u32 at = first + why;
	struct count *n = bpf_map_lookup_elem(&reasons, &at);

	if (n) {
		n->packets++;
		n->bytes += bytes;
	}
	if (why == LOST)
		return TC_ACT_SHOT;
	return why ? TC_ACT_UNSPEC : action;
}

// uplink stands where IPv4 packets for workloads come in.
SEC("tc")
int uplink(struct __sk_buff *skb)
{
	__u32 bytes = skb->len - ETH;
	int action = TC_ACT_UNSPEC, why = to6(skb, &action);

	return judge(why, action, bytes, 0);
}

// workload stands at a workload's interface on the host's side.
SEC("tc")
int workload(struct __sk_buff *skb)
{
	__u32 bytes = skb->len - ETH;
	int action = TC_ACT_UNSPEC, why = to4(skb, &action);

	return judge(why, action, bytes, NUM_REASONS);
}

char _license[] SEC("license") = "Dual BSD/GPL";

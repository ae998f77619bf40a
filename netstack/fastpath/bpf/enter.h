// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// What every packet goes through first.
#pragma once
#include "policy.h"
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

#undef HERE
#undef PASS

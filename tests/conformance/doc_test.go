// Package conformance holds translator against tests/reference and against the
// rules of tests/rules/rules.md: packet by packet on generated and fuzzed
// input, and by properties that need no second translator. What needs a device
// or a namespace does not belong here.
package conformance

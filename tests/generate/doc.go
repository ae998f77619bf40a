// Package generate makes packets for tests: every kind of header, right and
// wrong, for worlds (a prefix, mappings, a configuration) that between them
// reach every rule of translation. The same seed gives the same packets. It
// knows how packets are built and nothing of how they are translated.
package generate

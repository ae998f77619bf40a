// Package reference is the slow, obvious translator that the fast one is held
// against: it recomputes every checksum from whole packets
// and looks addresses up by scanning a list. It follows tests/rules/rules.md
// sentence by sentence and shares no code with the fast one but the names of
// verdicts and the shape of the configuration. Tests alone may import it.
//
// Where the rules name several faults of one packet without an order among
// them, every one of them is a right answer: Translate gives all of them.
package reference

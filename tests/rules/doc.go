// Package rules ties every rule of rules.md to the tests that prove it. No test
// of translation itself may enter: those stand where the table points.
package rules

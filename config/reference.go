package config

import _ "embed"

// Reference is the reference file: every key, with its default and what it is
// for.
//
//go:embed reference.yaml
var Reference string

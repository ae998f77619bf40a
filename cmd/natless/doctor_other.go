//go:build !linux

package main

import (
	"errors"

	"github.com/spf13/cobra"
)

func newDoctor(*options) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Check the host and say what to fix (on Linux)",
		RunE:  func(*cobra.Command, []string) error { return errors.New("doctor looks at Linux hosts only") },
	}
}

func newBugtool(*options) *cobra.Command {
	return &cobra.Command{
		Use:   "bugtool",
		Short: "Put what a bug report needs into one archive (on Linux)",
		RunE:  func(*cobra.Command, []string) error { return errors.New("bugtool looks at Linux hosts only") },
	}
}

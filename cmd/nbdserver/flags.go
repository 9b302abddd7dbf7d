package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// flagError says what is wrong with a flag, and what to write, in our words.
func flagError(cmd *cobra.Command, err error) error {
	var bad *pflag.InvalidValueError
	if !errors.As(err, &bad) {
		return fmt.Errorf("%w: see %s --help", err, cmd.CommandPath())
	}
	name, value := bad.GetFlag().Name, bad.GetValue()
	switch bad.GetFlag().Value.Type() {
	case "int":
		return fmt.Errorf("--%s: %q is no number, or too large: write a whole one", name, value)
	case "bool":
		return fmt.Errorf("--%s: %q is neither true nor false: leave it out", name, value)
	case "duration":
		return fmt.Errorf("--%s: %q is no duration: write one like 10s", name, value)
	}
	return fmt.Errorf("--%s: %w", name, bad.Unwrap())
}

// refuseEmpty refuses flags that were given an empty value, an unset variable in
// a script for example: most would do nothing, and --deny "" would let everybody
// in.
func refuseEmpty(flags *pflag.FlagSet) error {
	var err error
	flags.Visit(func(f *pflag.Flag) {
		values := []string{f.Value.String()}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			values = list.GetSlice()
		}
		if err == nil && (len(values) == 0 || slices.Contains(values, "")) {
			err = fmt.Errorf("--%s: the value is empty: write one, or leave the flag out", f.Name)
		}
	})
	return err
}

// Command nbdserver serves volumes over NBD until one of its exit conditions
// becomes true, then drains and exits. It is the data plane of nbdexport, and a
// stand-alone server.
package main

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nbdexport/nbdexport/nbdserver/report"
)

// version is set by the linker in release builds.
var version string

// exitCode is an error that has been reported already: the process ends with
// its code and says nothing more.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func main() {
	err := command().Execute()
	var code exitCode
	switch {
	case errors.As(err, &code):
		os.Exit(int(code))
	case err != nil:
		fmt.Fprintln(os.Stderr, "nbdserver:", oneLine(err))
		os.Exit(startupCode(err))
	}
}

// startupCode is the exit code of a server that can't start.
func startupCode(err error) int {
	if errors.As(err, new(deniedDevice)) {
		return report.ExitDeviceDenied
	}
	return report.ExitStartup
}

// oneLine folds an error into one line, which is what supervisors and kubelets
// show of it.
func oneLine(err error) string {
	return strings.Join(strings.Fields(err.Error()), " ")
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "nbdserver",
		Short:         "Serve volumes over NBD, and end gracefully",
		SilenceUsage:  true,
		SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{
			DisableDefaultCmd: true,
		},
	}
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(serveCommand(), ctlCommand(), &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprintln(cmd.OutOrStdout(), "nbdserver", versionString())
		},
	})
	return root
}

func versionString() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// Command scale measures what exports cost the API server and the operator: their
// creation, a time in which nothing happens, a restart of the operator, and their end.
//
// The API server and its etcd are real, and so is the operator's process. Scheduler,
// nodes and the garbage collector are played by this program. The requests are
// counted in the API server's audit log.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"
)

func main() {
	met, err := run(ctrl.SetupSignalHandler(), os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(2)
	}
	if !met {
		os.Exit(1)
	}
}

// run measures, prints what came of it, and tells whether the targets are met.
func run(ctx context.Context, args []string) (met bool, err error) {
	f := flag.NewFlagSet("scale", flag.ContinueOnError)
	exports := f.String("exports", "100,300,1000", "how many exports to measure with, numbers with commas between them")
	seconds := f.Int("steady", 600, "how many seconds nothing shall happen")
	others := f.Int("pods", 2000, "how many pods there are that have nothing to do with exports")
	file := f.String("json", "", "a file for the results as JSON")
	if err := f.Parse(args); err != nil {
		return false, err
	}
	var sizes []int
	for s := range strings.SplitSeq(*exports, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 2 || n > 99999 {
			return false, fmt.Errorf("-exports: %q is no number from 2 to 99999", s)
		}
		sizes = append(sizes, n)
	}
	slices.Sort(sizes)
	ctrl.SetLogger(logr.Discard())
	begin := time.Now()
	say := func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "scale: %4.0f s  %s\n", time.Since(begin).Seconds(), fmt.Sprintf(format, args...))
	}
	var results []result
	for _, n := range sizes {
		r, err := measure(ctx, options{exports: n, others: *others, steady: time.Duration(*seconds) * time.Second, patience: 30 * time.Minute, say: say})
		if err != nil {
			return false, fmt.Errorf("with %d exports: %w", n, err)
		}
		results = append(results, *r)
	}
	all := targets(results)
	print(os.Stdout, results)
	met = true
	for _, t := range all {
		word := "met"
		if !t.Met {
			met, word = false, "NOT MET"
		}
		fmt.Printf("%-8s%s: %s\n", word, t.Name, t.Got)
	}
	if *file == "" {
		return met, nil
	}
	text, err := json.MarshalIndent(struct {
		Results []result `json:"results"`
		Targets []target `json:"targets"`
	}{results, all}, "", "  ")
	if err != nil {
		return false, err
	}
	return met, os.WriteFile(*file, append(text, '\n'), 0o644)
}

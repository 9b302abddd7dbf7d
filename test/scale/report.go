package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// The phases, in the words of the report.
const (
	phaseStart   = "start without exports"
	phaseCreate  = "creation to Ready"
	phaseSteady  = "steady state"
	phaseRestart = "restart of the manager"
	phaseExit    = "end by podDeleted"
	phaseDelete  = "deletion"
)

// result is what was measured with a number of exports.
type result struct {
	Exports int     `json:"exports"`
	Phases  []phase `json:"phases"`
}

// phase is what a part of the exports' life took.
type phase struct {
	Name string `json:"name"`
	// Exports is how many it happened to.
	Exports int `json:"exports"`
	// Seconds are from its beginning to its effect, as it can be seen from outside.
	Seconds    float64 `json:"seconds"`
	CPUSeconds float64 `json:"cpuSeconds"`
	// PeakRSSBytes is the most memory that was resident since the manager's start.
	PeakRSSBytes int64 `json:"peakRSSBytes"`
	Reconciles   int   `json:"reconciles"`
	// Calls are the manager's, by verb and kind.
	Calls map[string]int `json:"calls"`
	// OwnCalls are the calls among them that the manager makes for itself: for its lease
	// and the Event that it leads.
	OwnCalls int `json:"ownCalls"`
	// Writes are the calls among them that change something for the sake of exports.
	Writes int `json:"writes"`
	// MostWrites is how many of these one export took at most.
	MostWrites int `json:"mostWritesOfOneExport"`
}

// summary counts the calls of a phase.
func summary(p phase, calls []call) phase {
	p.Calls = map[string]int{}
	writes := map[string]int{}
	for _, c := range calls {
		p.Calls[c.String()]++
		if c.own {
			p.OwnCalls++
		}
		if c.write() {
			p.Writes++
			writes[c.export]++
		}
	}
	delete(writes, "")
	for _, n := range writes {
		p.MostWrites = max(p.MostWrites, n)
	}
	return p
}

// calls are all of a phase that the manager doesn't make for itself.
func (p phase) calls() (n int) {
	for _, count := range p.Calls {
		n += count
	}
	return n - p.OwnCalls
}

// phase is a phase by its name.
func (r result) phase(name string) phase {
	i := slices.IndexFunc(r.Phases, func(p phase) bool { return p.Name == name })
	return r.Phases[i]
}

// peakRSS is the most memory in any phase.
func (r result) peakRSS() (most int64) {
	for _, p := range r.Phases {
		most = max(most, p.PeakRSSBytes)
	}
	return most
}

const mib = 1 << 20

// print writes what was measured as tables: for each number of exports how often
// something happened, and how often for each export.
func print(w io.Writer, results []result) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for i, first := range results[0].Phases {
		row := func(name string, values func(phase) (all, each string)) {
			fmt.Fprintf(t, "%s\t", name)
			for _, r := range results {
				all, each := values(r.Phases[i])
				fmt.Fprintf(t, "%s\t%s\t", all, each)
			}
			fmt.Fprintln(t)
		}
		counts := func(name string, of func(phase) int) {
			row(name, func(p phase) (string, string) {
				if p.Exports == 0 {
					return fmt.Sprint(of(p)), ""
				}
				return fmt.Sprint(of(p)), fmt.Sprintf("%.2f", float64(of(p))/float64(p.Exports))
			})
		}
		names := map[string]bool{}
		for _, r := range results {
			for name := range r.Phases[i].Calls {
				names[name] = true
			}
		}
		row(strings.ToUpper(first.Name), func(p phase) (string, string) { return fmt.Sprintf("%d exports", p.Exports), "each" })
		for _, name := range slices.Sorted(maps.Keys(names)) {
			counts(name, func(p phase) int { return p.Calls[name] })
		}
		counts("all but the manager's own", phase.calls)
		counts("writes", func(p phase) int { return p.Writes })
		row("writes of one export at most", func(p phase) (string, string) { return "", fmt.Sprint(p.MostWrites) })
		counts("reconciliations", func(p phase) int { return p.Reconciles })
		row("seconds", func(p phase) (string, string) { return fmt.Sprintf("%.1f", p.Seconds), "" })
		row("CPU seconds, milliseconds each", func(p phase) (string, string) {
			return fmt.Sprintf("%.2f", p.CPUSeconds), fmt.Sprintf("%.1f", 1000*p.CPUSeconds/float64(max(p.Exports, 1)))
		})
		row("peak RSS, MiB", func(p phase) (string, string) { return fmt.Sprintf("%.1f", float64(p.PeakRSSBytes)/mib), "" })
		fmt.Fprintln(t, "\t")
	}
	_ = t.Flush()
}

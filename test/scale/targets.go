package main

import "fmt"

// Targets of the operator at its largest scale.
const (
	maxWrites = 12
	maxRSS    = 128 * mib
	// maxGrowth is by how much the calls for an export may grow from the smallest
	// number of exports to the largest.
	maxGrowth = 1.1
)

// target is something that is asked of the results.
type target struct {
	Name string `json:"name"`
	Met  bool   `json:"met"`
	Got  string `json:"got"`
}

// targets looks whether results, by ascending numbers of exports, are as they should
// be. What depends on the machine isn't asked for.
func targets(results []result) []target {
	var out []target
	add := func(met bool, name, got string, args ...any) {
		out = append(out, target{name, met, fmt.Sprintf(got, args...)})
	}
	most, steady, restart := 0, 0, 0
	var rss int64
	for _, r := range results {
		most = max(most, r.phase(phaseCreate).MostWrites)
		steady += r.phase(phaseSteady).Writes
		restart += r.phase(phaseRestart).Writes
		rss = max(rss, r.peakRSS())
	}
	add(most <= maxWrites, fmt.Sprintf("at most %d writes for an export from its creation to Ready", maxWrites), "%d", most)
	add(steady == 0, "no writes in the steady state", "%d", steady)
	add(restart == 0, "no writes after a restart of the manager", "%d", restart)
	add(rss < maxRSS, fmt.Sprintf("less than %d MiB of memory", maxRSS/mib), "%.1f MiB", float64(rss)/mib)
	if first, last := results[0], results[len(results)-1]; first.Exports < last.Exports {
		for _, name := range []string{phaseCreate, phaseExit, phaseDelete} {
			few, many := first.phase(name), last.phase(name)
			growth := float64(many.calls()) / float64(many.Exports) / (float64(few.calls()) / float64(few.Exports))
			add(growth <= maxGrowth, fmt.Sprintf("%s: calls for each of %d exports at most %.1f times those of %d", name, last.Exports, maxGrowth, first.Exports), "%.2f", growth)
		}
	}
	return out
}

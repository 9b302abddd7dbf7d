package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"
)

// TestFewCalls is the benchmark with a few exports: what it asks of many, it asks of
// these. In the steady state, with the three seconds before and after it, each server is
// asked again how it is doing.
func TestFewCalls(t *testing.T) {
	ctrl.SetLogger(logr.Discard())
	r, err := measure(context.Background(), options{exports: 20, others: 40, steady: 8 * time.Second, patience: 5 * time.Minute, say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range targets([]result{*r}) {
		if !target.Met {
			t.Errorf("%s: %s", target.Name, target.Got)
		}
	}
	var table strings.Builder
	print(&table, []result{*r})
	t.Log("\n" + table.String())
	// A count of nothing at all would meet the targets too.
	for _, c := range []struct {
		phase, call string
		each        int
	}{
		{phaseCreate, "patch pods, new", 1},
		{phaseExit, "delete pods", 1},
		{phaseDelete, "delete pods", 1},
	} {
		if p := r.phase(c.phase); p.Calls[c.call] != c.each*p.Exports {
			t.Errorf("%s: %d times %s for %d exports, want %d for each", c.phase, p.Calls[c.call], c.call, p.Exports, c.each)
		}
	}
	if p := r.phase(phaseCreate); p.MostWrites < 5 {
		t.Errorf("%s: an export can't be made with %d writes", phaseCreate, p.MostWrites)
	}
}

// TestParseCall reads lines of an audit log.
func TestParseCall(t *testing.T) {
	for _, c := range []struct {
		name, line string
		want       call
		counts     bool
	}{
		{"write", `{"stage":"ResponseComplete","verb":"patch","objectRef":{"resource":"nbdexports","subresource":"status","namespace":"a","name":"x00001"},"responseStatus":{"code":409}}`,
			call{verb: "patch", kind: "nbdexports/status", export: "a/x00001", code: 409}, true},
		{"Event", `{"stage":"ResponseComplete","verb":"create","objectRef":{"resource":"events","namespace":"a","name":"x00001.18"},"responseStatus":{"code":201}}`,
			call{verb: "create", kind: "events", export: "a/x00001", code: 201}, true},
		{"lease", `{"stage":"ResponseComplete","verb":"update","objectRef":{"resource":"leases","namespace":"nbdexport-system","name":"nbdexport-manager"},"responseStatus":{"code":200}}`,
			call{verb: "update", kind: "leases", own: true, code: 200}, true},
		{"watch begins", `{"stage":"ResponseStarted","verb":"watch","objectRef":{"resource":"pods"},"responseStatus":{"code":200}}`,
			call{verb: "watch", kind: "pods", code: 200}, true},
		{"watch ends", `{"stage":"ResponseComplete","verb":"watch","objectRef":{"resource":"pods"},"responseStatus":{"code":200}}`,
			call{verb: "watch", kind: "pods", code: 200}, false},
		{"discovery", `{"stage":"ResponseComplete","verb":"get","requestURI":"/apis?x=y","responseStatus":{"code":200}}`,
			call{verb: "get", kind: "/apis", code: 200}, true},
	} {
		got, counts, err := parseCall([]byte(c.line))
		if err != nil || got != c.want || counts != c.counts {
			t.Errorf("%s: %+v, %v, %v", c.name, got, counts, err)
		}
	}
}

// TestTargets lets one measurement after the other miss its target.
func TestTargets(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(*result)
		unmet string
	}{
		{"good", func(*result) {}, ""},
		{"writes", func(r *result) { r.Phases[0].MostWrites = 13 }, "12 writes"},
		{"steady", func(r *result) { r.Phases[1].Writes = 1 }, "steady state"},
		{"restart", func(r *result) { r.Phases[2].Writes = 1 }, "restart"},
		{"memory", func(r *result) { r.Phases[3].PeakRSSBytes = maxRSS }, "memory"},
		{"growth", func(r *result) { r.Phases[4].Calls["patch pods"] *= 2 }, "deletion"},
	} {
		var results []result
		for _, n := range []int{10, 100} {
			r := result{Exports: n}
			for _, name := range []string{phaseCreate, phaseSteady, phaseRestart, phaseExit, phaseDelete} {
				r.Phases = append(r.Phases, phase{Name: name, Exports: n, Calls: map[string]int{"patch pods": n, "update leases": 9}, OwnCalls: 9})
			}
			results = append(results, r)
		}
		c.spoil(&results[1])
		unmet := ""
		for _, target := range targets(results) {
			if !target.Met {
				unmet += target.Name
			}
		}
		if (unmet == "") != (c.unmet == "") || !strings.Contains(unmet, c.unmet) {
			t.Errorf("%s: not met: %q", c.name, unmet)
		}
	}
}

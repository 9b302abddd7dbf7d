package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// options are what is measured.
type options struct {
	// exports is how many there are, 2 at least: one half of them ends by its VM, the
	// other one is deleted.
	exports int
	// others is the number of pods that have nothing to do with exports.
	others int
	// steady is how long nothing happens.
	steady time.Duration
	// patience is how long a phase may take that ends by itself.
	patience time.Duration
	// say tells how far it is.
	say func(format string, args ...any)
}

// bench is one measurement.
type bench struct {
	options
	load    *load
	seen    client.Reader // what the nodes have in their cache
	manager *manager
	audit   *auditLog
	result  result
}

// measure makes a cluster, and takes exports in it from their creation to their end.
func measure(ctx context.Context, o options) (_ *result, err error) {
	dir, err := os.MkdirTemp("", "nbdexport-scale-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	program, err := buildManager(dir)
	if err != nil {
		return nil, err
	}
	c, err := startCluster(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	address, stop, err := serveStatus()
	if err != nil {
		return nil, err
	}
	defer func() { _ = stop() }()

	mgr, err := ctrl.NewManager(c.admin, ctrl.Options{Scheme: c.kube.Scheme(), Metrics: metricsserver.Options{BindAddress: "0"}})
	if err != nil {
		return nil, err
	}
	n := &nodes{Client: mgr.GetClient(), count: 10 + o.exports/20, address: address}
	if err := n.start(ctx, mgr); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	defer func() {
		cancel()
		err = errors.Join(err, <-ended)
	}()

	b := &bench{
		options: o,
		load:    &load{kube: c.kube, exports: o.exports, others: o.others, nodes: n.count},
		seen:    mgr.GetClient(),
		audit:   &auditLog{file: c.audit},
		result:  result{Exports: o.exports},
	}
	o.say("%d exports: VMs, claims and %d other pods are made", o.exports, o.others)
	if err := b.load.prepare(ctx); err != nil {
		return nil, err
	}
	err = b.until(ctx, "all pods run", often, func() (bool, error) { return b.running(ctx, o.exports+o.others) })
	if err != nil {
		return nil, err
	}
	start := func() (err error) {
		b.manager, err = startManager(program, c.kubeconfig, dir)
		return err
	}
	err = b.phases(ctx, start)
	if b.manager != nil {
		err = errors.Join(err, b.manager.stop())
	}
	return &b.result, err
}

// phases are the life of the exports, with a manager that start starts.
func (b *bench) phases(ctx context.Context, start func() error) error {
	all := exportNames(0, b.exports)
	first, second := exportNames(0, b.exports/2), exportNames(b.exports/2, b.exports)
	for _, p := range []struct {
		name  string
		of    int
		do    func() error
		until func() (bool, error)
		more  func() error
	}{
		{name: phaseStart, do: start},
		{name: phaseCreate, of: b.exports,
			do:    func() error { return inParallel(ctx, all, b.load.makeExport) },
			until: func() (bool, error) { return b.exportsAre(ctx, v1alpha1.ConditionReady, b.exports) }},
		{name: phaseSteady, of: b.exports, do: func() error { return pause(ctx, b.steady) }},
		{name: phaseRestart, of: b.exports, do: func() error {
			if err := b.manager.stop(); err != nil {
				return fmt.Errorf("the manager's end: %w\n%s", err, b.manager.lastWords())
			}
			return start()
		}},
		{name: phaseExit, of: len(first),
			do:    func() error { return inParallel(ctx, first, b.load.removeVM) },
			until: func() (bool, error) { return b.exportsAre(ctx, v1alpha1.ConditionComplete, len(first)) }},
		{name: phaseDelete, of: len(second),
			do:    func() error { return inParallel(ctx, second, b.load.removeExport) },
			until: func() (bool, error) { return b.exportsLeft(ctx, len(first)) },
			more:  func() error { return inParallel(ctx, second, b.load.collect) }},
	} {
		b.say("%d exports: %s", b.exports, p.name)
		if err := b.phase(ctx, p.name, p.of, p.do, p.until, p.more); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

// phase does something, waits until that has had its effect, which is timed, and
// until the manager has nothing left to do, and writes down what that took. Without
// an effect, the time is that until the manager has nothing left to do.
func (b *bench) phase(ctx context.Context, name string, of int, do func() error, effect func() (bool, error), more func() error) error {
	begin, before := time.Now(), len(b.audit.all)
	var cpu time.Duration
	var reconciles int
	old := b.manager
	if old != nil {
		w, err := old.work(ctx)
		if err != nil {
			return err
		}
		reconciles = w.reconciles
		if cpu, err = old.cpu(); err != nil {
			return err
		}
	}
	if err := do(); err != nil {
		return err
	}
	if b.manager != old {
		cpu, reconciles = 0, 0
	}
	var took time.Duration
	if effect != nil {
		if err := b.until(ctx, "the effect", often, effect); err != nil {
			return fmt.Errorf("%w\n%s", err, b.manager.lastWords())
		}
		took = time.Since(begin)
	}
	if more != nil {
		if err := more(); err != nil {
			return err
		}
	}
	idle, err := b.untilIdle(ctx, of)
	if err != nil {
		return err
	}
	if effect == nil {
		took = idle.Sub(begin)
	}
	w, err := b.manager.work(ctx)
	if err != nil {
		return err
	}
	total, err := b.manager.cpu()
	if err != nil {
		return err
	}
	rss, err := b.manager.peakRSS()
	if err != nil {
		return err
	}
	b.result.Phases = append(b.result.Phases, summary(phase{
		Name: name, Exports: of, Seconds: took.Seconds(), CPUSeconds: (total - cpu).Seconds(), PeakRSSBytes: rss, Reconciles: w.reconciles - reconciles,
	}, b.audit.all[before:]))
	return nil
}

// untilIdle waits until the manager has looked as often at exports at least since its
// start, and nothing happens in it any more, and returns since when.
func (b *bench) untilIdle(ctx context.Context, looks int) (since time.Time, err error) {
	const quiet = 3 * time.Second
	type state struct{ reconciles, calls int }
	last := state{-1, -1}
	// Not often: to collect the metrics is work that is measured too.
	err = b.until(ctx, "the manager has nothing left to do", time.Second, func() (bool, error) {
		if err := b.audit.update(); err != nil {
			return false, err
		}
		w, err := b.manager.work(ctx)
		if err != nil {
			return false, err
		}
		calls := 0
		for _, c := range b.audit.all {
			if !c.own {
				calls++
			}
		}
		// A manager that doesn't lead yet hasn't begun.
		now := state{w.reconciles, calls}
		if !w.leads || w.reconciles < looks || w.busy || now != last {
			last, since = now, time.Now()
		}
		return time.Since(since) > quiet, nil
	})
	return since, err
}

// often is how often it is asked what costs the manager nothing.
const often = 100 * time.Millisecond

// until asks until it is so.
func (b *bench) until(ctx context.Context, what string, every time.Duration, ask func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, b.patience)
	defer cancel()
	for {
		if is, err := ask(); is || err != nil {
			return err
		}
		if err := pause(ctx, every); err != nil {
			return fmt.Errorf("waiting for this: %s: %w", what, err)
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// running tells whether as many pods run.
func (b *bench) running(ctx context.Context, want int) (bool, error) {
	var pods corev1.PodList
	if err := b.seen.List(ctx, &pods, client.UnsafeDisableDeepCopy); err != nil {
		return false, err
	}
	n := 0
	for i := range pods.Items {
		if ready(&pods.Items[i]) {
			n++
		}
	}
	return n == want, nil
}

// exportsAre tells whether as many exports have a condition.
func (b *bench) exportsAre(ctx context.Context, condition string, want int) (bool, error) {
	var exports v1alpha1.NBDExportList
	if err := b.seen.List(ctx, &exports, client.UnsafeDisableDeepCopy); err != nil {
		return false, err
	}
	n := 0
	for i := range exports.Items {
		if meta.IsStatusConditionTrue(exports.Items[i].GetStatus().Conditions, condition) {
			n++
		}
	}
	return n == want, nil
}

// exportsLeft tells whether as many exports are left.
func (b *bench) exportsLeft(ctx context.Context, want int) (bool, error) {
	var exports v1alpha1.NBDExportList
	if err := b.seen.List(ctx, &exports, client.UnsafeDisableDeepCopy); err != nil {
		return false, err
	}
	return len(exports.Items) == want, nil
}

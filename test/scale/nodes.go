package main

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/nbdserver/report"
)

const (
	// starts and becomesReady are how long a server's container takes to be started,
	// and then to be found ready.
	starts       = 300 * time.Millisecond
	becomesReady = time.Second
	// drains is how long a server drains.
	drains = 300 * time.Millisecond
)

// nodes play scheduler and kubelets: pods get a node, start, are ready, and end when
// they are deleted, in as many writes as those make.
type nodes struct {
	client.Client
	count int
	// address is that of all pods: a server of ours answers there for theirs.
	address string
}

// start runs the nodes with a manager until its end.
func (n *nodes) start(ctx context.Context, mgr ctrl.Manager) error {
	for i := range n.count {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName(i)}}
		if err := n.Create(ctx, node); err != nil {
			return err
		}
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue,
			LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()}}
		if err := n.Status().Update(ctx, node); err != nil {
			return err
		}
	}
	return ctrl.NewControllerManagedBy(mgr).Named("nodes").For(&corev1.Pod{}).
		WithOptions(controller.Options{MaxConcurrentReconciles: 16, SkipNameValidation: ptr.To(true)}).
		Complete(n)
}

func nodeName(i int) string { return fmt.Sprintf("node-%03d", i) }

// Reconcile brings a pod one step further.
func (n *nodes) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	pod := &corev1.Pod{}
	if err := n.Get(ctx, req.NamespacedName, pod); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	again, err := n.step(ctx, pod)
	// One that has changed in between comes again.
	return ctrl.Result{RequeueAfter: again}, client.IgnoreNotFound(err)
}

func (n *nodes) step(ctx context.Context, pod *corev1.Pod) (again time.Duration, err error) {
	_, export := pod.Labels[v1alpha1.LabelExport]
	finished := pod.Status.Phase == corev1.PodSucceeded
	switch {
	case !pod.DeletionTimestamp.IsZero() && finished:
		if ptr.Deref(pod.DeletionGracePeriodSeconds, 0) == 0 {
			return 0, nil // only finalizers hold it
		}
		return 0, n.Delete(ctx, pod, client.GracePeriodSeconds(0), client.Preconditions{UID: &pod.UID})
	case !pod.DeletionTimestamp.IsZero():
		// Deleted at the earliest when its grace period began.
		grace := time.Duration(ptr.Deref(pod.DeletionGracePeriodSeconds, 0)) * time.Second
		if wait := time.Until(pod.DeletionTimestamp.Add(drains - grace)); export && wait > 0 {
			return wait, nil
		}
		return 0, n.write(ctx, pod, ended)
	case finished:
		return 0, nil
	case pod.Spec.NodeName == "":
		b := &corev1.Binding{Target: corev1.ObjectReference{Kind: "Node", Name: n.choose(pod)}}
		return 0, n.SubResource("binding").Create(ctx, pod, b)
	case !export && pod.Status.Phase == corev1.PodPending:
		return 0, n.write(ctx, pod, n.ready)
	case pod.Status.StartTime == nil:
		return starts, n.write(ctx, pod, creating)
	case pod.Status.Phase == corev1.PodPending:
		if wait := time.Until(pod.Status.StartTime.Add(starts)); wait > 0 {
			return wait, nil
		}
		return becomesReady, n.write(ctx, pod, n.running)
	case !ready(pod):
		started := pod.Status.ContainerStatuses[0].State.Running.StartedAt
		if wait := time.Until(started.Add(becomesReady)); wait > 0 {
			return wait, nil
		}
		return 0, n.write(ctx, pod, n.ready)
	}
	return 0, nil
}

// choose picks the node that a pod wants, or any.
func (n *nodes) choose(pod *corev1.Pod) string {
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		for _, t := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
			for _, f := range t.MatchFields {
				return f.Values[0]
			}
		}
	}
	h := fnv.New32()
	h.Write([]byte(pod.Name))
	return nodeName(int(h.Sum32() % uint32(n.count)))
}

// write changes the status of a pod.
func (n *nodes) write(ctx context.Context, pod *corev1.Pod, change func(*corev1.Pod)) error {
	base := pod.DeepCopy()
	change(pod)
	return n.Status().Patch(ctx, pod, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{}))
}

func ready(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// creating is a pod that its node has taken.
func creating(pod *corev1.Pod) {
	pod.Status.StartTime = ptr.To(metav1.Now())
	setReady(pod, false)
	containers(pod, corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}})
}

// running is a pod whose containers run.
func (n *nodes) running(pod *corev1.Pod) {
	pod.Status.Phase = corev1.PodRunning
	pod.Status.PodIP, pod.Status.PodIPs = n.address, []corev1.PodIP{{IP: n.address}}
	containers(pod, corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}})
}

// ready is a pod whose readiness probe has succeeded.
func (n *nodes) ready(pod *corev1.Pod) {
	if pod.Status.StartTime == nil {
		creating(pod)
		n.running(pod)
	}
	setReady(pod, true)
	for i := range pod.Status.ContainerStatuses {
		pod.Status.ContainerStatuses[i].Ready = true
	}
}

// ended is a pod whose containers have ended after SIGTERM. A server leaves its
// report.
func ended(pod *corev1.Pod) {
	text, _ := json.Marshal(report.Report{Condition: "signal=SIGTERM", StartedAt: pod.DeletionTimestamp.UTC(), FinishedAt: time.Now().UTC()})
	pod.Status.Phase = corev1.PodSucceeded
	setReady(pod, false)
	containers(pod, corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		Reason: "Completed", Message: string(text), FinishedAt: metav1.Now()}})
}

func setReady(pod *corev1.Pod, is bool) {
	status := corev1.ConditionFalse
	if is {
		status = corev1.ConditionTrue
	}
	pod.Status.Conditions = []corev1.PodCondition{}
	for _, c := range []corev1.PodCondition{
		{Type: corev1.PodScheduled, Status: corev1.ConditionTrue},
		{Type: corev1.PodInitialized, Status: corev1.ConditionTrue},
		{Type: corev1.ContainersReady, Status: status},
		{Type: corev1.PodReady, Status: status},
	} {
		c.LastTransitionTime = metav1.Now()
		pod.Status.Conditions = append(pod.Status.Conditions, c)
	}
}

func containers(pod *corev1.Pod, state corev1.ContainerState) {
	pod.Status.ContainerStatuses = nil
	for _, c := range pod.Spec.Containers {
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses,
			corev1.ContainerStatus{Name: c.Name, Image: c.Image, ImageID: c.Image, State: state})
	}
}

// serveStatus answers for the servers of all pods: each has no client. It returns the
// address of the pods, one of the machine's own that nobody else is likely to use.
func serveStatus() (address string, stop func() error, err error) {
	const port = 10810
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"connections": 0, "exports": [{"name": "disk", "size": 1073741824}]}`))
	})
	for i := range 50 {
		address = fmt.Sprintf("127.107.0.%d", 1+i)
		var l net.Listener
		if l, err = net.Listen("tcp", net.JoinHostPort(address, fmt.Sprint(port))); err != nil {
			continue
		}
		server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
		go func() { _ = server.Serve(l) }()
		return address, server.Close, nil
	}
	return "", nil, err
}

package controller_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers"
	"github.com/nbdexport/nbdexport/controllers/serverstatus"
	"github.com/nbdexport/nbdexport/nbdserver/report"
)

// patience is how long something may take that doesn't depend on a clock: much longer
// than it does, for machines that are busy with other things.
const patience = 2 * time.Minute

// world is a namespace with an operator that works in it.
type world struct {
	*testing.T
	ns   string
	stop func()
	// parallel is how many exports are reconciled at the same time; zero is one.
	parallel int
	// clock is the operator's; nil is the real one.
	clock clock.PassiveClock
	// ask asks the servers of exports; nil finds that none of them answers.
	ask serverstatus.Fetch
	// metrics are those of the operator that started last.
	metrics *controllers.Metrics
	// config is how the operator reaches the API server; nil is the usual way.
	config *rest.Config
}

// newWorld makes a namespace and starts an operator. Both end with the test.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, ns: namespace(t)}
	w.start()
	t.Cleanup(func() { w.stop() })
	return w
}

// newWorldOnClock is newWorld with a clock that only the test moves.
func newWorldOnClock(t *testing.T) (*world, *clocktesting.FakePassiveClock) {
	t.Helper()
	clock := clocktesting.NewFakePassiveClock(time.Now())
	w := &world{T: t, ns: namespace(t), clock: clock}
	w.start()
	t.Cleanup(func() { w.stop() })
	return w, clock
}

// start starts an operator which sees only the namespace of the test.
func (w *world) start() {
	w.Helper()
	opts := controllers.CacheOptions()
	opts.DefaultNamespaces = map[string]cache.Config{w.ns: {}}
	if w.config == nil {
		w.config = operator
	}
	mgr, err := ctrl.NewManager(w.config, ctrl.Options{
		Scheme:  scheme,
		Logger:  logr.Discard(),
		Cache:   opts,
		Metrics: metricsserver.Options{BindAddress: "0"},
	})
	if err != nil {
		w.Fatal(err)
	}
	if w.clock == nil {
		w.clock = clock.RealClock{}
	}
	if w.ask == nil {
		w.ask = func(context.Context, string) (serverstatus.Answer, error) {
			return serverstatus.Answer{}, errors.New("there is no server")
		}
	}
	w.metrics = controllers.NewMetrics("test", mgr.GetClient(), mgr.Elected())
	r := &controllers.Reconciler{
		Client:   mgr.GetClient(),
		Live:     mgr.GetAPIReader(),
		Recorder: mgr.GetEventRecorder("nbdexport"),
		Image:    "nbdexport:test",
		Servers:  serverstatus.New(w.ask),
		Metrics:  w.metrics,
		Clock:    w.clock,
	}
	ctx, cancel := context.WithCancel(context.Background())
	if err := r.SetupWithManager(ctx, mgr, controller.Options{SkipNameValidation: ptr.To(true), MaxConcurrentReconciles: max(w.parallel, 1)}); err != nil {
		w.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	w.stop = func() {
		cancel()
		if err := <-done; err != nil {
			w.Errorf("the operator ended: %v", err)
		}
		w.stop = func() {}
	}
}

// namespace makes a namespace of the test's own.
func namespace(t *testing.T) string {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}
	if err := kube.Create(context.Background(), ns); err != nil {
		t.Fatal(err)
	}
	return ns.Name
}

// get reads an object that has to be there.
func get(t *testing.T, key client.ObjectKey, obj client.Object) {
	t.Helper()
	if err := kube.Get(context.Background(), key, obj); err != nil {
		t.Fatal(err)
	}
}

// eventually asks until there is nothing more to complain about. What is
// complained of last is what the test fails with.
func eventually(t *testing.T, what string, ask func() (complaint string)) {
	t.Helper()
	complaint := "never asked"
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if complaint = ask(); complaint == "" {
			return
		}
	}
	t.Fatalf("%s: %s", what, complaint)
}

func (w *world) key(name string) client.ObjectKey {
	return client.ObjectKey{Namespace: w.ns, Name: name}
}

// must makes an object.
func (w *world) must(obj client.Object) {
	w.Helper()
	if err := kube.Create(context.Background(), obj); err != nil {
		w.Fatal(err)
	}
}

// export makes an NBDExport from a spec in YAML.
func (w *world) export(name, spec string) {
	w.Helper()
	if err := create(w.T, w.ns, name, spec); err != nil {
		w.Fatal(err)
	}
}

// read reads an export. One that has no status yet gets an empty one.
func (w *world) read(name string) *v1alpha1.NBDExport {
	w.Helper()
	var e v1alpha1.NBDExport
	get(w.T, w.key(name), &e)
	e.Status = ptr.To(e.GetStatus())
	return &e
}

// expect waits until a condition of an export has a status and a reason.
func (w *world) expect(name, kind string, status metav1.ConditionStatus, reason string) *v1alpha1.NBDExport {
	w.Helper()
	var e *v1alpha1.NBDExport
	eventually(w.T, fmt.Sprintf("%s of %s should be %s (%s)", kind, name, status, reason), func() string {
		e = w.read(name)
		c := meta.FindStatusCondition(e.Status.Conditions, kind)
		if c == nil {
			return "it isn't there"
		}
		if c.Status != status || c.Reason != reason {
			return fmt.Sprintf("it is %s (%s): %s", c.Status, c.Reason, c.Message)
		}
		return ""
	})
	return e
}

// message is that of a condition.
func message(e *v1alpha1.NBDExport, kind string) string {
	if c := meta.FindStatusCondition(e.Status.Conditions, kind); c != nil {
		return c.Message
	}
	return ""
}

// settled waits until the operator has dealt with what happened before, by having
// it make another export, and one after that: it takes one at a time, in order.
func (w *world) settled(name string) {
	w.Helper()
	for _, probe := range []string{"probe-1-" + name, "probe-2-" + name} {
		w.export(probe, "volumes: [{name: a, source: {memory: {size: 1}}}]\ntls: {mode: Disabled}")
		w.pod("nbd-"+probe, nil)
	}
}

// pod waits for a pod, other than the one given.
func (w *world) pod(name string, not *corev1.Pod) *corev1.Pod {
	w.Helper()
	pod := &corev1.Pod{}
	eventually(w.T, "the pod "+name+" should be there", func() string {
		if err := kube.Get(context.Background(), w.key(name), pod); err != nil {
			return err.Error()
		}
		if not != nil && pod.UID == not.UID {
			return "it is still the old one"
		}
		return ""
	})
	return pod
}

// absent tells whether an object isn't there.
func (w *world) absent(obj client.Object) bool {
	w.Helper()
	err := kube.Get(context.Background(), client.ObjectKeyFromObject(obj), obj)
	if err != nil && !apierrors.IsNotFound(err) {
		w.Fatal(err)
	}
	return err != nil
}

// gone waits until an object isn't there any more.
func (w *world) gone(obj client.Object) {
	w.Helper()
	eventually(w.T, obj.GetName()+" should be gone", func() string {
		if w.absent(obj) {
			return ""
		}
		return fmt.Sprintf("it has finalizers %v, deletion %v", obj.GetFinalizers(), obj.GetDeletionTimestamp())
	})
}

// deleting waits until a pod has been told to end.
func (w *world) deleting(pod *corev1.Pod) {
	w.Helper()
	eventually(w.T, "the pod "+pod.Name+" should be on its way out", func() string {
		get(w.T, client.ObjectKeyFromObject(pod), pod)
		if pod.DeletionTimestamp.IsZero() {
			return "it isn't"
		}
		return ""
	})
}

// remove deletes an object as kubectl does.
func (w *world) remove(obj client.Object) {
	w.Helper()
	if err := kube.Delete(context.Background(), obj); err != nil {
		w.Fatal(err)
	}
}

// user makes a pod that stands for a VM, and puts it onto a node if one is named.
func (w *world) user(name, node, claim string) *corev1.Pod {
	w.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name},
		Spec: corev1.PodSpec{
			NodeName:    node,
			Containers:  []corev1.Container{{Name: "vm", Image: "example.test/vm"}},
			Tolerations: []corev1.Toleration{{Key: "vm-nodes", Operator: corev1.TolerationOpExists}},
		},
	}
	if claim != "" {
		pod.Spec.Volumes = []corev1.Volume{{Name: "disk", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}
	}
	w.must(pod)
	return pod
}

// claim makes a PersistentVolumeClaim.
func (w *world) claim(name string, mode corev1.PersistentVolumeAccessMode, block bool) *corev1.PersistentVolumeClaim {
	w.Helper()
	pvc := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{mode},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}
	if block {
		pvc.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock)
	}
	w.must(pvc)
	return pvc
}

// bind is the scheduler's part: it puts a pod onto a node.
func (w *world) bind(pod *corev1.Pod, node string) {
	w.Helper()
	b := &corev1.Binding{Target: corev1.ObjectReference{Kind: "Node", Name: node}}
	if err := kube.SubResource("binding").Create(context.Background(), pod, b); err != nil {
		w.Fatal(err)
	}
	get(w.T, client.ObjectKeyFromObject(pod), pod)
}

// kubelet writes the status of a pod.
func (w *world) kubelet(pod *corev1.Pod, change func(*corev1.PodStatus)) {
	w.Helper()
	get(w.T, client.ObjectKeyFromObject(pod), pod)
	base := pod.DeepCopy()
	change(&pod.Status)
	if err := kube.Status().Patch(context.Background(), pod, client.MergeFrom(base)); err != nil {
		w.Fatal(err)
	}
}

// serve brings a pod of an export to where it serves.
func (w *world) serve(pod *corev1.Pod) {
	w.Helper()
	w.bind(pod, "node-1")
	w.kubelet(pod, func(s *corev1.PodStatus) {
		s.Phase = corev1.PodRunning
		s.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		s.ContainerStatuses = []corev1.ContainerStatus{{Name: "nbdserver", Ready: true,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	})
}

// end ends a pod as a server does that leaves a report.
func (w *world) end(pod *corev1.Pod, condition string, code int) {
	w.Helper()
	r := report.Report{Condition: condition, StartedAt: time.Now().Add(-2 * time.Second), FinishedAt: time.Now(),
		ExitCode: code, BytesRead: 4096, BytesWritten: 512}
	if code != 0 {
		r.ClientsCut = 1
	}
	text, err := json.Marshal(r)
	if err != nil {
		w.Fatal(err)
	}
	w.endWith(pod, code, string(text))
}

// endWith ends a pod with a termination message.
func (w *world) endWith(pod *corev1.Pod, code int, text string) {
	w.Helper()
	w.kubelet(pod, func(s *corev1.PodStatus) {
		s.Phase = corev1.PodSucceeded
		if code != 0 {
			s.Phase = corev1.PodFailed
		}
		s.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}}
		s.ContainerStatuses = []corev1.ContainerStatus{{Name: "nbdserver",
			State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
				ExitCode: int32(code), Message: text, Reason: "Completed", FinishedAt: metav1.Now()}}}}
	})
	if pod.DeletionTimestamp.IsZero() {
		return
	}
	w.kill(pod)
}

// kill is the kubelet's last word on a pod that was deleted: nothing of it runs.
func (w *world) kill(pod *corev1.Pod) {
	w.Helper()
	err := kube.Delete(context.Background(), pod, client.GracePeriodSeconds(0), client.Preconditions{UID: &pod.UID})
	if client.IgnoreNotFound(err) != nil {
		w.Fatal(err)
	}
}

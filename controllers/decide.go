package controllers

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/desired"
)

// replaceDelay is how long after the end of a pod that ended by itself a new one
// is made, so that one which always ends at once isn't made in a tight loop.
const replaceDelay = 10 * time.Second

// decide says what is to be done about an export.
func decide(o *observed) plan {
	e := o.export
	switch {
	case !e.DeletionTimestamp.IsZero():
		return decideDeletion(o)
	case isComplete(e):
		return decideComplete(o)
	case e.GetStatus().Exit != nil:
		return decideDrain(o, *e.GetStatus().Exit)
	}
	if exit, met := podDeleted(o); met {
		return decideDrain(o, exit)
	}
	if exit, met := objectCondition(o); met {
		return decideDrain(o, exit)
	}
	if exit, met := deadlineOver(o); met {
		return decideDrain(o, exit)
	}
	if p, lost := scratchLost(o); lost {
		return p
	}
	p := decideService(o)
	p.untilDeadline(o)
	p.untilNextLook(o)
	p.untilSnapshot(o)
	return p
}

// decideDeletion lets the pod drain, and then the export go.
func decideDeletion(o *observed) plan {
	p := plan{say: underWay(v1alpha1.ReasonDeleting, "the export is being deleted: it goes when its pod has drained and ended")}
	pod := o.podToEnd()
	if pod == nil {
		return plan{releaseExport: true, removeClaims: o.unneeded(nil)}
	}
	over, again := o.over(pod)
	switch {
	case over && held(pod):
		p.releasePod = true
	case over:
		return plan{releaseExport: true, removeClaims: o.unneeded(nil)}
	case pod.DeletionTimestamp.IsZero():
		p.pod = podRemove
	}
	if f, found := unheard(o); found && !over {
		p.say = blocked(f)
	}
	p.again = again
	return p
}

// decideComplete deletes an export whose time is over, once its pod isn't held
// any more.
func decideComplete(o *observed) plan {
	p := decideCompletePod(o)
	p.removeTemporary(o)
	left, limited := timeToLive(o)
	switch {
	case !limited || p.pod != podKeep || p.releasePod:
	case left > 0:
		p.lookAgainIn(left)
	default:
		p.removeExport = true
	}
	return p
}

// decideCompletePod lets go of a pod whose report is in the status. A pod that has
// finished stays for its logs until the export is deleted.
func decideCompletePod(o *observed) plan {
	var p plan
	pod := o.podToEnd()
	if pod == nil {
		return p
	}
	over, again := o.over(pod)
	switch {
	case over:
		p.releasePod = held(pod)
	case pod.DeletionTimestamp.IsZero() && !reportedEnd(pod):
		// Made from an old copy of the export, which knew of no end.
		p.pod = podRemove
	}
	p.again = again
	return p
}

// timeToLive is how much longer a complete export is kept; false if for ever.
func timeToLive(o *observed) (time.Duration, bool) {
	ttl := o.export.Spec.TTLSecondsAfterFinished
	if ttl == nil {
		return 0, false
	}
	ended := conditionOf(o.export.GetStatus(), v1alpha1.ConditionComplete).LastTransitionTime
	return ended.Add(time.Duration(*ttl) * time.Second).Sub(o.now), true
}

// decideDrain brings an export to its end that has an exit condition.
func decideDrain(o *observed, exit v1alpha1.ExitStatus) plan {
	recorded := o.export.GetStatus().Exit != nil
	pod := o.podToEnd()
	if pod == nil {
		if !recorded && !everReady(o.export) {
			return neverStarted(o, exit)
		}
		return reportLost(o, exit)
	}
	over, again := o.over(pod)
	if over || reportedEnd(pod) {
		return finish(o, exit, pod)
	}
	p := plan{
		exit: &exit,
		say: append(notEnded(), underWay(v1alpha1.ReasonDraining,
			fmt.Sprintf("the exit condition %s (%s) was met: clients that are connected may finish within the drain's bounds", exit.Condition, exit.Reason))...),
		again:  again,
		served: true,
	}
	// Not before the condition is on record: the next operator would take the
	// deletion for somebody else's and make a new pod.
	if recorded && pod.DeletionTimestamp.IsZero() {
		p.pod = podRemove
	}
	if f, found := unheard(o); found {
		p.say = append(p.say, blocked(f)...)
	}
	return p
}

// decideService keeps an export served.
func decideService(o *observed) plan {
	p := plan{say: notEnded()}
	pod := o.ownPod()
	var again time.Duration
	if pod != nil {
		if r, _, ok := lastReport(pod); ok {
			if exit, met := exitOf(o.export, pod, r); met {
				return finish(o, exit, pod)
			}
		}
		var over bool
		if over, again = o.over(pod); over {
			return replaceEnded(o, pod, p)
		}
	}
	if o.pod != nil && orphaned(o.export.Name, o.pod) {
		return replaceOrphan(o, p)
	}
	if f, found := firstOf(nameChecks, o); found {
		p.say = append(p.say, blocked(f)...)
		p.releasePod, p.again = leftover(o)
		// But for pods, nobody tells when what isn't ours is gone.
		p.lookAgainIn(refusedDelay)
		return p
	}
	p.applyService = o.service == nil || !desired.ServiceMatches(o.export, o.service)
	p.applyConfigMap = o.configMap == nil || !desired.ConfigMapMatches(o.export, o.configMap)
	p.applyNetworkPolicy, p.removeNetworkPolicy = networkPolicyDiffers(o)
	p.served = true
	p.certificates(o)

	p.watched = unrecorded(o)
	if pod == nil {
		if f, found := firstOf(claimChecks, o); found {
			p.say = append(p.say, stopped(f)...)
			return p
		}
		if f, found := firstOf(tlsChecks, o); found {
			p.say = append(p.say, blocked(f)...)
			p.lookAgainIn(secretDelay)
			return p
		}
		if len(p.watched) == 0 {
			// Not before it is on record what ends the pod.
			if p.restore(o) {
				return p
			}
			p.pod = podCreate
		}
		// In the words for a pod that starts, so that they are written once.
		f, _ := starting(o)
		p.say = append(p.say, underWay(f.reason, f.message)...)
		p.named = true
		return p
	}
	p.named = true
	if again > 0 {
		p.lookAgainIn(again)
	}
	p = judgePod(o, pod, p)
	if f, found := unheard(o); found {
		p.say = append(p.say, blocked(f)...)
	}
	return p
}

// judgePod says how it stands with a pod that is there and not over.
func judgePod(o *observed, pod *corev1.Pod, p plan) plan {
	if fields := outdated(o.export, pod); len(fields) > 0 {
		return update(pod, fields, p)
	}
	if f, found := heldElsewhere(o); found {
		return yield(o, pod, f, p)
	}
	if !pod.DeletionTimestamp.IsZero() {
		p.say = append(p.say, toldToEnd(o, pod)...)
		return p
	}
	if pod.Spec.NodeName == "" && pinnedTo(pod) != o.follow().Node {
		// It runs nowhere yet, and waits for a node that isn't the right one any more.
		p.pod = podRemove
		p.say = append(p.say, underWay(v1alpha1.ReasonReplacing, "the claims are in use on another node than before: the pod follows")...)
		return p
	}
	p.stampPod = desired.Stale(o.export, pod.Annotations[v1alpha1.AnnotationSpec])
	f, _ := firstOf(podChecks, o)
	if f.reason == v1alpha1.ReasonServing {
		p.say = append(p.say, ready(f.message)...)
		if companionsOnly(o) {
			// Of a node that is lost from now on nobody tells: the pod isn't ready already.
			p.lookAgainIn(nodeDelay)
		}
	} else {
		p.say = append(p.say, stopped(f)...)
		if left := warmUp(o); left > 0 {
			p.lookAgainIn(left)
		}
	}
	return p
}

// yield deals with a pod whose server never ran because a claim is in use on
// another node than its own. It is made anew where the claim is, if that is one
// place.
func yield(o *observed, pod *corev1.Pod, f finding, p plan) plan {
	switch {
	case !pod.DeletionTimestamp.IsZero():
	case o.mayFollow(pod):
		p.pod = podRemove
	default:
		p.say = append(p.say, blocked(f)...)
		return p
	}
	f.message += "; it is made anew on that one's node"
	p.say = append(p.say, underWay(f.reason, f.message)...)
	return p
}

// replaceEnded makes room for a new pod after one that is over although no exit
// condition was met.
func replaceEnded(o *observed, pod *corev1.Pod, p plan) plan {
	fields := outdated(o.export, pod)
	if f, found := cannotStart(o, pod); found {
		p.say = append(p.say, blocked(f)...)
	} else if len(fields) > 0 {
		p.say = append(p.say, underWay(v1alpha1.ReasonUpdating,
			fmt.Sprintf("the spec has changed (%s), and the pod %s has ended: a new one follows", strings.Join(fields, ", "), pod.Name))...)
	} else {
		p.say = append(p.say, underWay(v1alpha1.ReasonReplacing,
			fmt.Sprintf("the pod %s has ended without an exit condition%s: a new one follows", pod.Name, o.why(pod)))...)
	}
	if !pod.DeletionTimestamp.IsZero() {
		p.releasePod = held(pod)
		return p
	}
	if wait := endedAt(pod, o.now).Add(delay(o, pod)).Sub(o.now); wait > 0 && len(fields) == 0 {
		p.again = wait
		return p
	}
	p.pod = podRemove
	return p
}

// leftover tells whether the pod with our name is that of an earlier export of
// the same name, and has ended, so that nobody waits for its report any more.
func leftover(o *observed) (release bool, again time.Duration) {
	if o.pod == nil || !held(o.pod) || !ofEarlierExport(o) {
		return false, 0
	}
	return o.over(o.pod)
}

// ofEarlierExport tells whether the pod belongs to another export of this name.
func ofEarlierExport(o *observed) bool {
	return ofEarlier(o.export, o.pod)
}

// ofEarlier tells the same of another object.
func ofEarlier(e *v1alpha1.NBDExport, obj metav1.Object) bool {
	ref := metav1.GetControllerOfNoCopy(obj)
	return ref != nil && ref.Kind == "NBDExport" && ref.Name == e.Name && ref.UID != e.UID &&
		ref.APIVersion == v1alpha1.GroupVersion.String()
}

// held tells whether a pod waits for its report to be read.
func held(pod *corev1.Pod) bool {
	return controllerutil.ContainsFinalizer(pod, v1alpha1.FinalizerReport)
}

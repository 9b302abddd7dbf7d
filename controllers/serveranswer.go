package controllers

import (
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/desired"
	"github.com/nbdexport/nbdexport/controllers/serverstatus"
)

// listen has the export's server asked for as long as it runs, in its drain too. It
// returns what that said last; nil if there is none or it doesn't answer, and known is
// false if it wasn't asked yet, maybe because the operator has just started.
func (r *Reconciler) listen(o *observed) (a *serverstatus.Answer, known bool) {
	key := client.ObjectKeyFromObject(o.export)
	pod := o.ownPod()
	if pod == nil || !canAnswer(pod) {
		r.Servers.Forget(key)
		return nil, true
	}
	r.Servers.Follow(key, pod.UID, net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(desired.HTTPPort)))
	return r.Servers.Latest(key)
}

// canAnswer tells whether a pod has a server that runs and an address.
func canAnswer(pod *corev1.Pod) bool {
	s := serverStatus(pod)
	return s != nil && s.State.Running != nil && pod.Status.PodIP != ""
}

// hear puts what the server said into a plan. What isn't known leaves the status as it is:
// a new operator must not write every status once without and once with the answer.
func (p *plan) hear(o *observed) {
	if !o.answerKnown {
		return
	}
	p.heard = true
	if o.answer == nil {
		return
	}
	p.connections = &o.answer.Connections
	if full := fullScratches(o); len(full) > 0 {
		p.say = append(p.say, verdict{v1alpha1.ConditionDegraded, true, v1alpha1.ReasonScratchFull, fmt.Sprintf(
			"the scratch is full of %s: what clients write to new places fails with ENOSPC: have them discard what they don't need, or create the export anew with a larger scratch.sizeLimit",
			strings.Join(full, ", of "))})
	} else if conditionOf(o.export.GetStatus(), v1alpha1.ConditionDegraded).Status == metav1.ConditionTrue {
		p.say = append(p.say, verdict{v1alpha1.ConditionDegraded, false, v1alpha1.ReasonScratchFreed, "every scratch has room again"})
	}
}

// fullScratches are the volumes whose scratch is full, with their limits, in words. Names
// that aren't in the spec don't count, whoever answered with them.
func fullScratches(o *observed) []string {
	var out []string
	for _, v := range o.export.Spec.Volumes {
		i := slices.IndexFunc(o.answer.Full, func(f serverstatus.Full) bool { return f.Volume == v.Name })
		if i >= 0 {
			limit := resource.NewQuantity(int64(min(o.answer.Full[i].Limit, math.MaxInt64)), resource.BinarySI)
			out = append(out, fmt.Sprintf("the volume %s (limit %s)", v.Name, limit))
		}
	}
	return out
}

package controllers

import (
	"fmt"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// replaceOrphan ends a pod that was made for an export of this name and has lost its
// owner. Which export it served, this one or an earlier one, nobody can tell: it isn't
// taken over, and its report isn't this export's.
func replaceOrphan(o *observed, p plan) plan {
	over, again := o.over(o.pod)
	switch {
	case o.pod.DeletionTimestamp.IsZero():
		p.pod = podRemove
	case over:
		p.releasePod = true
	}
	p.again = again
	p.say = append(p.say, underWay(v1alpha1.ReasonReplacing,
		fmt.Sprintf("the pod %s has lost its owner, as after a deletion with --cascade=orphan: it drains, and a new one follows when it has ended", o.pod.Name))...)
	if f, found := unheard(o); found && !over {
		p.say = append(p.say, blocked(f)...)
	}
	return p
}

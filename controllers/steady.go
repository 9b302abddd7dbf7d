package controllers

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// refusals are when it was last written, by export, that the API server refuses an
// object. The zero value is ready for use, by several goroutines at a time.
//
// The words are those of an admission webhook, say, and may be others each time, with
// the time or a request's number in them. Each status that is written has the
// export looked at again, and so the object tried again: without a pause they would
// follow each other for ever.
type refusals struct {
	at sync.Map // types.NamespacedName to time.Time
}

// tooSoon tells whether a status differs from what was written a moment ago in
// nothing but the words of a refusal.
func (r *refusals) tooSoon(key types.NamespacedName, from, to v1alpha1.NBDExportStatus, now time.Time) bool {
	at, ok := r.at.Load(key)
	return ok && now.Sub(at.(time.Time)) < refusedDelay && refused(to) &&
		equality.Semantic.DeepEqual(wordless(from), wordless(to))
}

// written keeps in mind what was written.
func (r *refusals) written(key types.NamespacedName, s v1alpha1.NBDExportStatus, now time.Time) {
	if refused(s) {
		r.at.Store(key, now)
	} else {
		r.forget(key)
	}
}

// forget drops an export that doesn't exist any more.
func (r *refusals) forget(key types.NamespacedName) { r.at.Delete(key) }

func refused(s v1alpha1.NBDExportStatus) bool {
	return conditionOf(s, v1alpha1.ConditionReady).Reason == v1alpha1.ReasonPodRejected
}

// wordless is a status without the messages of its conditions.
func wordless(s v1alpha1.NBDExportStatus) *v1alpha1.NBDExportStatus {
	out := s.DeepCopy()
	for i := range out.Conditions {
		out.Conditions[i].Message = ""
	}
	return out
}

package controllers

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// plan is what is to be done about an export, and what is to be said about it.
type plan struct {
	pod podAction
	// applyService says that the Service is missing or isn't as it has to be.
	applyService bool
	// applyConfigMap says the same of the ConfigMap.
	applyConfigMap bool
	// applyNetworkPolicy says the same of the NetworkPolicy, removeNetworkPolicy
	// that there is one of the export's which it shall not have any more.
	applyNetworkPolicy, removeNetworkPolicy bool
	// certify says that certificates are missing, or due to be renewed.
	certify bool
	// releasePod takes the finalizer off the pod with the export's pod name.
	releasePod bool
	// makeClaims are temporary claims to be made.
	makeClaims []*corev1.PersistentVolumeClaim
	// removeClaims are temporary claims to be deleted.
	removeClaims []*corev1.PersistentVolumeClaim
	// stampPod writes onto the pod that it serves the spec as it is.
	stampPod bool
	// removeExport deletes the export.
	removeExport bool
	// releaseExport takes the finalizer off the export.
	releaseExport bool
	// again is when to look again although nothing has happened; zero is never.
	again time.Duration

	// watched are the pods of podDeleted conditions that are to be on record; nil
	// leaves the status as it is.
	watched []v1alpha1.WatchedPod
	// exit is what the status shall say about the end; nil leaves it as it is.
	exit *v1alpha1.ExitStatus
	// say are the conditions to be set; those not named stay as they are.
	say []verdict
	// named says that the pod is there or about to be made: its name may be told.
	named bool
	// heard says that connections is the truth, nil for a number that nobody knows;
	// else it stays as it is in the status.
	heard       bool
	connections *int32
	// served says that the Service exists or is about to: its name and the URIs
	// may be told.
	served bool
}

// podAction is what becomes of the export's pod.
type podAction int

const (
	// podKeep leaves it as it is.
	podKeep podAction = iota
	// podCreate makes it.
	podCreate
	// podRemove deletes it with its grace period, which makes the server drain.
	podRemove
)

// verdict is a condition of the status to be.
type verdict struct {
	kind    string
	is      bool
	reason  string
	message string
}

// ready and the like make the verdict that is called for.

func ready(message string) []verdict {
	return []verdict{
		{v1alpha1.ConditionReady, true, v1alpha1.ReasonServing, message},
		{v1alpha1.ConditionProgressing, false, v1alpha1.ReasonServing, message},
	}
}

// underWay says that the export isn't ready, but that this changes by itself.
func underWay(reason, message string) []verdict {
	return []verdict{
		{v1alpha1.ConditionReady, false, reason, message},
		{v1alpha1.ConditionProgressing, true, reason, message},
	}
}

// blocked says that the export isn't ready and that somebody has to help.
func blocked(f finding) []verdict {
	return []verdict{
		{v1alpha1.ConditionReady, false, f.reason, f.message},
		{v1alpha1.ConditionProgressing, false, f.reason, f.message},
	}
}

// stopped says that the export isn't ready for a reason which passes by itself, or
// for which somebody has to help.
func stopped(f finding) []verdict {
	if passing[f.reason] {
		return underWay(f.reason, f.message)
	}
	return blocked(f)
}

// notEnded says that there is nothing to say about the end.
func notEnded() []verdict {
	const message = "no exit condition was met, or the server has not ended yet"
	return []verdict{
		{v1alpha1.ConditionComplete, false, v1alpha1.ReasonNotEnded, message},
		{v1alpha1.ConditionFailed, false, v1alpha1.ReasonNotEnded, message},
	}
}

// ended says how the export ended; failed, whether that wasn't clean.
func ended(failed bool, reason, message string) []verdict {
	return []verdict{
		{v1alpha1.ConditionReady, false, v1alpha1.ReasonCompleted, message},
		{v1alpha1.ConditionProgressing, false, v1alpha1.ReasonCompleted, message},
		{v1alpha1.ConditionComplete, true, reason, message},
		{v1alpha1.ConditionFailed, failed, reason, message},
	}
}

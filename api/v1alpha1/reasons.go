package v1alpha1

// Types of the conditions in an export's status.
const (
	// ConditionReady is true while clients can connect.
	ConditionReady = "Ready"
	// ConditionProgressing is true while a change is under way that ends by
	// itself: the pod starts, drains or is replaced.
	ConditionProgressing = "Progressing"
	// ConditionComplete is true when an exit condition was met and the server
	// has ended, or when it ended and can't be replaced. It never becomes false again.
	ConditionComplete = "Complete"
	// ConditionFailed is true when the export is complete, but its end wasn't
	// clean.
	ConditionFailed = "Failed"
	// ConditionDegraded is true while clients can connect, but not all that they do
	// can succeed. It isn't there before that has happened, and at the end of the
	// export it stays as it was.
	ConditionDegraded = "Degraded"
)

// Reasons of the condition Ready. Those that can't be on the way to ready
// without somebody's help are also the reason of Progressing=False.
const (
	// ReasonServing says that clients can connect.
	ReasonServing = "Serving"
	// ReasonStarting says that the pod was made, or is about to be, and isn't ready
	// yet.
	ReasonStarting = "Starting"
	// ReasonNotReady says that the server runs, but doesn't take new clients
	// now: it has begun to drain, or doesn't answer its readiness probe.
	ReasonNotReady = "NotReady"
	// ReasonDraining says that the server was told to end and lets its clients
	// finish.
	ReasonDraining = "Draining"
	// ReasonReplacing says that the pod ended without an exit condition, and that
	// a new one follows.
	ReasonReplacing = "Replacing"
	// ReasonUpdating says that the spec has changed in what takes a new pod: the old
	// one drains, the new one follows.
	ReasonUpdating = "Updating"
	// ReasonDeleting says that the NBDExport is being deleted.
	ReasonDeleting = "Deleting"
	// ReasonCompleted says that the export has ended.
	ReasonCompleted = "Completed"

	// ReasonNameTaken says that an object of another owner has the name that the
	// pod, the Service, the ConfigMap, a Secret or a temporary claim would have.
	ReasonNameTaken = "NameTaken"
	// ReasonClaimNotFound says that a claim doesn't exist.
	ReasonClaimNotFound = "ClaimNotFound"
	// ReasonClaimDeleting says that a claim is being deleted.
	ReasonClaimDeleting = "ClaimDeleting"
	// ReasonClaimLost says that a claim has lost its volume.
	ReasonClaimLost = "ClaimLost"
	// ReasonClaimPending says that a claim isn't bound to a volume, and that the
	// pod therefore can't be scheduled.
	ReasonClaimPending = "ClaimPending"
	// ReasonSnapshotNotFound says that a VolumeSnapshot doesn't exist.
	ReasonSnapshotNotFound = "SnapshotNotFound"
	// ReasonSnapshotNotReady says that a VolumeSnapshot is being taken.
	ReasonSnapshotNotReady = "SnapshotNotReady"
	// ReasonSnapshotFailed says that a VolumeSnapshot isn't ready and has an error.
	ReasonSnapshotFailed = "SnapshotFailed"
	// ReasonSnapshotDeleting says that a VolumeSnapshot is being deleted.
	ReasonSnapshotDeleting = "SnapshotDeleting"
	// ReasonSnapshotsUnsupported says that the cluster has no VolumeSnapshots, or that
	// the operator may not get them.
	ReasonSnapshotsUnsupported = "SnapshotsUnsupported"
	// ReasonInvalidVolume says that a volume's description doesn't fit its claim or
	// snapshot, another volume of the export, or one of the template.
	ReasonInvalidVolume = "InvalidVolume"
	// ReasonInvalidCondition says that an exit condition can't be watched, such as one
	// with a selector that is none, or on an object that the operator may not get.
	ReasonInvalidCondition = "InvalidCondition"
	// ReasonTLSSecretNotFound says that the Secret of tls.secretRef doesn't exist.
	ReasonTLSSecretNotFound = "TLSSecretNotFound"
	// ReasonTLSSecretInvalid says that the Secret of tls.secretRef, or that of the
	// namespace's authority, isn't what it has to be.
	ReasonTLSSecretInvalid = "TLSSecretInvalid"
	// ReasonReadWriteOncePodClaimed says that another pod holds a claim that only
	// one pod may hold.
	ReasonReadWriteOncePodClaimed = "ReadWriteOncePodClaimed"
	// ReasonVolumeInUse says that a ReadWriteOnce claim is in use on a node where
	// the export's pod can't run or doesn't yet, or that another export uses a claim
	// and one of the two writes it.
	ReasonVolumeInUse = "VolumeInUse"
	// ReasonUnschedulable says that no node takes the pod.
	ReasonUnschedulable = "Unschedulable"
	// ReasonPodRejected says that the API server refused the pod or the Service:
	// a quota, an admission policy or something invalid in the template.
	ReasonPodRejected = "PodRejected"
	// ReasonServiceMissing says that the server runs, but that its Service is gone and
	// couldn't be made again: clients can't connect.
	ReasonServiceMissing = "ServiceMissing"
	// ReasonImagePullFailed says that an image of the pod can't be had.
	ReasonImagePullFailed = "ImagePullFailed"
	// ReasonContainerFailed says that a container of the pod can't be created or
	// started, or that an extra one keeps ending.
	ReasonContainerFailed = "ContainerFailed"
	// ReasonServerFailed says that the server started and ended with an error.
	ReasonServerFailed = "ServerFailed"
	// ReasonDeviceAccessDenied says that the server may not open a Block claim's
	// device, because the node doesn't give devices to the pod's user.
	ReasonDeviceAccessDenied = "DeviceAccessDenied"
	// ReasonNodeUnreachable says that the pod's node isn't ready: its server may be
	// running or not, nobody knows.
	ReasonNodeUnreachable = "NodeUnreachable"
	// ReasonPodOverdue says that the pod is still there although the time is over in
	// which its processes had to end, or were to be killed.
	ReasonPodOverdue = "PodOverdue"
)

// Reasons of the conditions Complete and Failed.
const (
	// ReasonNotEnded is the reason of Complete=False and Failed=False.
	ReasonNotEnded = "NotEnded"
	// ReasonDrained says that the end was clean.
	ReasonDrained = "Drained"
	// ReasonNeverStarted says that a condition was met before anything was
	// served: there was no pod, or its server had never come so far.
	ReasonNeverStarted = "NeverStarted"
	// ReasonClientsCutOff says that clients were still connected at the drain's
	// timeout and were cut off.
	ReasonClientsCutOff = "ClientsCutOff"
	// ReasonFlushFailed says that what clients have written may not be on stable
	// storage.
	ReasonFlushFailed = "FlushFailed"
	// ReasonServerKilled says that the server ended in its drain without a report
	// and with an error.
	ReasonServerKilled = "ServerKilled"
	// ReasonReportLost says that the pod is gone and left no report: whether the
	// end was clean isn't known.
	ReasonReportLost = "ReportLost"
	// ReasonScratchLost says that the server of a CopyOnWrite volume ended without an
	// exit condition, and with it what clients have changed.
	ReasonScratchLost = "ScratchLost"
)

// Reasons of the condition Degraded.
const (
	// ReasonScratchFull says that the scratch of a CopyOnWrite volume has no room
	// left: what clients write there fails with ENOSPC.
	ReasonScratchFull = "ScratchFull"
	// ReasonScratchFreed is the reason of Degraded=False: every scratch has room
	// again.
	ReasonScratchFreed = "ScratchFreed"
)

// Reasons in status.exit, one for each kind of exit condition.
const (
	// ExitPodDeleted is the reason of podDeleted.
	ExitPodDeleted = "PodDeleted"
	// ExitFileCreated is the reason of fileCreated.
	ExitFileCreated = "FileCreated"
	// ExitFileDeleted is the reason of fileDeleted.
	ExitFileDeleted = "FileDeleted"
	// ExitPipeClosed is the reason of pipeClosed.
	ExitPipeClosed = "PipeClosed"
	// ExitProcessExited is the reason of processExited.
	ExitProcessExited = "ProcessExited"
	// ExitScript is the reason of script.
	ExitScript = "Script"
	// ExitLastClientLeft is the reason of lastClientLeft.
	ExitLastClientLeft = "LastClientLeft"
	// ExitIdle is the reason of idle.
	ExitIdle = "Idle"
	// ExitDeadline is the reason of deadline.
	ExitDeadline = "Deadline"
	// ExitObjectCondition is the reason of objectCondition.
	ExitObjectCondition = "ObjectCondition"
	// ExitDrainRequested says that a drain was asked for at the control socket.
	ExitDrainRequested = "DrainRequested"
	// ExitScratchLost says that there was no condition: the server of a CopyOnWrite
	// volume ended, which can't go on with another one.
	ExitScratchLost = "ScratchLost"
	// ExitOther says that the server named a condition that this version of the
	// operator doesn't know.
	ExitOther = "Other"
)

// Reasons of Events that are no reasons of a condition.
const (
	// EventExitConditionMet says which condition ends the export.
	EventExitConditionMet = "ExitConditionMet"
)

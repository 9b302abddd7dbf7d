package desired

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

const (
	// ServerContainer is the name of the container with the server in it.
	ServerContainer = "nbdserver"

	// graceMargin is what the server gets beyond its own deadline, in seconds, to
	// flush, report and end before the kubelet would kill it.
	graceMargin = 15
)

// Facts are what a pod depends on beside its export.
type Facts struct {
	// Image is the image of the server.
	Image string
	// Modes are the volume modes of the claims, by the claim's name.
	Modes map[string]corev1.PersistentVolumeMode
	// Node is the only node where the claims can be mounted; empty if there is no
	// such limit.
	Node string
	// Tolerations are what it takes to run on that node.
	Tolerations []corev1.Toleration
}

// Pod is the pod that serves an export. The error is about the template.
func Pod(e *v1alpha1.NBDExport, f Facts) (*corev1ac.PodApplyConfiguration, error) {
	sidecars, err := sidecars(e.Spec.GetTemplate().Containers)
	if err != nil {
		return nil, err
	}
	volumes, mounts, devices, err := volumes(e, f.Modes)
	if err != nil {
		return nil, err
	}
	tolerations, err := tolerations(e, f)
	if err != nil {
		return nil, err
	}
	affinity, err := affinity(e, f)
	if err != nil {
		return nil, err
	}
	server, err := server(e, f)
	if err != nil {
		return nil, err
	}
	server.WithVolumeMounts(mounts...).WithVolumeDevices(devices...)

	spec := corev1ac.PodSpec().
		WithRestartPolicy(restartPolicy(e)).
		WithTerminationGracePeriodSeconds(int64(e.Spec.Drain.GetTimeoutSeconds()) + graceMargin).
		WithAutomountServiceAccountToken(false).
		WithEnableServiceLinks(false).
		WithSecurityContext(securityContext(e.Spec.GetTemplate().SecurityContext)).
		WithInitContainers(sidecars...).
		WithContainers(server).
		WithVolumes(volumes...).
		WithTolerations(tolerations...)
	if len(e.Spec.GetTemplate().NodeSelector) > 0 {
		spec.WithNodeSelector(e.Spec.GetTemplate().NodeSelector)
	}
	if affinity != nil {
		spec.WithAffinity(affinity)
	}
	if name := e.Spec.GetTemplate().PriorityClassName; name != nil {
		spec.WithPriorityClassName(*name)
	}
	for _, s := range e.Spec.GetTemplate().ImagePullSecrets {
		spec.WithImagePullSecrets(corev1ac.LocalObjectReference().WithName(s.Name))
	}
	if sharesProcesses(e) {
		spec.WithShareProcessNamespace(true)
	}
	return corev1ac.Pod(ChildName(e.Name), e.Namespace).
		WithLabels(podLabels(e)).
		WithAnnotations(podAnnotations(e, f)).
		WithFinalizers(v1alpha1.FinalizerReport).
		WithOwnerReferences(owner(e)).
		WithSpec(spec), nil
}

// server is the container with the server in it.
//
// It has a readiness probe only. A liveness probe would turn a server that is
// slow, because its storage is, into one that ends all its sessions: the kubelet
// asks with SIGTERM, which means drain. A server that can't start ends by
// itself, so a startup probe has nothing to find out.
func server(e *v1alpha1.NBDExport, f Facts) (*corev1ac.ContainerApplyConfiguration, error) {
	resources, err := resources(e)
	if err != nil {
		return nil, err
	}
	return corev1ac.Container().
		WithName(ServerContainer).
		WithImage(f.Image).
		WithCommand("/nbdserver").
		WithArgs(literal(args(e, f.Modes))...).
		WithPorts(
			corev1ac.ContainerPort().WithName("nbd").WithContainerPort(NBDPort).WithProtocol(corev1.ProtocolTCP),
			corev1ac.ContainerPort().WithName("http").WithContainerPort(HTTPPort).WithProtocol(corev1.ProtocolTCP)).
		WithReadinessProbe(corev1ac.Probe().
			WithHTTPGet(corev1ac.HTTPGetAction().WithPath("/readyz").WithPort(intstr.FromInt32(HTTPPort))).
			WithPeriodSeconds(1).
			WithTimeoutSeconds(2).
			WithFailureThreshold(2)).
		WithTerminationMessagePath(corev1.TerminationMessagePathDefault).
		WithTerminationMessagePolicy(corev1.TerminationMessageFallbackToLogsOnError).
		WithSecurityContext(restricted().WithReadOnlyRootFilesystem(true)).
		WithResources(resources), nil
}

// resources are those of the template, or else what a server needs for sure, and
// room for the scratches.
func resources(e *v1alpha1.NBDExport) (*corev1ac.ResourceRequirementsApplyConfiguration, error) {
	out := leastResources(e)
	if r := e.Spec.GetTemplate().Resources; r != nil {
		var err error
		if out, err = convert[corev1ac.ResourceRequirementsApplyConfiguration](r); err != nil {
			return nil, err
		}
	}
	if CopiesOnWrite(e) {
		requestScratch(e, out)
	}
	return out, nil
}

func leastResources(e *v1alpha1.NBDExport) *corev1ac.ResourceRequirementsApplyConfiguration {
	memory := resource.MustParse("64Mi")
	for _, v := range e.Spec.Volumes {
		if m := v.Source.Memory; m != nil && v.GetAccess() != v1alpha1.CopyOnWrite {
			memory.Add(m.GetSize())
		}
	}
	return corev1ac.ResourceRequirements().WithRequests(corev1.ResourceList{
		corev1.ResourceCPU:    resource.MustParse("50m"),
		corev1.ResourceMemory: memory,
	})
}

// restricted is what the Pod Security Standard "restricted" asks of a container
// beyond what it asks of the pod.
func restricted() *corev1ac.SecurityContextApplyConfiguration {
	return corev1ac.SecurityContext().
		WithAllowPrivilegeEscalation(false).
		WithCapabilities(corev1ac.Capabilities().WithDrop("ALL"))
}

// tolerations are those of the template and of the pods that hold the claims.
func tolerations(e *v1alpha1.NBDExport, f Facts) ([]*corev1ac.TolerationApplyConfiguration, error) {
	all := append(append([]corev1.Toleration{}, e.Spec.GetTemplate().Tolerations...), f.Tolerations...)
	var out []*corev1ac.TolerationApplyConfiguration
	for i := range all {
		seen := false
		for j := range i {
			seen = seen || all[j].MatchToleration(&all[i])
		}
		if seen {
			continue
		}
		t, err := convert[corev1ac.TolerationApplyConfiguration](all[i])
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/jsonpath"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// objects reads what tests look at again and again. kubectl would take a tenth of a
// second of a CPU each time.
var objects = sync.OnceValues(func() (dynamic.Interface, error) {
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(clientcmd.NewDefaultClientConfigLoadingRules(), nil).ClientConfig()
	if err != nil {
		return nil, err
	}
	config.QPS = -1 // without a limit
	return dynamic.NewForConfig(config)
})

// kinds are the objects that read knows.
var kinds = map[string]schema.GroupVersionResource{
	"configmap":      {Version: "v1", Resource: "configmaps"},
	"nbdexport":      v1alpha1.GroupVersion.WithResource("nbdexports"),
	"pod":            {Version: "v1", Resource: "pods"},
	"pvc":            {Version: "v1", Resource: "persistentvolumeclaims"},
	"secret":         {Version: "v1", Resource: "secrets"},
	"service":        {Version: "v1", Resource: "services"},
	"serviceaccount": {Version: "v1", Resource: "serviceaccounts"},
}

// tryRead is what "kubectl get KIND NAME -o jsonpath=TEMPLATE" prints.
func (n *namespace) tryRead(kind, name, template string) (string, error) {
	all, err := objects()
	if err != nil {
		return "", err
	}
	resource, known := kinds[kind]
	if !known {
		return "", fmt.Errorf("read doesn't know objects of kind %s", kind)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	o, err := all.Resource(resource).Namespace(n.name).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	p := jsonpath.New(kind).AllowMissingKeys(true)
	if err := p.Parse(template); err != nil {
		return "", err
	}
	var out strings.Builder
	err = p.Execute(&out, o.Object)
	return out.String(), err
}

// read is tryRead; it must succeed.
func (n *namespace) read(kind, name, template string) string {
	n.Helper()
	out, err := n.tryRead(kind, name, template)
	if err != nil {
		n.Fatalf("get %s %s: %v", kind, name, err)
	}
	return out
}

// uid identifies an object.
func (n *namespace) uid(kind, name string) string {
	n.Helper()
	return n.read(kind, name, "{.metadata.uid}")
}

// field reads a field of an export, by JSONPath without its braces.
func (n *namespace) field(export, path string) string {
	n.Helper()
	return n.read("nbdexport", export, "{"+path+"}")
}

// condition is the path of a field of one of an export's conditions.
func condition(name, field string) string {
	return `.status.conditions[?(@.type=="` + name + `")].` + field
}

// reason is the reason of one of an export's conditions.
func (n *namespace) reason(export, name string) string {
	n.Helper()
	return n.field(export, condition(name, "reason"))
}

// await waits until an export's condition has a status, "True" or "False".
func (n *namespace) await(export, name, status string) {
	n.Helper()
	n.eventually(export+" is "+name+"="+status, func() bool {
		got, err := n.tryRead("nbdexport", export, "{"+condition(name, "status")+"}")
		return err == nil && got == status
	})
}

// says waits until the condition Ready of an export is false for a reason, with a
// message that has words in it, and returns the message.
func (n *namespace) says(export, reason string, words ...string) string {
	n.Helper()
	message := ""
	n.eventually(export+" says "+reason+": ... "+strings.Join(words, " ... "), func() bool {
		out, err := n.tryRead("nbdexport", export, fmt.Sprintf("{%s} {%s} {%s}",
			condition("Ready", "status"), condition("Ready", "reason"), condition("Ready", "message")))
		var is bool
		if message, is = strings.CutPrefix(out, "False "+reason+" "); err != nil || !is {
			return false
		}
		for _, w := range words {
			if !strings.Contains(message, w) {
				return false
			}
		}
		return true
	})
	n.Logf("%s: %s: %s", export, reason, message)
	return message
}

// expect checks fields of an export.
func (n *namespace) expect(export string, want map[string]string) {
	n.Helper()
	for path, w := range want {
		if got := n.field(export, path); got != w {
			n.Errorf("%s of %s is %q, not %q", path, export, got, w)
		}
	}
}

// node is the node on which an export is served.
func (n *namespace) node(export string) string {
	n.Helper()
	return n.read("pod", n.field(export, ".status.podName"), "{.spec.nodeName}")
}

// restarts is how often a pod's server was started again.
func (n *namespace) restarts(pod string) string {
	n.Helper()
	return n.read("pod", pod, "{.status.containerStatuses[0].restartCount}")
}

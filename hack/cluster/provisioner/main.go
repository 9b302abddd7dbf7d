// Command provisioner makes the volumes of the test cluster's StorageClass. It
// runs on the machine, beside the control plane, and writes into the folders
// that the nodes see as /var/lib/kubelet.
//
//	provisioner -kubeconfig FILE -run $NBDEXPORT_RUN
package main

import (
	"context"
	"flag"
	"os/signal"
	"syscall"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

const provisionerName = "nbdexport.io/local-test"

func main() {
	kubeconfig := flag.String("kubeconfig", "", "kubeconfig of the cluster")
	run := flag.String("run", "", "state folder of the cluster")
	flag.Parse()

	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		klog.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		klog.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	controller.NewProvisionController(ctx, client, provisionerName, provisioner{run: *run},
		controller.LeaderElection(false)).Run(ctx)
}

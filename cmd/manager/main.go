// Command manager is the operator: it serves the NBDExports of a cluster.
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/metrics/filters"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers"
	"github.com/nbdexport/nbdexport/controllers/serverstatus"
)

// version is set when the program is built.
var version = "dev"

func main() {
	cmd := command(os.Getenv, func(ctx context.Context, o options) error {
		log, err := logger(os.Stderr, o.logFormat, o.logLevel)
		if err != nil {
			return err
		}
		config, err := ctrl.GetConfig()
		if err != nil {
			return fmt.Errorf("no way to the API server: run in a pod, or set KUBECONFIG: %w", err)
		}
		return run(ctx, log, config, o)
	})
	if err := cmd.ExecuteContext(ctrl.SetupSignalHandler()); err != nil {
		fmt.Fprintln(os.Stderr, "manager:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	metricsAddress string
	metricsSecure  bool
	probeAddress   string
	leaderElect    bool
	leaseNamespace string
	serverImage    string
	namespaces     []string
	logFormat      string
	logLevel       string
}

// command is the command line. What its flags say goes to start.
func command(getenv func(string) string, start func(context.Context, options) error) *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:           "manager",
		Short:         "Serve the NBDExports of a cluster",
		Args:          cobra.NoArgs,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.serverImage == "" {
				return fmt.Errorf("--server-image or the variable NBDEXPORT_IMAGE has to name the image of the export pods")
			}
			for _, n := range o.namespaces {
				if len(validation.IsDNS1123Label(n)) > 0 {
					return fmt.Errorf("--namespaces: %q is no name of a namespace: write names with commas between them, or leave the flag out for all namespaces", n)
				}
			}
			return start(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.metricsAddress, "metrics-bind-address", "0", "where metrics are shown, such as :8443; 0 is nowhere")
	f.BoolVar(&o.metricsSecure, "metrics-secure", true, "show metrics by HTTPS and only to those whom the API server allows to read /metrics")
	f.StringVar(&o.probeAddress, "health-probe-bind-address", ":8081", "where /healthz and /readyz answer; 0 is nowhere")
	f.BoolVar(&o.leaderElect, "leader-elect", false, "work only while no other manager does")
	f.StringVar(&o.leaseNamespace, "leader-election-namespace", "", "where the lease of the working manager is kept, by default the manager's own namespace")
	f.StringVar(&o.serverImage, "server-image", getenv("NBDEXPORT_IMAGE"), "the image of the export pods, by default the variable NBDEXPORT_IMAGE")
	f.StringSliceVar(&o.namespaces, "namespaces", nil, "the namespaces whose exports are served, with commas between them, by default all")
	f.StringVar(&o.logFormat, "log-format", "json", "json or console")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	return cmd
}

// cacheOptions are what the operator watches: in these namespaces only, if there
// are any, so that its rights may end there too.
func cacheOptions(namespaces []string) cache.Options {
	opts := controllers.CacheOptions()
	for _, n := range namespaces {
		if opts.DefaultNamespaces == nil {
			opts.DefaultNamespaces = map[string]cache.Config{}
		}
		opts.DefaultNamespaces[n] = cache.Config{}
	}
	return opts
}

// run is the operator until the context ends. Its end touches no export: their
// pods go on without it.
func run(ctx context.Context, log logr.Logger, config *rest.Config, o options) error {
	ctrl.SetLogger(log)
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	page := metricsserver.Options{BindAddress: o.metricsAddress, SecureServing: o.metricsSecure}
	if o.metricsSecure {
		page.FilterProvider = filters.WithAuthenticationAndAuthorization
		// HTTP/2 has more ways to be flooded than a scraper has use for.
		page.TLSOpts = []func(*tls.Config){func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }}
	}
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:                 scheme,
		Logger:                 log,
		Cache:                  cacheOptions(o.namespaces),
		Metrics:                page,
		HealthProbeBindAddress: o.probeAddress,
		LeaderElection:         o.leaderElect,
		LeaderElectionID:       "nbdexport-manager",

		LeaderElectionNamespace: o.leaseNamespace,
		// The process ends right after the manager: the lease can go at once.
		LeaderElectionReleaseOnCancel: true,
	})
	if err != nil {
		return err
	}
	own := controllers.NewMetrics(version, mgr.GetClient(), mgr.Elected())
	if err := metrics.Registry.Register(own); err != nil {
		return err
	}
	r := &controllers.Reconciler{
		Client:   mgr.GetClient(),
		Live:     mgr.GetAPIReader(),
		Recorder: mgr.GetEventRecorder("nbdexport"),
		Image:    o.serverImage,
		Servers:  serverstatus.New(serverstatus.HTTP()),
		Metrics:  own,
		Clock:    clock.RealClock{},
	}
	if err := r.SetupWithManager(ctx, mgr, controller.Options{MaxConcurrentReconciles: 4}); err != nil {
		return err
	}
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return err
	}
	if err := mgr.AddReadyzCheck("ping", healthz.Ping); err != nil {
		return err
	}
	return mgr.Start(ctx)
}

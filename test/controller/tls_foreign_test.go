package controller_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// TestTLSForeignSecretsUnread finds Secrets of somebody else under its names, and asks
// for nothing but their metadata: what is in them never leaves the API server.
func TestTLSForeignSecretsUnread(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	asked := map[string]map[bool]int{} // by name, and whether for metadata only
	config := rest.CopyConfig(operator)
	config.Wrap(func(rt http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if _, name, ok := strings.Cut(r.URL.Path, "/secrets/"); ok && r.Method == http.MethodGet {
				mu.Lock()
				if asked[name] == nil {
					asked[name] = map[bool]int{}
				}
				asked[name][strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadata")]++
				mu.Unlock()
			}
			return rt.RoundTrip(r)
		})
	})
	w := &world{T: t, ns: namespace(t), config: config}
	names := []string{"nbdexport-ca", "nbd-e-server", "nbd-e-client"}
	for _, name := range names {
		w.must(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name}, StringData: map[string]string{"password": "x"}})
	}
	w.start()
	t.Cleanup(func() { w.stop() })
	w.export("e", secured)
	w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonNameTaken)
	w.noPod()
	mu.Lock()
	defer mu.Unlock()
	for _, name := range names {
		if asked[name][true] == 0 || asked[name][false] > 0 {
			t.Errorf("the Secret %s of somebody else was read %d times, and its metadata %d times", name, asked[name][false], asked[name][true])
		}
	}
}

package controllers

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

var descCertificateExpiry = prometheus.NewDesc("nbdexport_certificate_expiry_timestamp_seconds",
	"Unix time at which a certificate that the operator has issued expires: the earliest, by kind: ca, server or client.",
	[]string{"kind"}, nil)

// certificateKinds are the keys of Secrets that hold certificates.
var certificateKinds = map[string]string{"ca-cert.pem": "ca", "server-cert.pem": "server", "client-cert.pem": "client"}

// certificateExpiry is the collector that CertificateExpiry returns.
type certificateExpiry struct {
	cache   client.Reader
	leading <-chan struct{}

	mu sync.Mutex
	// parsed are the Secrets of the last time.
	parsed map[types.UID]parsedSecret
}

// parsedSecret is what was found in a version of a Secret.
type parsedSecret struct {
	version string
	expiry  map[string]time.Time // by kind
}

// CertificateExpiry collects when certificates expire that are in Secrets of a cache, which must
// have the operator's own only, but for those of exports that have ended. As with NewMetrics it is the leader who tells.
func CertificateExpiry(cache client.Reader, leading <-chan struct{}) prometheus.Collector {
	return &certificateExpiry{cache: cache, leading: leading}
}

// Describe implements prometheus.Collector.
func (c *certificateExpiry) Describe(ch chan<- *prometheus.Desc) { ch <- descCertificateExpiry }

// Collect implements prometheus.Collector.
func (c *certificateExpiry) Collect(ch chan<- prometheus.Metric) {
	select {
	case <-c.leading:
	default:
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var list corev1.SecretList
	if err := c.cache.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		ctrl.Log.Error(err, "can't look at the certificates for the metrics")
		return
	}
	ended, err := c.ended(ctx)
	if err != nil {
		ctrl.Log.Error(err, "can't look at the exports for the metrics of certificates")
		return
	}
	for kind, at := range c.earliest(slices.DeleteFunc(list.Items, ended)) {
		ch <- prometheus.MustNewConstMetric(descCertificateExpiry, prometheus.GaugeValue, float64(at.Unix()), kind)
	}
}

// ended tells of Secrets whether their export has ended: those nobody renews, nor
// needs.
func (c *certificateExpiry) ended(ctx context.Context) (func(corev1.Secret) bool, error) {
	var list v1alpha1.NBDExportList
	if err := c.cache.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	over := map[types.UID]bool{}
	for i := range list.Items {
		over[list.Items[i].UID] = isComplete(&list.Items[i])
	}
	return func(s corev1.Secret) bool {
		ref := metav1.GetControllerOfNoCopy(&s)
		return ref != nil && over[ref.UID]
	}, nil
}

// earliest finds when the first certificate of each kind expires. It parses only those
// Secrets that have changed since the last time: thousands would take longer than the
// rest of the page.
func (c *certificateExpiry) earliest(secrets []corev1.Secret) map[string]time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	out, parsed := map[string]time.Time{}, make(map[types.UID]parsedSecret, len(secrets))
	for i := range secrets {
		s := &secrets[i]
		p, known := c.parsed[s.UID]
		if !known || p.version != s.ResourceVersion {
			p = parsedSecret{s.ResourceVersion, expiries(s)}
		}
		parsed[s.UID] = p
		for kind, at := range p.expiry {
			if first, known := out[kind]; !known || at.Before(first) {
				out[kind] = at
			}
		}
	}
	c.parsed = parsed
	return out
}

// expiries is when the certificates in a Secret expire, by kind.
func expiries(s *corev1.Secret) map[string]time.Time {
	out := map[string]time.Time{}
	for key, kind := range certificateKinds {
		if at, ok := expiry(s.Data[key]); ok {
			out[kind] = at
		}
	}
	return out
}

// expiry is when the certificates of a PEM file are of no use any more: of several, such as
// an authority with the one before it, the one that lasts longest counts. It is false for a
// file without any.
func expiry(text []byte) (last time.Time, ok bool) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return last, ok
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil && cert.NotAfter.After(last) {
			last, ok = cert.NotAfter, true
		}
	}
}

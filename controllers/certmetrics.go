package controllers

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

var descCertificateExpiry = prometheus.NewDesc("nbdexport_certificate_expiry_timestamp_seconds",
	"Unix time at which a certificate that the operator has issued expires: the earliest, by kind: ca, server or client.",
	[]string{"kind"}, nil)

// certificateKinds are the keys of Secrets that hold certificates.
var certificateKinds = map[string]string{"ca-cert.pem": "ca", "server-cert.pem": "server", "client-cert.pem": "client"}

// certificateExpiry is the collector that CertificateExpiry returns.
type certificateExpiry struct {
	secrets client.Reader
	leading <-chan struct{}
}

// CertificateExpiry collects when certificates expire that are in Secrets of a cache, which must
// have the operator's own only. As with NewMetrics it is the leader who tells.
func CertificateExpiry(secrets client.Reader, leading <-chan struct{}) prometheus.Collector {
	return certificateExpiry{secrets, leading}
}

// Describe implements prometheus.Collector.
func (c certificateExpiry) Describe(ch chan<- *prometheus.Desc) { ch <- descCertificateExpiry }

// Collect implements prometheus.Collector.
func (c certificateExpiry) Collect(ch chan<- prometheus.Metric) {
	select {
	case <-c.leading:
	default:
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var list corev1.SecretList
	if err := c.secrets.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		ctrl.Log.Error(err, "can't look at the certificates for the metrics")
		return
	}
	for kind, at := range earliest(list.Items) {
		ch <- prometheus.MustNewConstMetric(descCertificateExpiry, prometheus.GaugeValue, float64(at.Unix()), kind)
	}
}

// earliest finds when the first certificate of each kind expires.
func earliest(secrets []corev1.Secret) map[string]time.Time {
	out := map[string]time.Time{}
	for i := range secrets {
		for key, kind := range certificateKinds {
			at, ok := expiry(secrets[i].Data[key])
			if first, known := out[kind]; ok && (!known || at.Before(first)) {
				out[kind] = at
			}
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

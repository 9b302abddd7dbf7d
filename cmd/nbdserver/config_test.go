package main

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver"
)

func TestParseConfig(t *testing.T) {
	base := nbdserver.Limits{
		MaxConnections: 256, HandshakeTimeout: 10 * time.Second, Deny: []string{"all"},
		Rate: nbdserver.Rate{BytesPerSecond: 5, Burst: 1 << 20}, MaxMemory: 512 << 20,
	}
	// Nothing in the file is nothing changed.
	for _, in := range []string{"", "# nothing\n", "{}", "null", "maxConnections: null", "volumes:", "---\n"} {
		got, err := parseConfig([]byte(in), base)
		if got.Exports = nil; err != nil || !reflect.DeepEqual(got, base) {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
	got, err := parseConfig([]byte(`
maxConnections: 7
maxConnectionsPerClient: 3
handshakeTimeout: 1m30s
allow: [192.0.2.0/24, "::1"]
deny: []
rate: {bytesPerSecond: 10M}
connectionRate: {bytesPerSecond: 1048576, burst: 64K}
maxMemory: 1G
maxConnectionMemory: 33554432
volumes:
  disk:
    maxConnections: 1
    allow: [allunix]
    deny: [all]
    rate: {bytesPerSecond: 1M, burst: 2M}
  "two words": {}
  none:
`), base)
	want := nbdserver.Limits{
		MaxConnections: 7, MaxConnectionsPerClient: 3, HandshakeTimeout: 90 * time.Second,
		Allow: []string{"192.0.2.0/24", "::1"}, Deny: []string{},
		Rate: nbdserver.Rate{BytesPerSecond: 10 << 20}, ConnectionRate: nbdserver.Rate{BytesPerSecond: 1 << 20, Burst: 64 << 10},
		MaxMemory: 1 << 30, MaxConnectionMemory: 32 << 20,
		Exports: map[string]nbdserver.ExportLimits{
			"disk": {
				MaxConnections: 1, Allow: []string{"allunix"}, Deny: []string{"all"},
				Rate: nbdserver.Rate{BytesPerSecond: 1 << 20, Burst: 2 << 20},
			},
			"two words": {}, "none": {},
		},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	// A flag's limit can be taken away.
	if got, err := parseConfig([]byte("rate: {bytesPerSecond: 0}"), base); err != nil || got.Rate != (nbdserver.Rate{}) {
		t.Errorf("%+v, %v", got.Rate, err)
	}
}

func TestParseConfigRefuses(t *testing.T) {
	for in, why := range map[string]string{
		"maxConnection: 7":  `unknown key "maxConnection": there are allow, connectionRate,`,
		"MaxConnections: 7": `unknown key "MaxConnections"`,
		"maxConnections: 7\ndeny: []\nmaxConnections: 8": `line 3: key "maxConnections" already set`,
		"volumes:\n  a: {}\n  a: {}":                     `line 3: key "a" already set`,
		"volumes: {disk: {maxMemory: 1G}}":               `volumes: "disk": unknown key "maxMemory"`,
		"volumes: {disk: {rate: {burts: 1}}}":            `volumes: "disk": rate: unknown key "burts": there are burst, bytesPerSecond`,
		"volumes: [disk]":                                `volumes: ["disk"] is not a mapping`,
		"volumes: {disk: 7}":                             `volumes: "disk": 7 is not a mapping`,
		"[]":                                             "[] is not a mapping",
		"hello":                                          `"hello" is not a mapping`,
		"a: [":                                           "yaml: line 1",
		"maxConnections: 0":                              "maxConnections: 0 is too small: write 1 or more",
		"maxConnections: -1":                             "maxConnections: -1 is too small",
		"maxConnections: many":                           `maxConnections: "many" is not a number`,
		"maxConnections: 1.5":                            "maxConnections: 1.5 is not a number",
		"maxConnections: 99999999999999999999":           "maxConnections: 100000000000000000000 is not a number",
		"maxConnectionsPerClient: -1":                    "maxConnectionsPerClient: -1 is too small: write 0 or more",
		"handshakeTimeout: 10":                           "handshakeTimeout: 10 is no duration",
		"handshakeTimeout: 0s":                           `handshakeTimeout: "0s" is no duration`,
		"handshakeTimeout: soon":                         `handshakeTimeout: "soon" is no duration`,
		"allow: 192.0.2.1":                               `allow: "192.0.2.1" is not a list of addresses`,
		"deny: [1]":                                      "deny: [1] is not a list of addresses",
		"rate: 10M":                                      `rate: "10M" is no rate: write one like {bytesPerSecond: 10M`,
		"rate: {bytesPerSecond: fast}":                   `rate: bytesPerSecond: "fast" is no size`,
		"rate: {bytesPerSecond: -1}":                     `rate: bytesPerSecond: "-1" is no size`,
		"rate: {burst: 1M}":                              "rate: a burst goes with bytesPerSecond",
		"maxMemory: 0":                                   `maxMemory: "0" is no size`,
		"maxMemory: {}":                                  `maxMemory: "{}" is no size`,
	} {
		if l, err := parseConfig([]byte(in), defaultLimits); err == nil || !strings.Contains(oneLine(err), why) {
			t.Errorf("%q: %+v, %v; want an error with %s", in, l, err, why)
		}
	}
}

// FuzzParseConfig checks what holds for every file that is accepted: a server
// can be given it, or says what is wrong, and it means the same twice.
func FuzzParseConfig(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := parseConfig(b, defaultLimits)
		again, err2 := parseConfig(b, defaultLimits)
		if (err == nil) != (err2 == nil) || !reflect.DeepEqual(l, again) {
			t.Fatalf("%+v, %v and then %+v, %v", l, err, again, err2)
		}
		if err != nil {
			return
		}
		if l.MaxConnections < 1 || l.MaxConnectionsPerClient < 0 || l.HandshakeTimeout <= 0 || l.MaxMemory < 1 || l.Rate.BytesPerSecond < 0 {
			t.Errorf("%+v", l)
		}
		if err := new(nbdserver.Server).SetLimits(l); err != nil && !strings.Contains(err.Error(), ": ") {
			t.Errorf("an error that doesn't name its field: %v", err)
		}
	})
}

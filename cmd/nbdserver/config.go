package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/nbdexport/nbdexport/nbdserver"
)

// parseConfig reads the content of a configuration file: YAML that replaces some
// of the limits of base. An error names the key that it is about.
func parseConfig(b []byte, base nbdserver.Limits) (nbdserver.Limits, error) {
	l := base
	j, err := yaml.YAMLToJSONStrict(b)
	if err != nil {
		return l, err // has the line
	}
	if bytes.Equal(j, []byte("null")) { // an empty file
		return l, nil
	}
	var volumes map[string]json.RawMessage
	err = readObject(j, map[string]func([]byte) error{
		"maxConnections":          number(&l.MaxConnections, 1),
		"maxConnectionsPerClient": number(&l.MaxConnectionsPerClient, 0),
		"handshakeTimeout":        duration(&l.HandshakeTimeout),
		"allow":                   addresses(&l.Allow),
		"deny":                    addresses(&l.Deny),
		"rate":                    rate(&l.Rate),
		"connectionRate":          rate(&l.ConnectionRate),
		"maxMemory":               size(&l.MaxMemory, 1),
		"maxConnectionMemory":     size(&l.MaxConnectionMemory, 1),
		"volumes":                 func(b []byte) error { return as(b, &volumes, "a mapping from the names of volumes") },
	})
	if err != nil {
		return base, err
	}
	l.Exports = map[string]nbdserver.ExportLimits{}
	for _, name := range slices.Sorted(maps.Keys(volumes)) {
		var e nbdserver.ExportLimits
		err := readObject(volumes[name], map[string]func([]byte) error{
			"maxConnections": number(&e.MaxConnections, 1),
			"allow":          addresses(&e.Allow),
			"deny":           addresses(&e.Deny),
			"rate":           rate(&e.Rate),
		})
		if err != nil {
			return base, fmt.Errorf("volumes: %q: %w", name, err)
		}
		l.Exports[name] = e
	}
	return l, nil
}

// readObject reads a mapping of which all keys are known. A value that is null is
// as good as none. encoding/json alone would ignore the case of keys, and so let
// one in twice.
func readObject(b []byte, keys map[string]func([]byte) error) error {
	var values map[string]json.RawMessage
	if err := as(b, &values, "a mapping"); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		read, ok := keys[key]
		if !ok {
			return fmt.Errorf("unknown key %q: there are %s", key, strings.Join(slices.Sorted(maps.Keys(keys)), ", "))
		}
		if v := values[key]; !bytes.Equal(v, []byte("null")) {
			if err := read(v); err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
		}
	}
	return nil
}

// as reads a value that has to be of the type of to.
func as(b []byte, to any, what string) error {
	if err := json.Unmarshal(b, to); err != nil {
		return fmt.Errorf("%.100s is not %s", b, what)
	}
	return nil
}

func number(to *int, least int) func([]byte) error {
	return func(b []byte) error {
		if err := as(b, to, "a number"); err != nil {
			return err
		}
		if *to < least {
			return fmt.Errorf("%d is too small: write %d or more", *to, least)
		}
		return nil
	}
}

func duration(to *time.Duration) func([]byte) error {
	return func(b []byte) error {
		var s string
		err := json.Unmarshal(b, &s)
		if err == nil {
			*to, err = time.ParseDuration(s)
		}
		if err != nil || *to <= 0 {
			return fmt.Errorf("%.100s is no duration: write one like 10s", b)
		}
		return nil
	}
}

func addresses(to *[]string) func([]byte) error {
	return func(b []byte) error {
		*to = nil
		return as(b, to, "a list of addresses")
	}
}

// size reads a number of bytes, plain or with a unit.
func size(to *int64, least int64) func([]byte) error {
	return func(b []byte) error {
		if json.Unmarshal(b, to) == nil && *to >= least {
			return nil
		}
		var s string
		if json.Unmarshal(b, &s) != nil {
			s = string(b)
		}
		n, err := parseSize(s)
		*to = int64(n)
		return err
	}
}

func rate(to *nbdserver.Rate) func([]byte) error {
	return func(b []byte) error {
		*to = nbdserver.Rate{}
		if b[0] != '{' {
			return fmt.Errorf("%.100s is no rate: write one like {bytesPerSecond: 10M, burst: 64M}", b)
		}
		err := readObject(b, map[string]func([]byte) error{
			"bytesPerSecond": size(&to.BytesPerSecond, 0),
			"burst":          size(&to.Burst, 0),
		})
		if err == nil && to.BytesPerSecond == 0 && to.Burst != 0 {
			return errors.New("a burst goes with bytesPerSecond")
		}
		return err
	}
}

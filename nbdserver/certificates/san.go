package certificates

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"unicode"
)

// SAN is a pattern of subject alternative names (RFC 5280, section 4.2.1.6).
// The zero value matches none.
type SAN struct {
	match func(*x509.Certificate) bool
}

// Match tells whether one of the certificate's subject alternative names matches.
// Its common name is never looked at.
func (p SAN) Match(c *x509.Certificate) bool { return p.match != nil && p.match(c) }

// ParseSAN reads a pattern: a kind of names, a colon, and a name in which a *
// stands for one part of it and nothing more:
//
//	DNS:*.backup.example          * is one whole label, here the first
//	IP:10.1.2.3, IP:10.1.0.0/16   an address, or a network in CIDR notation
//	URI:spiffe://cluster/ns/*/sa/backup   * is one whole segment of the path
//	email:*@backup.example        * is the whole of what is before the @
//
// Everything else matches itself, host names in either case.
func ParseSAN(s string) (SAN, error) {
	kind, name, _ := strings.Cut(s, ":")
	var match func(*x509.Certificate) bool
	var err error
	switch kind {
	case "DNS":
		match, err = parseDNS(name)
	case "IP":
		match, err = parseIP(name)
	case "URI":
		match, err = parseURI(name)
	case "email":
		match, err = parseEmail(name)
	default:
		err = errors.New("write DNS:, IP:, URI: or email: before the name")
	}
	if err != nil {
		return SAN{}, fmt.Errorf("%q is no pattern of names: %w", s, err)
	}
	return SAN{match}, nil
}

func parseDNS(pattern string) (func(*x509.Certificate) bool, error) {
	labels := strings.Split(pattern, ".")
	for _, l := range labels {
		if l == "" || l != "*" && strings.ContainsAny(l, "* ") {
			return nil, errors.New("write labels with a dot between them; a * stands for a whole one")
		}
		if strings.ContainsFunc(l, func(r rune) bool { return r > unicode.MaxASCII }) {
			return nil, errors.New("write the name in ASCII (xn--...), as certificates have it")
		}
	}
	return func(c *x509.Certificate) bool {
		for _, name := range c.DNSNames {
			if matchParts(labels, strings.Split(name, "."), strings.EqualFold) {
				return true
			}
		}
		return false
	}, nil
}

func parseIP(pattern string) (func(*x509.Certificate) bool, error) {
	network, err := netip.ParsePrefix(pattern)
	if err != nil {
		addr, err := netip.ParseAddr(pattern)
		if err != nil || addr.Zone() != "" {
			return nil, errors.New("write an address, or a network as 10.1.0.0/16")
		}
		network = netip.PrefixFrom(addr, addr.BitLen())
	}
	if a := network.Addr(); a.Is4In6() {
		if network.Bits() < 96 {
			return nil, errors.New("write a network of IPv4 addresses as 10.1.0.0/16")
		}
		network = netip.PrefixFrom(a.Unmap(), network.Bits()-96)
	}
	return func(c *x509.Certificate) bool {
		for _, ip := range c.IPAddresses {
			if addr, ok := netip.AddrFromSlice(ip); ok && network.Contains(addr.Unmap()) {
				return true
			}
		}
		return false
	}, nil
}

func parseURI(pattern string) (func(*x509.Certificate) bool, error) {
	u, err := url.Parse(pattern)
	if err != nil || u.Scheme == "" {
		return nil, errors.New("write a whole URI, as spiffe://cluster/ns/backup/*")
	}
	segments := strings.Split(pattern, "/")
	for i, s := range segments {
		// Before the path are scheme, nothing and host: scheme://host/path.
		if strings.Contains(s, "*") && (s != "*" || i < 3 || segments[1] != "") {
			return nil, errors.New("a * stands for a whole segment of the path of scheme://host/path")
		}
	}
	return func(c *x509.Certificate) bool {
		for _, name := range c.URIs {
			if matchParts(segments, strings.Split(name.String(), "/"), func(a, b string) bool { return a == b }) {
				return true
			}
		}
		return false
	}, nil
}

func parseEmail(pattern string) (func(*x509.Certificate) bool, error) {
	local, domain, ok := cutEmail(pattern)
	if !ok || local != "*" && strings.Contains(local, "*") || strings.Contains(domain, "*") {
		return nil, errors.New("write an address; a * stands for the whole of what is before the @")
	}
	return func(c *x509.Certificate) bool {
		for _, name := range c.EmailAddresses {
			l, d, ok := cutEmail(name)
			if ok && (local == "*" || l == local) && strings.EqualFold(d, domain) {
				return true
			}
		}
		return false
	}, nil
}

// cutEmail cuts at the last @: there may be others in quotes before it.
func cutEmail(s string) (local, domain string, ok bool) {
	i := strings.LastIndexByte(s, '@')
	if i <= 0 || i == len(s)-1 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}

// matchParts compares part by part. A * in the pattern is any one part that
// means nothing beyond itself: not an empty one, nor a dot segment, nor one
// with a query or fragment in it.
func matchParts(pattern, parts []string, same func(a, b string) bool) bool {
	if len(pattern) != len(parts) {
		return false
	}
	for i, p := range pattern {
		if p == "*" {
			if s := parts[i]; s == "" || s == "." || s == ".." || strings.ContainsAny(s, "?#") {
				return false
			}
		} else if !same(p, parts[i]) {
			return false
		}
	}
	return true
}

// SANs lists the subject alternative names of a certificate, each with its kind
// in the syntax of ParseSAN.
func SANs(c *x509.Certificate) []string {
	var all []string
	for _, s := range c.DNSNames {
		all = append(all, "DNS:"+s)
	}
	for _, ip := range c.IPAddresses {
		all = append(all, "IP:"+ip.String())
	}
	for _, u := range c.URIs {
		all = append(all, "URI:"+u.String())
	}
	for _, s := range c.EmailAddresses {
		all = append(all, "email:"+s)
	}
	return all
}

//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

// The longest names are served, at URIs that work.
func TestLongNames(t *testing.T) {
	n := newNamespace(t, anyTime)
	n.client()
	volume := strings.Repeat("volume-", 9)[:62] + "v"
	dotted := strings.Repeat("a.long-name-", 22)[:252] + "e"
	n.apply(strings.Replace(claim("Block"), "{name: data}", "{name: "+dotted+"}", 1))
	for _, name := range []string{strings.Repeat("e", 63), dotted} {
		n.apply(memory(name, volume) + inTheClear)
		uri := n.ready(name)
		if !strings.HasSuffix(uri, "/"+volume) {
			t.Errorf("the URI is %s", uri)
		}
		n.sh("qemu-io -f raw -c 'write -f -P 0x5a 0 64k' -c 'read -P 0x5a 0 64k' '" + uri + "'")
		n.kubectl("delete", "nbdexport", name, within)
	}
	n.apply(strings.Replace(exportOfClaim("e", "ReadWrite"), "claimName: data", "claimName: "+dotted, 1) + inTheClear)
	n.sh("nbdinfo --size '" + n.ready("e") + "'")
}

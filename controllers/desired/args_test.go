package desired

import (
	"strings"
	"testing"

	"k8s.io/utils/ptr"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// TestLongestScript is one that the API admits, of characters that take most room when
// they are written down. Linux starts no program with an argument of 128 KiB or more
// (MAX_ARG_STRLEN).
func TestLongestScript(t *testing.T) {
	word := strings.Repeat("\x01", 4096)
	script := &v1alpha1.Script{Command: []string{word, word, word, word}, TimeoutSeconds: ptr.To[int32](3600)}
	flag, arg, _ := ExitFlag(&v1alpha1.NBDExport{}, v1alpha1.ExitCondition{Script: script})
	if n := len("--exit-when-") + len(flag) + len("=") + len(arg) + 1; n > 128<<10 {
		t.Errorf("%d bytes", n)
	}
}

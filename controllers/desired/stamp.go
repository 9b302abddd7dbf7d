package desired

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// withoutPod are the fields of the spec that change without a new pod. A new field
// belongs here, or else into the rule of the API against changes of exports with a
// CopyOnWrite volume.
var withoutPod = []string{"limits", "networkPolicy", "service", "ttlSecondsAfterFinished"}

// Stamp is the value of v1alpha1.AnnotationSpec on a pod that serves the spec of an
// export as it is: its generation, and a digest of each field that made the pod.
func Stamp(e *v1alpha1.NBDExport) string {
	parts := []string{"generation=" + strconv.FormatInt(e.Generation, 10)}
	d := digests(e)
	for _, field := range slices.Sorted(maps.Keys(d)) {
		parts = append(parts, field+"="+d[field])
	}
	return strings.Join(parts, ",")
}

// Changed are the fields in which the spec of an export differs from that which a pod
// with this stamp was made for, in alphabetical order. It names none unless the
// generation is a later one: the same generation has other digests when another
// version of the operator has made the pod, one that knew other fields or defaults,
// and that is no reason to end anybody's session. Nor is a missing stamp.
func Changed(e *v1alpha1.NBDExport, stamp string) []string {
	generation, was := parse(stamp)
	if was == nil || generation >= e.Generation {
		return nil
	}
	is := digests(e)
	var out []string
	for field := range is {
		if was[field] != is[field] {
			out = append(out, field)
		}
	}
	for field := range was {
		if is[field] == "" {
			out = append(out, field)
		}
	}
	slices.Sort(out)
	return out
}

// Stale tells whether a pod that serves the spec of an export as it is, because
// Changed names nothing, should have another stamp. A pod of a later generation is
// left alone: then the export is an old copy.
func Stale(e *v1alpha1.NBDExport, stamp string) bool {
	generation, was := parse(stamp)
	return was == nil || generation <= e.Generation && stamp != Stamp(e)
}

// parse reads a stamp; nil if it isn't one.
func parse(stamp string) (generation int64, digests map[string]string) {
	digests = map[string]string{}
	for part := range strings.SplitSeq(stamp, ",") {
		field, digest, _ := strings.Cut(part, "=")
		digests[field] = digest
	}
	generation, err := strconv.ParseInt(digests["generation"], 10, 64)
	if err != nil {
		return 0, nil
	}
	delete(digests, "generation")
	return generation, digests
}

// digests are those of the fields of the spec that make the pod, by their names. Of
// exitWhen it is what the server is told: what the operator watches, and what
// the conditions are called, makes no pod.
func digests(e *v1alpha1.NBDExport) map[string]string {
	spec := e.Spec
	spec.ExitWhen = nil
	// Strings, numbers and what has come as JSON can't fail to be encoded.
	b, _ := json.Marshal(spec)
	var fields map[string]json.RawMessage
	_ = json.Unmarshal(b, &fields)
	for _, field := range withoutPod {
		delete(fields, field)
	}
	var flags []string
	for _, c := range e.Spec.ExitWhen {
		if flag, arg, ok := ExitFlag(e, c); ok {
			flags = append(flags, fmt.Sprintf("%s=%s", flag, arg))
		}
	}
	if len(flags) > 0 {
		fields["exitWhen"], _ = json.Marshal(flags)
	}
	out := map[string]string{}
	for field, text := range fields {
		if string(text) == "{}" {
			continue // the same as none
		}
		sum := sha256.Sum256(text)
		out[field] = hex.EncodeToString(sum[:4])
	}
	return out
}

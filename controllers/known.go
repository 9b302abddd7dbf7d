package controllers

import (
	"sync"

	"k8s.io/apimachinery/pkg/util/resourceversion"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// known is the newest version of each export that has been seen here, which may be
// one that the cache doesn't have yet: what was written a moment ago. The zero value
// is ready for use, by several goroutines.
type known struct {
	versions sync.Map // client.ObjectKey to string
}

// newerThan tells whether a later version is known than this one. To act on this one
// would be to do again what is done already, and its status can't be written. The later
// one is on its way: it comes as a change of the export.
func (k *known) newerThan(e client.Object) bool {
	version, ok := k.versions.Load(client.ObjectKeyFromObject(e))
	if !ok {
		return false
	}
	order, err := resourceversion.CompareResourceVersion(e.GetResourceVersion(), version.(string))
	return err == nil && order < 0
}

// note remembers the version of an export.
func (k *known) note(e client.Object) {
	k.versions.Store(client.ObjectKeyFromObject(e), e.GetResourceVersion())
}

// forget drops what is known of an export that doesn't exist any more.
func (k *known) forget(key client.ObjectKey) {
	k.versions.Delete(key)
}

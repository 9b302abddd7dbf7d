package nbdserver

import (
	"context"
	"errors"
	"syscall"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// errnoOf maps the error of a Backend to an error of the protocol ("Error
// values"); nil is 0. What has no counterpart there is EIO.
func errnoOf(err error) wire.Errno {
	if err == nil {
		return 0
	}
	for _, m := range errnoTable {
		if errors.Is(err, m.err) {
			return m.errno
		}
	}
	return wire.EIO
}

var errnoTable = []struct {
	err   error
	errno wire.Errno
}{
	{backend.ErrReadOnly, wire.EPERM},
	{syscall.EPERM, wire.EPERM},
	{syscall.EACCES, wire.EPERM},
	{syscall.EROFS, wire.EPERM},
	{syscall.ENOSPC, wire.ENOSPC},
	{syscall.EDQUOT, wire.ENOSPC},
	{syscall.EFBIG, wire.ENOSPC},
	{syscall.ENOMEM, wire.ENOMEM},
	{syscall.EINVAL, wire.EINVAL},
	// ENOTSUP is the answer to a fast zero that wouldn't be fast, and to nothing
	// else.
	{backend.ErrNotFast, wire.ENOTSUP},
	{syscall.EOPNOTSUPP, wire.EINVAL},
	{syscall.ESHUTDOWN, wire.ESHUTDOWN},
	// The connection was closed by force while its request was under way.
	{context.Canceled, wire.ESHUTDOWN},
}

package nbdserver

import (
	"runtime/debug"

	"go.uber.org/zap"
)

// panicked counts and logs a panic. It is called by the deferred function that
// has recovered it, so that the stack is that of the panic.
func (s *Server) panicked(message string, p any, fields ...zap.Field) {
	s.panics.Add(1)
	s.sampled.Error(message, append(fields, zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))...)
}

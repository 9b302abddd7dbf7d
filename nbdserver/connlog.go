package nbdserver

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// Of each message that could be repeated without end, a failed request for one,
// the log gets the first few of every minute. How many there were is in the
// connection's line and in the metrics.
const (
	sampleEvery = time.Minute
	sampleFirst = 10
)

func sampled(log *zap.Logger) *zap.Logger {
	if !log.Core().Enabled(zap.ErrorLevel) {
		return log // it is silent anyway
	}
	return log.WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(c, sampleEvery, sampleFirst, 0)
	}))
}

// countEnd counts a connection that ended by its client's fault before the client
// got an export. What the server refuses is counted where it does.
func (c *Conn) countEnd(err error) {
	switch {
	case c.export != nil:
	case errors.Is(err, errTLS):
		c.srv.refused[tlsFailed].Add(1)
	case errors.Is(err, errHandshake):
		c.srv.refused[handshakeTimeout].Add(1)
	case errors.Is(err, errBadRequest), errors.Is(err, wire.ErrMalformed):
		c.srv.refused[protocolError].Add(1)
	}
}

// logEnd writes the one line about the connection's life, which ended with err. Who
// got no export may come again without end.
func (c *Conn) logEnd(err error) {
	log := c.srv.sampled
	fields := []zap.Field{
		zap.Stringer("peer", c.peer),
		zap.String("ended", err.Error()),
		zap.Duration("duration", time.Since(c.since)),
		zap.Stringer("listener", c.nc.LocalAddr()),
	}
	if c.export != nil {
		log = c.srv.log
		fields = append(fields,
			zap.String("export", c.export.Name),
			zap.Strings("features", c.features()),
			zap.Uint64("requests", c.requests.Load()),
			zap.Uint64("errors", c.errors.Load()),
			zap.Uint64("bytesRead", c.read.Load()),
			zap.Uint64("bytesWritten", c.written.Load()))
	}
	fields = append(fields, c.tlsFields()...)
	log.Log(c.endLevel(err), "connection", fields...)
}

// endLevel is how much the end of the connection matters. Who comes and goes
// without a word, as the probes of a kubelet or a load balancer do, is noise.
func (c *Conn) endLevel(err error) zapcore.Level {
	for _, e := range []error{errBadRequest, wire.ErrMalformed, errHandshake, errTLS, errCut, errStalled, errDead, errPanicked} {
		if errors.Is(err, e) {
			return zap.WarnLevel
		}
	}
	if !c.greeted {
		return zap.DebugLevel
	}
	return zap.InfoLevel
}

// features are what the client has negotiated beyond the plain protocol.
func (c *Conn) features() []string {
	all := []string{}
	switch {
	case c.extended:
		all = append(all, "extended")
	case c.structured:
		all = append(all, "structured")
	}
	if c.allocation != nil {
		all = append(all, wire.BaseAllocation)
	}
	return all
}

// logFailed tells of a request that the volume failed. A client's own mistakes
// are only counted: they are told to the client.
func (c *Conn) logFailed(r wire.Request, err error) {
	// The connection was closed by force, or its client asked whether zeroing is
	// fast and was told.
	if errors.Is(err, context.Canceled) || errors.Is(err, backend.ErrNotFast) {
		return
	}
	c.srv.sampled.Error("request failed", zap.Stringer("peer", c.peer),
		zap.String("export", c.export.Name), zap.Stringer("command", r.Command),
		zap.Uint64("offset", r.Offset), zap.Uint64("length", r.Length), zap.Error(err))
}

package main

import (
	"fmt"
	"io"

	"github.com/go-logr/logr"
	"github.com/go-logr/zapr"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// logger writes what happens, one event to a line.
func logger(w io.Writer, format, level string) (logr.Logger, error) {
	at, err := zapcore.ParseLevel(level)
	if err != nil {
		return logr.Logger{}, fmt.Errorf("--log-level %s: use debug, info, warn or error", level)
	}
	var enc zapcore.Encoder
	switch format {
	case "json":
		c := zap.NewProductionEncoderConfig()
		c.EncodeTime = zapcore.RFC3339NanoTimeEncoder
		enc = zapcore.NewJSONEncoder(c)
	case "console":
		enc = zapcore.NewConsoleEncoder(zap.NewDevelopmentEncoderConfig())
	default:
		return logr.Logger{}, fmt.Errorf("--log-format %s: use json or console", format)
	}
	return zapr.NewLogger(zap.New(zapcore.NewCore(enc, zapcore.AddSync(w), at))), nil
}

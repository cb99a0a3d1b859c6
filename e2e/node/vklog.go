package node

import (
	"fmt"
	"log/slog"

	vklog "github.com/virtual-kubelet/virtual-kubelet/log"
)

// quietLogger passes virtual-kubelet's log on at debug level. Its own slog
// adapter cannot: it takes every first argument for a string, and some are errors.
type quietLogger struct{ log *slog.Logger }

func (q quietLogger) Debug(args ...any) {
	q.log.Debug("virtual-kubelet", "message", fmt.Sprint(args...))
}
func (q quietLogger) Debugf(f string, args ...any) { q.Debug(fmt.Sprintf(f, args...)) }
func (q quietLogger) Info(args ...any)             { q.Debug(args...) }
func (q quietLogger) Infof(f string, args ...any)  { q.Debugf(f, args...) }
func (q quietLogger) Warn(args ...any)             { q.Debug(args...) }
func (q quietLogger) Warnf(f string, args ...any)  { q.Debugf(f, args...) }
func (q quietLogger) Error(args ...any) {
	q.log.Info("virtual-kubelet", "message", fmt.Sprint(args...))
}
func (q quietLogger) Errorf(f string, args ...any) { q.Error(fmt.Sprintf(f, args...)) }

// Fatal does not end the process: that is for main to decide.
func (q quietLogger) Fatal(args ...any)            { q.Error(args...) }
func (q quietLogger) Fatalf(f string, args ...any) { q.Errorf(f, args...) }

func (q quietLogger) WithField(key string, v any) vklog.Logger {
	return quietLogger{q.log.With(key, v)}
}

func (q quietLogger) WithFields(fields vklog.Fields) vklog.Logger {
	l := q.log
	for k, v := range fields {
		l = l.With(k, v)
	}
	return quietLogger{l}
}

func (q quietLogger) WithError(err error) vklog.Logger { return q.WithField("error", err) }

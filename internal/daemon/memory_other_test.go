//go:build !linux

package daemon_test

import (
	"context"

	"consilium.dev/internal/daemon"
)

func protected(context.Context, daemon.Env) error { return daemon.ErrElsewhere }

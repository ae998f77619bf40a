//go:build linux

package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/natless/natless/cmd/internal/daemon"
	"github.com/natless/natless/cmd/internal/usage"
	"github.com/natless/natless/cmd/internal/version"
	"github.com/natless/natless/config"
)

func serve(c *config.Config, given usage.Daemon, settle func(), level *slog.LevelVar, log *slog.Logger) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	hangup := make(chan os.Signal, 1)
	d, err := daemon.New(c, daemon.Options{Version: version.String(), Path: given.Config, Handover: given.Handover,
		Settle: settle, Level: level, Hangup: hangup, Log: log})
	if err != nil {
		return err
	}
	signal.Notify(hangup, syscall.SIGHUP)
	log.Info("natlessd starts", "version", version.String(), "config", given.Config)
	err = d.Run(ctx)
	log.Info("natlessd has ended")
	return err
}

package main

import (
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/embed"
)

// etcd serves the key-value store until a signal comes. A test cluster's data need not survive a crash.
func etcd() *cobra.Command {
	command := &cobra.Command{Use: "etcd", SilenceUsage: true}
	file := command.Flags().String("config-file", "", "etcd's own YAML configuration")
	command.RunE = func(*cobra.Command, []string) error {
		config, err := embed.ConfigFromFile(*file)
		if err != nil {
			return err
		}
		config.UnsafeNoFsync = true
		config.WarningUnaryRequestDuration = time.Second // a file's 0 would have each request logged
		server, err := embed.StartEtcd(config)
		if err != nil {
			return err
		}
		defer server.Close()
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
		select {
		case <-stop:
			return nil
		case err := <-server.Err():
			return err
		}
	}
	return command
}

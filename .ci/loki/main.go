// Command loki runs the Loki server of the module named in go.mod, for tests that need a real one.
package main

import (
	"flag"
	"fmt"
	"os"

	// Must come first: it registers the gRPC codec that the collector packages fall back to.
	_ "google.golang.org/grpc/encoding/proto"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/grafana/loki/v3/pkg/loki"
	lokiruntime "github.com/grafana/loki/v3/pkg/runtime"
	"github.com/grafana/loki/v3/pkg/util/cfg"
	utillog "github.com/grafana/loki/v3/pkg/util/log"
	"github.com/grafana/loki/v3/pkg/validation"
)

func main() {
	if err := serve(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "loki:", err)
		os.Exit(1)
	}
}

func serve(args []string) error {
	var config loki.ConfigWrapper
	if err := cfg.DynamicUnmarshal(&config, args, flag.CommandLine); err != nil {
		return err
	}
	config.LimitsConfig.SetGlobalOTLPConfig(config.Distributor.OTLPConfig)
	validation.SetDefaultLimitsForYAMLUnmarshalling(config.LimitsConfig)
	lokiruntime.SetDefaultLimitsForYAMLUnmarshalling(config.OperationalConfig)
	config.Server.Log = utillog.InitLogger(&config.Server, prometheus.DefaultRegisterer, false)
	if err := config.Validate(); err != nil {
		return err
	}
	server, err := loki.New(config.Config)
	if err != nil {
		return err
	}
	return server.Run(loki.RunOpts{})
}

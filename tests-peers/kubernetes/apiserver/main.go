// Package main is Kubernetes' own API server, with one variable of it set from outside: how often it
// compares each watch cache with the storage. Every five minutes is what it does by itself, and a test
// would see nothing of that.
package main

import (
	"fmt"
	"os"
	"time"
	_ "time/tzdata"

	"k8s.io/apiserver/pkg/storage/cacher"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

const period = "WATCHCACHE_CONSISTENCY_PERIOD"

func main() {
	if text := os.Getenv(period); text != "" {
		every, err := time.ParseDuration(text)
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", period, err)
			os.Exit(2)
		}
		cacher.ConsistencyCheckPeriod = every
	}
	os.Exit(cli.Run(app.NewAPIServerCommand()))
}

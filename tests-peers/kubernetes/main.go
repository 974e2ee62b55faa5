// Package main drives real API servers, through Kubernetes' own client: what it checks of them can only
// hold if what they keep their state in does what they ask of it. It also plays the nodes that a
// scheduler needs, since nothing here runs a kubelet.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sort"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
)

// A server is one API server, and every kind of client for it.
type server struct {
	host    string
	config  *rest.Config
	core    *kubernetes.Clientset
	dynamic *dynamic.DynamicClient
	types   *apiextensions.Clientset
}

type command struct {
	says string
	// What flags it has, and what it does with them.
	with func(*flag.FlagSet) func(context.Context, []*server) error
}

var commands = map[string]command{
	"ready":     {"wait until every server is ready", ready},
	"smoke":     {"try each thing once that a cluster does to its storage", smoke},
	"lists":     {"measure consistent lists right after writes", lists},
	"load":      {"write through all servers at once, and hold them to what they said", load},
	"caches":    {"wait until the watch caches were compared with the storage", caches},
	"compacted": {"wait until what is old was compacted, and is refused as such", compacted},
	"nodes":     {"play nodes until the end: no container runs, but pods are said to", nodes},
	"workload":  {"roll a deployment out, scale it, delete it, and its namespace", workload},
}

func main() {
	if len(os.Args) < 2 || commands[os.Args[1]].with == nil {
		usage()
	}
	name := os.Args[1]
	flags := flag.NewFlagSet(name, flag.ExitOnError)
	hosts := flags.String("servers", "", "`URL`s of API servers, with commas between them")
	authority := flags.String("ca", "", "the `FILE` with the authority that signed for them")
	token := flags.String("token", "", "who calls")
	within := flags.Duration("within", 5*time.Minute, "how long all of it may take")
	run := commands[name].with(flags)
	_ = flags.Parse(os.Args[2:])

	servers, err := connect(strings.Split(*hosts, ","), *authority, *token)
	if err != nil {
		fail(name, err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *within)
	defer cancel()
	if err := run(ctx, servers); err != nil {
		fail(name, err)
	}
}

func usage() {
	fmt.Fprintln(os.Stderr, "one of these, please, with --servers, --ca and --token:")
	var names []string
	for name := range commands {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		fmt.Fprintf(os.Stderr, "  %-10s %s\n", name, commands[name].says)
	}
	os.Exit(2)
}

func fail(name string, err error) {
	fmt.Printf("%s: FAILED: %v\n", name, err)
	os.Exit(1)
}

func connect(hosts []string, authority, token string) ([]*server, error) {
	var servers []*server
	for _, host := range hosts {
		// Nothing here may wait for a limit of the client's own: the servers have theirs.
		config := &rest.Config{Host: host, BearerToken: token, QPS: -1}
		config.TLSClientConfig.CAFile = authority
		typed := rest.CopyConfig(config)
		typed.ContentType = "application/vnd.kubernetes.protobuf"
		typed.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
		core, err := kubernetes.NewForConfig(typed)
		if err != nil {
			return nil, err
		}
		free, err := dynamic.NewForConfig(config)
		if err != nil {
			return nil, err
		}
		types, err := apiextensions.NewForConfig(config)
		if err != nil {
			return nil, err
		}
		servers = append(servers, &server{host, config, core, free, types})
	}
	return servers, nil
}

// ready asks as often as a person could not, so that the caller can say how long it took.
func ready(*flag.FlagSet) func(context.Context, []*server) error {
	return func(ctx context.Context, servers []*server) error {
		for _, s := range servers {
			err := until(ctx, 10*time.Millisecond, func() error {
				short, cancel := context.WithTimeout(ctx, 2*time.Second)
				defer cancel()
				body, err := s.core.RESTClient().Get().AbsPath("/readyz").DoRaw(short)
				if err != nil && len(body) > 0 {
					return fmt.Errorf("%w: %s", err, body)
				}
				return err
			})
			if err != nil {
				return fmt.Errorf("%s: %w", s.host, err)
			}
		}
		return nil
	}
}

// until tries again and again, and says at the end of its time what was wrong last.
func until(ctx context.Context, every time.Duration, try func() error) error {
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; the last try: %w", context.Cause(ctx), err)
		case <-time.After(every):
		}
	}
}

// within gives a part of the whole a time of its own.
func within(ctx context.Context, patience time.Duration, every time.Duration, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return until(ctx, every, func() error { return try(ctx) })
}

// each runs so many at once, and answers the first failure.
func each(count int, run func(int) error) error {
	failures := make(chan error, count)
	for number := range count {
		go func() { failures <- run(number) }()
	}
	var first error
	for range count {
		if err := <-failures; err != nil && first == nil {
			first = err
		}
	}
	return first
}

// latencies are sorted by the one who asks.
type latencies []time.Duration

func (l latencies) String() string {
	if len(l) == 0 {
		return "none"
	}
	sort.Slice(l, func(i, j int) bool { return l[i] < l[j] })
	at := func(part float64) time.Duration {
		return l[min(int(part*float64(len(l))), len(l)-1)].Round(10 * time.Microsecond)
	}
	return fmt.Sprintf("%d, p50 %v, p99 %v, longest %v", len(l), at(0.5), at(0.99), at(1))
}

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// caches waits until each server has compared each of these caches with the storage once more, and
// found no difference in any. A server that finds one panics, where it was told to: then this fails too,
// as it has nobody to ask.
func caches(flags *flag.FlagSet) func(context.Context, []*server) error {
	return func(ctx context.Context, servers []*server) error {
		resources := []string{"configmaps", "secrets", "namespaces", "services", "leases", "customresourcedefinitions", "nodes", "pods"}
		for _, s := range servers {
			before, err := s.comparisons(ctx)
			if err != nil {
				return err
			}
			var now map[string]outcome
			err = within(ctx, 2*time.Minute, time.Second, func(ctx context.Context) error {
				if now, err = s.comparisons(ctx); err != nil {
					return err
				}
				for _, resource := range resources {
					if now[resource].equal <= before[resource].equal {
						return fmt.Errorf("%s were not compared", resource)
					}
				}
				return nil
			})
			if err != nil {
				return fmt.Errorf("%s: %w", s.host, err)
			}
			var sum outcome
			for _, resource := range slices.Sorted(maps.Keys(now)) {
				one := now[resource]
				if one.different > 0 {
					return fmt.Errorf("%s: %s differ from what is stored", s.host, resource)
				}
				sum.equal += one.equal
				sum.failed += one.failed
			}
			fmt.Printf("watch caches of %s: %d resources, compared %d times, no difference; %d could not be compared\n",
				s.host, len(now), sum.equal, sum.failed)
		}
		return nil
	}
}

type outcome struct{ equal, different, failed int }

var comparison = regexp.MustCompile(`^apiserver_storage_consistency_checks_total\{group="([^"]*)",resource="([^"]*)",status="([^"]*)"\} ([0-9.e+]+)`)

func (s *server) comparisons(ctx context.Context) (map[string]outcome, error) {
	page, err := s.core.RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	found := map[string]outcome{}
	lines := bufio.NewScanner(bytes.NewReader(page))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		parts := comparison.FindStringSubmatch(lines.Text())
		if parts == nil {
			continue
		}
		count, err := strconv.ParseFloat(parts[4], 64)
		if err != nil {
			return nil, err
		}
		one := found[parts[2]]
		switch parts[3] {
		case "success":
			one.equal += int(count)
		case "failure":
			one.different += int(count)
		default:
			one.failed += int(count)
		}
		found[parts[2]] = one
	}
	return found, lines.Err()
}

// compacted waits until the servers' own compaction has passed what is written here, and asks for it
// then: what is gone must be said to be gone, what is there must not.
func compacted(flags *flag.FlagSet) func(context.Context, []*server) error {
	patience := flags.Duration("patience", 2*time.Minute, "three times the compaction interval at least")
	namespace := flags.String("namespace", "compacted", "where")
	return func(ctx context.Context, servers []*server) error {
		s := servers[0]
		if err := s.namespace(ctx, *namespace); err != nil {
			return err
		}
		object, err := s.maps(*namespace).Create(ctx, configMap("a", "0"), meta.CreateOptions{})
		if err != nil {
			return err
		}
		old := meta.ListOptions{ResourceVersion: object.ResourceVersion, ResourceVersionMatch: meta.ResourceVersionMatchExact}
		begun := time.Now()
		for what, list := range map[string]func() error{
			"what has a watch cache": func() error { _, err := s.maps(*namespace).List(ctx, old); return err },
			"what has none":          func() error { _, err := s.core.CoreV1().Events(*namespace).List(ctx, old); return err },
		} {
			err = within(ctx, *patience, time.Second, func(ctx context.Context) error {
				// Without changes there is nothing to compact.
				object.Data["value"] += "+"
				if object, err = s.maps(*namespace).Update(ctx, object, meta.UpdateOptions{}); err != nil {
					return err
				}
				err := list()
				if apierrors.IsResourceExpired(err) {
					return nil
				}
				if err != nil {
					return err
				}
				return errors.New("it is still there")
			})
			if err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
		}
		if _, err := s.maps(*namespace).List(ctx, meta.ListOptions{}); err != nil {
			return err
		}
		fmt.Printf("version %s was refused as compacted after %.0f s\n", old.ResourceVersion, time.Since(begun).Seconds())
		return nil
	}
}

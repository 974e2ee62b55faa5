package main

import (
	"context"
	"flag"
	"fmt"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// lists measures what a controller waits for that must see what was just written: a list without a
// resource version, which the API server answers from its cache once that is known to be as new as the
// storage.
func lists(flags *flag.FlagSet) func(context.Context, []*server) error {
	count := flags.Int("count", 500, "how many")
	others := flags.Int("objects", 50, "in the namespace that is listed")
	longest := flags.Duration("p99", 0, "fail if the 99th percentile is above this")
	namespace := flags.String("namespace", "lists", "where")
	return func(ctx context.Context, servers []*server) error {
		s := servers[0]
		if err := s.namespace(ctx, *namespace); err != nil {
			return err
		}
		maps := s.maps(*namespace)
		for number := range *others {
			if _, err := maps.Create(ctx, configMap(fmt.Sprintf("other%04d", number), "0"), meta.CreateOptions{}); err != nil {
				return err
			}
		}
		object, err := maps.Create(ctx, configMap("changes", "0"), meta.CreateOptions{})
		if err != nil {
			return err
		}
		var wrote, listed latencies
		for number := range *count {
			object.Data["value"] = fmt.Sprint(number)
			begun := time.Now()
			if object, err = maps.Update(ctx, object, meta.UpdateOptions{}); err != nil {
				return err
			}
			written := time.Now()
			list, err := maps.List(ctx, meta.ListOptions{})
			if err != nil {
				return err
			}
			// The first one also makes the connection.
			if number > 0 {
				wrote = append(wrote, written.Sub(begun))
				listed = append(listed, time.Since(written))
			}
			if version(list.ResourceVersion) < version(object.ResourceVersion) {
				return fmt.Errorf("a list of version %s after %s was written", list.ResourceVersion, object.ResourceVersion)
			}
			if len(list.Items) != *others+1 || list.Items[0].Data["value"] != object.Data["value"] {
				return fmt.Errorf("the list does not have what was written before it")
			}
		}
		fmt.Printf("writes: %v\n", wrote)
		fmt.Printf("consistent lists right after them: %v\n", listed)
		if p99 := listed[min(int(0.99*float64(len(listed))), len(listed)-1)]; *longest > 0 && p99 > *longest {
			return fmt.Errorf("the 99th percentile is %v, above %v", p99, *longest)
		}
		return nil
	}
}

package main

import (
	"context"
	"flag"
	"fmt"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// lists measures what a controller waits for that must see what was just written: a list without a
// resource version, which the API server answers from its cache once that is known to be as new as the
// storage. The cache hears by itself of what is of its own kind. After a write of another kind it must ask
// how far its watch has come, and wait to be told.
func lists(flags *flag.FlagSet) func(context.Context, []*server) error {
	count := flags.Int("count", 300, "how many of each sort")
	others := flags.Int("objects", 50, "in the namespace that is listed")
	longest := flags.Duration("p99", 0, "fail if the 99th percentile of either is above this")
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
		secrets := s.core.CoreV1().Secrets(*namespace)
		secret, err := secrets.Create(ctx, &core.Secret{ObjectMeta: meta.ObjectMeta{Name: "changes"}, StringData: map[string]string{}}, meta.CreateOptions{})
		if err != nil {
			return err
		}
		var wrote, same, other latencies
		for number := range 2 * *count {
			begun := time.Now()
			var at string
			if number%2 == 0 {
				object.Data["value"] = fmt.Sprint(number)
				if object, err = maps.Update(ctx, object, meta.UpdateOptions{}); err != nil {
					return err
				}
				at = object.ResourceVersion
			} else {
				secret.StringData = map[string]string{"value": fmt.Sprint(number)}
				if secret, err = secrets.Update(ctx, secret, meta.UpdateOptions{}); err != nil {
					return err
				}
				at = secret.ResourceVersion
			}
			written := time.Now()
			list, err := maps.List(ctx, meta.ListOptions{})
			if err != nil {
				return err
			}
			took := time.Since(written)
			// The first ones also make the connection.
			if number > 1 {
				wrote = append(wrote, written.Sub(begun))
				if number%2 == 0 {
					same = append(same, took)
				} else {
					other = append(other, took)
				}
			}
			if version(list.ResourceVersion) < version(at) {
				return fmt.Errorf("a list of version %s after %s was written", list.ResourceVersion, at)
			}
			if len(list.Items) != *others+1 || list.Items[0].Data["value"] != object.Data["value"] {
				return fmt.Errorf("the list does not have what was written before it")
			}
		}
		fmt.Printf("writes: %v\n", wrote)
		fmt.Printf("consistent lists right after a write of their kind: %v\n", same)
		fmt.Printf("consistent lists right after a write of another kind: %v\n", other)
		for _, sort := range []latencies{same, other} {
			if p99 := sort[min(int(0.99*float64(len(sort))), len(sort)-1)]; *longest > 0 && p99 > *longest {
				return fmt.Errorf("a 99th percentile is %v, above %v", p99, *longest)
			}
		}
		return nil
	}
}

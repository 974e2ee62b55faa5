package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// A loader writes through several servers at once, while whoever started it hurts what is beneath them.
// It remembers what it was told, and holds everybody to it:
//
//   - what was acknowledged is there, on every server, and what was not is there at most once;
//   - a read that begins after an acknowledgement shows what was acknowledged, on every server;
//   - each watch tells every acknowledged change, at the version that was answered, in order, whatever
//     became of its connection;
//   - no two of those who increment one counter are told the same number.
type loader struct {
	servers   []*server
	namespace string
	end       time.Time

	mu sync.Mutex
	// By name and version, what was acknowledged: the value, or "" for one that was deleted.
	acknowledged map[string]map[int64]string
	// Created and acknowledged, never asked to be deleted.
	kept map[string]bool
	// Deleted and acknowledged.
	gone map[string]bool
	// By number, who was told that he made it.
	turns                      map[int]string
	unknown, conflicts, checks int
	unsure                     int
	wrote, read                map[string]latencies
	failedReads                map[string]int
}

func load(flags *flag.FlagSet) func(context.Context, []*server) error {
	lasts := flags.Duration("for", 30*time.Second, "how long to write")
	writers := flags.Int("writers", 4, "of each kind, for each server")
	namespace := flags.String("namespace", "load", "where")
	return func(ctx context.Context, servers []*server) error {
		l := &loader{servers: servers, namespace: *namespace, end: time.Now().Add(*lasts),
			acknowledged: map[string]map[int64]string{}, kept: map[string]bool{}, gone: map[string]bool{},
			turns: map[int]string{}, wrote: map[string]latencies{}, read: map[string]latencies{}, failedReads: map[string]int{}}
		return l.run(ctx, *writers)
	}
}

func (l *loader) run(ctx context.Context, writers int) error {
	first := l.servers[0]
	if err := first.namespace(ctx, l.namespace); err != nil {
		return err
	}
	if _, err := first.maps(l.namespace).Create(ctx, configMap("counter", "0"), meta.CreateOptions{}); err != nil {
		return err
	}
	list, err := first.maps(l.namespace).List(ctx, meta.ListOptions{})
	if err != nil {
		return err
	}
	heard := make([]*hearing, len(l.servers))
	listening := make(chan error, len(l.servers))
	for number, s := range l.servers {
		heard[number] = &hearing{tales: map[string][]telling{}}
		go func() { listening <- heard[number].listen(ctx, s, l.namespace, list.ResourceVersion) }()
	}
	fmt.Println("loading")

	kinds := []func(context.Context, *server, string) error{l.update, l.create, l.increment}
	err = each(len(l.servers)*writers*len(kinds), func(number int) error {
		s := l.servers[number%len(l.servers)]
		kind := number / len(l.servers) % len(kinds)
		return kinds[kind](ctx, s, fmt.Sprintf("k%d-%d", kind, number))
	})
	if err != nil {
		return err
	}
	last, err := l.certainly(ctx, first, func(ctx context.Context) (*core.ConfigMap, error) {
		made, err := first.maps(l.namespace).Create(ctx, configMap(theEnd, "0"), meta.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return first.maps(l.namespace).Get(ctx, theEnd, meta.GetOptions{})
		}
		return made, err
	})
	if err != nil {
		return err
	}
	l.acknowledge(theEnd, last)
	for range l.servers {
		if err := <-listening; err != nil {
			return fmt.Errorf("a watch: %w", err)
		}
	}
	if err := l.judge(ctx, heard); err != nil {
		return err
	}
	for _, s := range l.servers {
		fmt.Printf("%s: writes %v; reads %v, %d of them failed\n", s.host, l.wrote[s.host], l.read[s.host], l.failedReads[s.host])
	}
	events := 0
	restarts := 0
	for _, h := range heard {
		restarts += h.restarts
		for _, tale := range h.tales {
			events += len(tale)
		}
	}
	changes := 0
	for _, versions := range l.acknowledged {
		changes += len(versions)
	}
	fmt.Printf("load: %d changes and %d deletions acknowledged, %d unknown, %d conflicts; %d reads elsewhere right after; %d events on %d watches, begun again %d times; nothing lost\n",
		changes, len(l.gone), l.unknown, l.conflicts, l.checks, events, len(heard), restarts)
	return nil
}

// theEnd is the object that is written last: a watch that tells of it has told everything.
const theEnd = "zzz-end"

func (l *loader) acknowledge(name string, object *core.ConfigMap) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.acknowledged[name] == nil {
		l.acknowledged[name] = map[int64]string{}
	}
	l.acknowledged[name][version(object.ResourceVersion)] = object.Data["value"]
}

// write asks once, and says whether the answer is certain.
func (l *loader) write(ctx context.Context, s *server, ask func(context.Context) (*core.ConfigMap, error)) (*core.ConfigMap, error) {
	ctx, cancel := context.WithTimeout(ctx, 75*time.Second)
	defer cancel()
	begun := time.Now()
	object, err := ask(ctx)
	took := time.Since(begun)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.wrote[s.host] = append(l.wrote[s.host], took)
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err):
		l.conflicts++
	default:
		l.unknown++
		if l.unknown <= 5 {
			fmt.Printf("unknown, on %s after %v: %v\n", s.host, took.Round(time.Millisecond), err)
		}
	}
	return object, err
}

// certainly asks until there is an answer.
func (l *loader) certainly(ctx context.Context, s *server, ask func(context.Context) (*core.ConfigMap, error)) (*core.ConfigMap, error) {
	var object *core.ConfigMap
	err := within(ctx, 2*time.Minute, 100*time.Millisecond, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 75*time.Second)
		defer cancel()
		begun := time.Now()
		var err error
		object, err = ask(ctx)
		if apierrors.IsNotFound(err) {
			object, err = nil, nil
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.read[s.host] = append(l.read[s.host], time.Since(begun))
		if err != nil {
			l.failedReads[s.host]++
			if l.failedReads[s.host] <= 3 {
				fmt.Printf("a read failed on %s after %v: %v\n", s.host, time.Since(begun).Round(time.Millisecond), err)
			}
		}
		return err
	})
	return object, err
}

func (l *loader) get(ctx context.Context, s *server, name string) (*core.ConfigMap, error) {
	return l.certainly(ctx, s, func(ctx context.Context) (*core.ConfigMap, error) {
		return s.maps(l.namespace).Get(ctx, name, meta.GetOptions{})
	})
}

// find lists through the watch cache, and picks one.
func (l *loader) find(ctx context.Context, s *server, name string, atLeast int64) (*core.ConfigMap, error) {
	return l.certainly(ctx, s, func(ctx context.Context) (*core.ConfigMap, error) {
		list, err := s.maps(l.namespace).List(ctx, meta.ListOptions{FieldSelector: "metadata.name=" + name})
		if err != nil {
			return nil, err
		}
		if version(list.ResourceVersion) < atLeast {
			panic(fmt.Sprintf("%s listed version %s after %d was acknowledged", s.host, list.ResourceVersion, atLeast))
		}
		if len(list.Items) == 0 {
			return nil, nil
		}
		return &list.Items[0], nil
	})
}

// update changes an object that nobody else writes to: its value runs on by one.
func (l *loader) update(ctx context.Context, s *server, name string) error {
	object, err := l.certainly(ctx, s, func(ctx context.Context) (*core.ConfigMap, error) {
		made, err := s.maps(l.namespace).Create(ctx, configMap(name, "0"), meta.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return s.maps(l.namespace).Get(ctx, name, meta.GetOptions{})
		}
		return made, err
	})
	if err != nil {
		return err
	}
	l.acknowledge(name, object)
	acknowledged, acknowledgedAt, attempted := 0, version(object.ResourceVersion), 0
	certain := true
	for turn := 1; time.Now().Before(l.end); turn++ {
		attempted++
		next := object.DeepCopy()
		next.Data["value"] = fmt.Sprint(attempted)
		written, err := l.write(ctx, s, func(ctx context.Context) (*core.ConfigMap, error) {
			return s.maps(l.namespace).Update(ctx, next, meta.UpdateOptions{})
		})
		if err == nil {
			if at := version(written.ResourceVersion); at <= acknowledgedAt {
				return fmt.Errorf("%s: version %d was answered after %d", name, at, acknowledgedAt)
			}
			object, acknowledged, acknowledgedAt = written, attempted, version(written.ResourceVersion)
			l.acknowledge(name, object)
		} else if apierrors.IsConflict(err) && certain {
			return fmt.Errorf("%s at version %d was changed by somebody else, and there is nobody", name, acknowledgedAt)
		}
		certain = err == nil
		if err == nil && turn%4 != 0 {
			continue
		}
		// It may be there or not after an error; after an acknowledgement everybody sees it.
		for _, other := range l.servers {
			found, err := l.get(ctx, other, name)
			if err != nil {
				return err
			}
			listed, err := l.find(ctx, other, name, acknowledgedAt)
			if err != nil {
				return err
			}
			for how, seen := range map[string]*core.ConfigMap{"got": found, "listed": listed} {
				if seen == nil {
					return fmt.Errorf("%s is not there, %s on %s", name, how, other.host)
				}
				if value := number(seen.Data["value"]); value < acknowledged || value > attempted {
					return fmt.Errorf("%s was acknowledged at %d and asked to be %d, and %s on %s it is %d",
						name, acknowledged, attempted, how, other.host, value)
				}
			}
			if other == s {
				object, attempted = found, max(attempted, number(found.Data["value"]))
			}
		}
		l.mu.Lock()
		l.checks += 2 * len(l.servers)
		l.mu.Unlock()
	}
	return nil
}

// create makes objects that are new each time, and deletes every second one.
func (l *loader) create(ctx context.Context, s *server, name string) error {
	for turn := 0; time.Now().Before(l.end); turn++ {
		one := fmt.Sprintf("%s-%d", name, turn)
		made, err := l.write(ctx, s, func(ctx context.Context) (*core.ConfigMap, error) {
			return s.maps(l.namespace).Create(ctx, configMap(one, "0"), meta.CreateOptions{})
		})
		if err != nil {
			continue
		}
		l.acknowledge(one, made)
		if turn%2 == 0 {
			l.mu.Lock()
			l.kept[one] = true
			l.mu.Unlock()
			continue
		}
		_, err = l.write(ctx, s, func(ctx context.Context) (*core.ConfigMap, error) {
			return nil, s.maps(l.namespace).Delete(ctx, one, meta.DeleteOptions{})
		})
		if err == nil {
			l.mu.Lock()
			l.gone[one] = true
			l.mu.Unlock()
		}
	}
	return nil
}

// increment counts on, together with all who do.
func (l *loader) increment(ctx context.Context, s *server, name string) error {
	for time.Now().Before(l.end) {
		object, err := l.get(ctx, s, "counter")
		if err != nil {
			return err
		}
		next := number(object.Data["value"]) + 1
		object.Data["value"] = fmt.Sprint(next)
		written, err := l.write(ctx, s, func(ctx context.Context) (*core.ConfigMap, error) {
			return s.maps(l.namespace).Update(ctx, object, meta.UpdateOptions{})
		})
		switch {
		case err == nil:
			l.mu.Lock()
			other, twice := l.turns[next]
			l.turns[next] = name
			l.mu.Unlock()
			if twice {
				return fmt.Errorf("%s and %s were both told that they made it %d", other, name, next)
			}
			l.acknowledge("counter", written)
		case !apierrors.IsConflict(err):
			l.mu.Lock()
			l.unsure++
			l.mu.Unlock()
		}
		// So that each has its turn.
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// A hearing is what one watch told, through all its connections.
type hearing struct {
	tales    map[string][]telling
	restarts int
}

func (h *hearing) listen(ctx context.Context, s *server, namespace, from string) error {
	last := version(from)
	for {
		w, err := s.maps(namespace).Watch(ctx, meta.ListOptions{ResourceVersion: from, AllowWatchBookmarks: true})
		if err != nil {
			if ctx.Err() != nil || apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
				return err
			}
			time.Sleep(100 * time.Millisecond)
			continue
		}
		for event := range w.ResultChan() {
			object, ok := event.Object.(*core.ConfigMap)
			if !ok {
				err := apierrors.FromObject(event.Object)
				if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
					return fmt.Errorf("from %s: %w", from, err)
				}
				break
			}
			at := version(object.ResourceVersion)
			if at < last || at == last && event.Type != watch.Bookmark {
				return fmt.Errorf("%s %s at version %d, after %d", event.Type, object.Name, at, last)
			}
			last, from = at, object.ResourceVersion
			if event.Type == watch.Bookmark {
				continue
			}
			h.tales[object.Name] = append(h.tales[object.Name], telling{event.Type, object.Name, object.Data["value"], at})
			if object.Name == theEnd {
				w.Stop()
				return nil
			}
		}
		w.Stop()
		if ctx.Err() != nil {
			return fmt.Errorf("it never told of the end: %w", ctx.Err())
		}
		h.restarts++
	}
}

// judge holds everybody to what was said.
func (l *loader) judge(ctx context.Context, heard []*hearing) error {
	var contents []map[string]string
	for _, s := range l.servers {
		there := map[string]string{}
		list, err := s.maps(l.namespace).List(ctx, meta.ListOptions{})
		if err != nil {
			return err
		}
		for _, object := range list.Items {
			there[object.Name] = object.Data["value"] + " at " + object.ResourceVersion
		}
		contents = append(contents, there)
		for name := range l.kept {
			if _, is := there[name]; !is {
				return fmt.Errorf("%s was created and acknowledged, and is not on %s", name, s.host)
			}
		}
		for name := range l.gone {
			if found, is := there[name]; is {
				return fmt.Errorf("%s was deleted and acknowledged, and is %s on %s", name, found, s.host)
			}
		}
		for name, versions := range l.acknowledged {
			newest := slices.Max(slices.Collect(maps.Keys(versions)))
			found, is := there[name]
			if !is {
				continue
			}
			var value string
			var at int64
			if _, err := fmt.Sscanf(found, "%s at %d", &value, &at); err != nil {
				return err
			}
			if at < newest {
				return fmt.Errorf("%s was acknowledged at version %d, and on %s it is of %d", name, newest, s.host, at)
			}
		}
	}
	for number, there := range contents[1:] {
		if !maps.Equal(there, contents[0]) {
			return fmt.Errorf("%s and %s do not show the same", l.servers[0].host, l.servers[number+1].host)
		}
	}
	counter, err := l.servers[0].maps(l.namespace).Get(ctx, "counter", meta.GetOptions{})
	if err != nil {
		return err
	}
	if found, told := number(counter.Data["value"]), len(l.turns); found < told || found > told+l.unsure {
		return fmt.Errorf("%d turns were acknowledged, %d more are unknown, and the counter is at %d", told, l.unsure, found)
	}
	for at, h := range heard {
		if err := l.complete(h, contents[0]); err != nil {
			return fmt.Errorf("the watch on %s: %w", l.servers[at].host, err)
		}
	}
	if len(l.kept) == 0 || len(l.gone) == 0 || len(l.turns) == 0 {
		return errors.New("nothing was written, so nothing is known")
	}
	return nil
}

// complete compares what a watch told with what was acknowledged, and with what there is.
func (l *loader) complete(h *hearing, there map[string]string) error {
	for name, versions := range l.acknowledged {
		told := map[int64]string{}
		for _, event := range h.tales[name] {
			told[event.version] = event.value
		}
		for at, value := range versions {
			// What it began with it does not tell.
			if name == "counter" && value == "0" {
				continue
			}
			if found, is := told[at]; !is || found != value {
				return fmt.Errorf("%s was acknowledged to be %s at version %d, and told was %q", name, value, at, found)
			}
		}
	}
	for name := range l.gone {
		tale := h.tales[name]
		if len(tale) == 0 || tale[len(tale)-1].kind != watch.Deleted {
			return fmt.Errorf("%s was deleted, and nothing told of it", name)
		}
	}
	for name, tale := range h.tales {
		last := tale[len(tale)-1]
		found, is := there[name]
		if last.kind == watch.Deleted {
			if is {
				return fmt.Errorf("%s was told to be gone, and is %s", name, found)
			}
		} else if found != fmt.Sprintf("%s at %d", last.value, last.version) {
			return fmt.Errorf("%s was told to be %s at %d, and is %q", name, last.value, last.version, found)
		}
	}
	return nil
}

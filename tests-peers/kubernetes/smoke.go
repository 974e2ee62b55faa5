package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/util/retry"

	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
)

// A check has a namespace of its own, empty when it begins.
type check struct {
	name string
	run  func(ctx context.Context, s *server, namespace string) error
}

var checks = []check{
	{"an object is created, read, updated, patched and deleted, and each change has a version of its own", lifecycle},
	{"what is out of date, there already or gone is refused as such", refusals},
	{"an object with a finalizer goes when its last finalizer does", finalizers},
	{"server-side apply tells who owns which field", applied},
	{"of many who increment one counter nobody's turn is lost", counter},
	{"an object of a megabyte comes back as it was", large},
	{"a watch tells every change once, in order, with what was deleted", watches},
	{"a watch with a selector sees objects come into it and leave it", selected},
	{"a watch that goes on from where another ended misses nothing", resumed},
	{"a watch that begins with what is there says when it was all", initial},
	{"a list is of one moment, whatever it is asked by", listed},
	{"pages are of one version, and count what is left exactly", paged},
	{"pages of what has no watch cache, likewise", pagedUncached},
	{"a list at an exact version is what there was then", exact},
	{"events are written, listed, watched, and end with their time", events},
	{"leases are taken and renewed, and nobody renews what another took", renewals},
	{"services get addresses, each its own", addresses},
	{"a resource that was defined can be used, and goes with its definition", defined},
	{"rules say who may do what, at once", rules},
}

func smoke(flags *flag.FlagSet) func(context.Context, []*server) error {
	only := flags.String("only", "", "those whose name has this `TEXT` in it")
	return func(ctx context.Context, servers []*server) error {
		played, failed := 0, 0
		for number, c := range checks {
			if !strings.Contains(c.name, *only) {
				continue
			}
			played++
			// Checks go to the servers in turn.
			s := servers[number%len(servers)]
			begun := time.Now()
			if err := s.try(ctx, fmt.Sprintf("smoke-%d", number), c); err != nil {
				failed++
				fmt.Printf("%s: FAILED: %v\n", c.name, err)
			} else {
				fmt.Printf("  %6.2f s  %s\n", time.Since(begun).Seconds(), c.name)
			}
		}
		fmt.Printf("smoke: %d checks, %d failed\n", played, failed)
		if failed > 0 || played == 0 {
			return errors.New("not everything works")
		}
		return nil
	}
}

func (s *server) try(ctx context.Context, namespace string, c check) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	if err := s.namespace(ctx, namespace); err != nil {
		return err
	}
	return c.run(ctx, s, namespace)
}

func (s *server) namespace(ctx context.Context, name string) error {
	namespace := &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: name}}
	_, err := s.core.CoreV1().Namespaces().Create(ctx, namespace, meta.CreateOptions{})
	return err
}

func (s *server) maps(namespace string) corev1.ConfigMapInterface {
	return s.core.CoreV1().ConfigMaps(namespace)
}

func configMap(name, value string) *core.ConfigMap {
	return &core.ConfigMap{ObjectMeta: meta.ObjectMeta{Name: name}, Data: map[string]string{"value": value}}
}

func lifecycle(ctx context.Context, s *server, namespace string) error {
	maps := s.maps(namespace)
	created, err := maps.Create(ctx, configMap("a", "1"), meta.CreateOptions{})
	if err != nil {
		return err
	}
	versions := []string{created.ResourceVersion}
	expect := func(object *core.ConfigMap, err error, value string) error {
		if err != nil {
			return err
		}
		versions = append(versions, object.ResourceVersion)
		read, err := maps.Get(ctx, "a", meta.GetOptions{})
		if err != nil {
			return err
		}
		if read.Data["value"] != value || read.ResourceVersion != object.ResourceVersion {
			return fmt.Errorf("%q was written at %s, %q is there at %s", value, object.ResourceVersion,
				read.Data["value"], read.ResourceVersion)
		}
		if read.UID != created.UID {
			return errors.New("it became another object")
		}
		return nil
	}
	updated := created.DeepCopy()
	updated.Data["value"] = "2"
	updated, err = maps.Update(ctx, updated, meta.UpdateOptions{})
	if err := expect(updated, err, "2"); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	for value, patch := range map[types.PatchType]string{
		types.MergePatchType:          `{"data":{"value":"merged"}}`,
		types.StrategicMergePatchType: `{"data":{"value":"strategic"}}`,
		types.JSONPatchType:           `[{"op":"replace","path":"/data/value","value":"json"}]`,
	} {
		patched, err := maps.Patch(ctx, "a", value, []byte(patch), meta.PatchOptions{})
		if err != nil {
			return fmt.Errorf("%s: %w", value, err)
		}
		if err := expect(patched, err, patched.Data["value"]); err != nil {
			return fmt.Errorf("%s: %w", value, err)
		}
		if patched.Data["value"] == "2" || patched.Data["value"] == "" {
			return fmt.Errorf("%s changed nothing", value)
		}
	}
	// What changes nothing is not written.
	last := versions[len(versions)-1]
	same, err := maps.Patch(ctx, "a", types.MergePatchType, []byte(`{}`), meta.PatchOptions{})
	if err != nil {
		return err
	}
	if same.ResourceVersion != last {
		return fmt.Errorf("a patch of nothing took it from %s to %s", last, same.ResourceVersion)
	}
	for number := 1; number < len(versions); number++ {
		if version(versions[number-1]) >= version(versions[number]) {
			return fmt.Errorf("versions run backward: %v", versions)
		}
	}
	if err := maps.Delete(ctx, "a", meta.DeleteOptions{}); err != nil {
		return err
	}
	if _, err := maps.Get(ctx, "a", meta.GetOptions{}); !apierrors.IsNotFound(err) {
		return fmt.Errorf("it was deleted, and a get says %v", err)
	}
	return nil
}

func refusals(ctx context.Context, s *server, namespace string) error {
	maps := s.maps(namespace)
	created, err := maps.Create(ctx, configMap("a", "1"), meta.CreateOptions{})
	if err != nil {
		return err
	}
	if _, err := maps.Create(ctx, configMap("a", "2"), meta.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("created twice: %v", err)
	}
	newer := created.DeepCopy()
	newer.Data["value"] = "2"
	if _, err := maps.Update(ctx, newer, meta.UpdateOptions{}); err != nil {
		return err
	}
	stale := created.DeepCopy()
	stale.Data["value"] = "3"
	if _, err := maps.Update(ctx, stale, meta.UpdateOptions{}); !apierrors.IsConflict(err) {
		return fmt.Errorf("updated from an old version: %v", err)
	}
	other := types.UID("another")
	err = maps.Delete(ctx, "a", meta.DeleteOptions{Preconditions: &meta.Preconditions{UID: &other}})
	if !apierrors.IsConflict(err) {
		return fmt.Errorf("deleted as another object: %v", err)
	}
	err = maps.Delete(ctx, "a", meta.DeleteOptions{Preconditions: &meta.Preconditions{ResourceVersion: &created.ResourceVersion}})
	if !apierrors.IsConflict(err) {
		return fmt.Errorf("deleted at an old version: %v", err)
	}
	if err := maps.Delete(ctx, "a", meta.DeleteOptions{}); err != nil {
		return err
	}
	if err := maps.Delete(ctx, "a", meta.DeleteOptions{}); !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleted twice: %v", err)
	}
	if _, err := maps.Update(ctx, configMap("never", "1"), meta.UpdateOptions{}); !apierrors.IsNotFound(err) {
		return fmt.Errorf("updated what never was: %v", err)
	}
	return nil
}

func finalizers(ctx context.Context, s *server, namespace string) error {
	maps := s.maps(namespace)
	object := configMap("a", "1")
	object.Finalizers = []string{"journal.example/one", "journal.example/two"}
	if _, err := maps.Create(ctx, object, meta.CreateOptions{}); err != nil {
		return err
	}
	if err := maps.Delete(ctx, "a", meta.DeleteOptions{}); err != nil {
		return err
	}
	for _, left := range [][]string{{"journal.example/two"}, {}} {
		object, err := maps.Get(ctx, "a", meta.GetOptions{})
		if err != nil {
			return err
		}
		if object.DeletionTimestamp == nil {
			return errors.New("nothing says that it is being deleted")
		}
		object.Finalizers = left
		if _, err := maps.Update(ctx, object, meta.UpdateOptions{}); err != nil {
			return err
		}
	}
	if _, err := maps.Get(ctx, "a", meta.GetOptions{}); !apierrors.IsNotFound(err) {
		return fmt.Errorf("its last finalizer went, and a get says %v", err)
	}
	return nil
}

func applied(ctx context.Context, s *server, namespace string) error {
	maps := s.maps(namespace)
	apply := func(who, value string, force bool) error {
		body := fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"value":%q}}`, value)
		options := meta.PatchOptions{FieldManager: who, Force: &force}
		_, err := maps.Patch(ctx, "a", types.ApplyPatchType, []byte(body), options)
		return err
	}
	if err := apply("one", "1", false); err != nil {
		return err
	}
	if err := apply("two", "2", false); !apierrors.IsConflict(err) {
		return fmt.Errorf("another took the field: %v", err)
	}
	if err := apply("two", "2", true); err != nil {
		return err
	}
	object, err := maps.Get(ctx, "a", meta.GetOptions{})
	if err != nil {
		return err
	}
	if object.Data["value"] != "2" || len(object.ManagedFields) == 0 {
		return fmt.Errorf("%v, managed by %d", object.Data, len(object.ManagedFields))
	}
	return nil
}

func counter(ctx context.Context, s *server, namespace string) error {
	const workers, turns = 12, 15
	maps := s.maps(namespace)
	if _, err := maps.Create(ctx, configMap("counter", "0"), meta.CreateOptions{}); err != nil {
		return err
	}
	patient := retry.DefaultRetry
	patient.Steps = 2000
	err := each(workers, func(int) error {
		for range turns {
			err := retry.RetryOnConflict(patient, func() error {
				object, err := maps.Get(ctx, "counter", meta.GetOptions{})
				if err != nil {
					return err
				}
				object.Data["value"] = fmt.Sprint(number(object.Data["value"]) + 1)
				_, err = maps.Update(ctx, object, meta.UpdateOptions{})
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	object, err := maps.Get(ctx, "counter", meta.GetOptions{})
	if err != nil {
		return err
	}
	if found := number(object.Data["value"]); found != workers*turns {
		return fmt.Errorf("%d were acknowledged, %d are there", workers*turns, found)
	}
	return nil
}

func large(ctx context.Context, s *server, namespace string) error {
	maps := s.maps(namespace)
	// Letters that no compression makes little of.
	letters := make([]byte, 1000*1000)
	state := uint32(1)
	for at := range letters {
		state = state*1664525 + 1013904223
		letters[at] = 'a' + byte(state>>24)%26
	}
	if _, err := maps.Create(ctx, configMap("large", string(letters)), meta.CreateOptions{}); err != nil {
		return err
	}
	list, err := maps.List(ctx, meta.ListOptions{FieldSelector: "metadata.name=large"})
	if err != nil {
		return err
	}
	if len(list.Items) != 1 || list.Items[0].Data["value"] != string(letters) {
		return errors.New("it is not what was written")
	}
	return nil
}

// A telling is what a watch said of one object, in short.
type telling struct {
	kind    watch.EventType
	name    string
	value   string
	version int64
}

// listen takes so many events of configmaps, bookmarks not counted.
func listen(ctx context.Context, w watch.Interface, count int) ([]telling, error) {
	defer w.Stop()
	var told []telling
	for len(told) < count {
		select {
		case event, open := <-w.ResultChan():
			if !open {
				return told, fmt.Errorf("the watch ended after %d of %d events", len(told), count)
			}
			switch object := event.Object.(type) {
			case *core.ConfigMap:
				if event.Type != watch.Bookmark {
					told = append(told, telling{event.Type, object.Name, object.Data["value"], version(object.ResourceVersion)})
				}
			default:
				return told, fmt.Errorf("after %d of %d events: %v", len(told), count, apierrors.FromObject(event.Object))
			}
		case <-ctx.Done():
			return told, fmt.Errorf("%d of %d events: %w", len(told), count, ctx.Err())
		}
	}
	return told, nil
}

// story makes some objects, changes them and deletes some, and answers what a watch must tell of it.
func story(ctx context.Context, maps corev1.ConfigMapInterface, prefix string) ([]telling, error) {
	var told []telling
	for number := range 6 {
		object, err := maps.Create(ctx, configMap(fmt.Sprintf("%s%d", prefix, number), "0"), meta.CreateOptions{})
		if err != nil {
			return nil, err
		}
		told = append(told, telling{watch.Added, object.Name, "0", version(object.ResourceVersion)})
		for turn := 1; turn <= 3; turn++ {
			object.Data["value"] = fmt.Sprint(turn)
			if object, err = maps.Update(ctx, object, meta.UpdateOptions{}); err != nil {
				return nil, err
			}
			told = append(told, telling{watch.Modified, object.Name, object.Data["value"], version(object.ResourceVersion)})
		}
		if number%2 == 0 {
			if err := maps.Delete(ctx, object.Name, meta.DeleteOptions{}); err != nil {
				return nil, err
			}
			// At which version it went nobody says but the watch.
			told = append(told, telling{watch.Deleted, object.Name, "3", 0})
		}
	}
	return told, nil
}

// same compares what was told with what must be, and asks that versions rise.
func same(found, wanted []telling) error {
	if len(found) != len(wanted) {
		return fmt.Errorf("%d events, not %d", len(found), len(wanted))
	}
	last := int64(0)
	for number, event := range found {
		if event.version <= last {
			return fmt.Errorf("event %d is of version %d, after %d", number, event.version, last)
		}
		last = event.version
		if wanted[number].version == 0 {
			event.version = 0
		}
		if event != wanted[number] {
			return fmt.Errorf("event %d is %v, not %v", number, event, wanted[number])
		}
	}
	return nil
}

func watches(ctx context.Context, s *server, namespace string) error {
	maps := s.maps(namespace)
	list, err := maps.List(ctx, meta.ListOptions{})
	if err != nil {
		return err
	}
	// Some begin before it happens, and one after.
	const before = 4
	heard := make(chan error, before)
	tales := make([][]telling, before)
	var open []watch.Interface
	for range before {
		w, err := maps.Watch(ctx, meta.ListOptions{ResourceVersion: list.ResourceVersion, AllowWatchBookmarks: true})
		if err != nil {
			return err
		}
		open = append(open, w)
	}
	const events = 6*4 + 3
	for number, w := range open {
		go func() {
			var err error
			tales[number], err = listen(ctx, w, events)
			heard <- err
		}()
	}
	wanted, err := story(ctx, maps, "w")
	if err != nil {
		return err
	}
	for range before {
		if err := <-heard; err != nil {
			return err
		}
	}
	w, err := maps.Watch(ctx, meta.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		return err
	}
	late, err := listen(ctx, w, events)
	if err != nil {
		return fmt.Errorf("a watch that began later: %w", err)
	}
	for _, tale := range append(tales, late) {
		if err := same(tale, wanted); err != nil {
			return err
		}
	}
	return nil
}

func selected(ctx context.Context, s *server, namespace string) error {
	maps := s.maps(namespace)
	w, err := maps.Watch(ctx, meta.ListOptions{LabelSelector: "in=yes"})
	if err != nil {
		return err
	}
	object, err := maps.Create(ctx, configMap("a", "0"), meta.CreateOptions{})
	if err != nil {
		return err
	}
	for turn, in := range []string{"yes", "yes", "no", "yes"} {
		object.Labels = map[string]string{"in": in}
		object.Data["value"] = fmt.Sprint(turn)
		if object, err = maps.Update(ctx, object, meta.UpdateOptions{}); err != nil {
			return err
		}
	}
	if err := maps.Delete(ctx, "a", meta.DeleteOptions{}); err != nil {
		return err
	}
	told, err := listen(ctx, w, 5)
	if err != nil {
		return err
	}
	var kinds []watch.EventType
	for _, event := range told {
		kinds = append(kinds, event.kind)
	}
	wanted := []watch.EventType{watch.Added, watch.Modified, watch.Deleted, watch.Added, watch.Deleted}
	if !slices.Equal(kinds, wanted) {
		return fmt.Errorf("%v, not %v", kinds, wanted)
	}
	return nil
}

func resumed(ctx context.Context, s *server, namespace string) error {
	maps := s.maps(namespace)
	list, err := maps.List(ctx, meta.ListOptions{})
	if err != nil {
		return err
	}
	wanted, err := story(ctx, maps, "r")
	if err != nil {
		return err
	}
	var told []telling
	from := list.ResourceVersion
	for len(told) < len(wanted) {
		w, err := maps.Watch(ctx, meta.ListOptions{ResourceVersion: from})
		if err != nil {
			return err
		}
		some, err := listen(ctx, w, min(4, len(wanted)-len(told)))
		if err != nil {
			return err
		}
		told = append(told, some...)
		from = fmt.Sprint(told[len(told)-1].version)
	}
	return same(told, wanted)
}

func initial(ctx context.Context, s *server, namespace string) error {
	maps := s.maps(namespace)
	wanted := map[string]bool{}
	for number := range 30 {
		object, err := maps.Create(ctx, configMap(fmt.Sprintf("i%02d", number), "0"), meta.CreateOptions{})
		if err != nil {
			return err
		}
		wanted[object.Name] = true
	}
	yes := true
	w, err := maps.Watch(ctx, meta.ListOptions{SendInitialEvents: &yes, AllowWatchBookmarks: true,
		ResourceVersionMatch: meta.ResourceVersionMatchNotOlderThan})
	if err != nil {
		return err
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		object, ok := event.Object.(*core.ConfigMap)
		switch {
		case !ok:
			return apierrors.FromObject(event.Object)
		case event.Type == watch.Added:
			delete(wanted, object.Name)
		case event.Type == watch.Bookmark && object.Annotations[meta.InitialEventsAnnotationKey] == "true":
			if len(wanted) > 0 {
				return fmt.Errorf("it said that this was all, without %d objects", len(wanted))
			}
			return nil
		}
	}
	return errors.New("the watch ended")
}

func listed(ctx context.Context, s *server, namespace string) error {
	maps := s.maps(namespace)
	for number := range 20 {
		object := configMap(fmt.Sprintf("l%02d", number), "0")
		object.Labels = map[string]string{"third": fmt.Sprint(number % 3)}
		object, err := maps.Create(ctx, object, meta.CreateOptions{})
		if err != nil {
			return err
		}
		for what, options := range map[string]meta.ListOptions{
			"the newest":     {},
			"not older than": {ResourceVersion: object.ResourceVersion, ResourceVersionMatch: meta.ResourceVersionMatchNotOlderThan},
			"exactly":        {ResourceVersion: object.ResourceVersion, ResourceVersionMatch: meta.ResourceVersionMatchExact},
		} {
			list, err := maps.List(ctx, options)
			if err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
			if len(list.Items) != number+1 {
				return fmt.Errorf("%s: %d objects, not %d", what, len(list.Items), number+1)
			}
			if version(list.ResourceVersion) < version(object.ResourceVersion) {
				return fmt.Errorf("%s: of version %s, after %s was written", what, list.ResourceVersion, object.ResourceVersion)
			}
		}
	}
	list, err := maps.List(ctx, meta.ListOptions{LabelSelector: "third=1"})
	if err != nil {
		return err
	}
	if len(list.Items) != 7 {
		return fmt.Errorf("by label: %d objects, not 7", len(list.Items))
	}
	// From the cache, as it is: it may be behind, it must be something.
	if _, err = maps.List(ctx, meta.ListOptions{ResourceVersion: "0"}); err != nil {
		return err
	}
	if err := maps.DeleteCollection(ctx, meta.DeleteOptions{}, meta.ListOptions{LabelSelector: "third=1"}); err != nil {
		return err
	}
	list, err = maps.List(ctx, meta.ListOptions{})
	if err != nil {
		return err
	}
	if len(list.Items) != 13 {
		return fmt.Errorf("after a collection was deleted: %d objects, not 13", len(list.Items))
	}
	return nil
}

func paged(ctx context.Context, s *server, namespace string) error {
	maps := s.maps(namespace)
	const all, page = 125, 20
	var wanted []string
	for number := range all {
		wanted = append(wanted, fmt.Sprintf("p%03d", number))
	}
	if err := each(8, func(worker int) error {
		for number := worker; number < all; number += 8 {
			if _, err := maps.Create(ctx, configMap(wanted[number], "0"), meta.CreateOptions{}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	var found []string
	options := meta.ListOptions{Limit: page}
	first := ""
	for {
		list, err := maps.List(ctx, options)
		if err != nil {
			return err
		}
		for _, object := range list.Items {
			if object.Data["value"] != "0" {
				return fmt.Errorf("a page shows what was written after the first one: %s", object.Name)
			}
			found = append(found, object.Name)
		}
		if first == "" {
			first = list.ResourceVersion
		}
		if list.ResourceVersion != first {
			return fmt.Errorf("a page of version %s after one of %s", list.ResourceVersion, first)
		}
		if list.Continue == "" {
			break
		}
		if left := list.RemainingItemCount; left == nil || *left != int64(all-len(found)) {
			return fmt.Errorf("after %d of %d, what is left is said to be %v", len(found), all, left)
		}
		// Neither what goes, nor what comes, nor what changes meanwhile belongs to it.
		middle := len(found) / page
		if err := maps.Delete(ctx, wanted[all-middle], meta.DeleteOptions{}); err != nil {
			return err
		}
		if _, err := maps.Create(ctx, configMap(fmt.Sprintf("p%03da", all-10-middle), "1"), meta.CreateOptions{}); err != nil {
			return err
		}
		if _, err := maps.Update(ctx, configMap(wanted[all-20-middle], "1"), meta.UpdateOptions{}); err != nil {
			return err
		}
		options.Continue = list.Continue
	}
	if !slices.Equal(found, wanted) {
		return fmt.Errorf("%d names, not the %d that there were", len(found), all)
	}
	return nil
}

func pagedUncached(ctx context.Context, s *server, namespace string) error {
	const all, page = 60, 7
	written := s.core.CoreV1().Events(namespace)
	var wanted []string
	for number := range all {
		event := someEvent(namespace, fmt.Sprintf("e%03d", number))
		if _, err := written.Create(ctx, event, meta.CreateOptions{}); err != nil {
			return err
		}
		wanted = append(wanted, event.Name)
	}
	var found []string
	options := meta.ListOptions{Limit: page}
	first := ""
	for {
		list, err := written.List(ctx, options)
		if err != nil {
			return err
		}
		for _, event := range list.Items {
			found = append(found, event.Name)
		}
		if first == "" {
			first = list.ResourceVersion
		}
		if list.ResourceVersion != first {
			return fmt.Errorf("a page of version %s after one of %s", list.ResourceVersion, first)
		}
		if list.Continue == "" {
			break
		}
		if left := list.RemainingItemCount; left == nil || *left != int64(all-len(found)) {
			return fmt.Errorf("after %d of %d, what is left is said to be %v", len(found), all, left)
		}
		if err := written.Delete(ctx, wanted[all-1-len(found)/page], meta.DeleteOptions{}); err != nil {
			return err
		}
		options.Continue = list.Continue
	}
	if !slices.Equal(found, wanted) {
		return fmt.Errorf("%d names, not the %d that there were", len(found), all)
	}
	return nil
}

func exact(ctx context.Context, s *server, namespace string) error {
	maps := s.maps(namespace)
	// What there was at each version, as the one who wrote it knows.
	moments := map[string][]string{}
	there := map[string]string{}
	remember := func(version string) {
		var all []string
		for name, value := range there {
			all = append(all, name+"="+value)
		}
		sort.Strings(all)
		moments[version] = all
	}
	for number := range 25 {
		name := fmt.Sprintf("x%02d", number%10)
		object := configMap(name, fmt.Sprint(number))
		var err error
		if _, is := there[name]; is {
			object, err = maps.Update(ctx, object, meta.UpdateOptions{})
		} else {
			object, err = maps.Create(ctx, object, meta.CreateOptions{})
		}
		if err != nil {
			return err
		}
		there[name] = object.Data["value"]
		remember(object.ResourceVersion)
		if number%4 == 3 {
			if err := maps.Delete(ctx, name, meta.DeleteOptions{}); err != nil {
				return err
			}
			delete(there, name)
		}
	}
	for version, wanted := range moments {
		list, err := maps.List(ctx, meta.ListOptions{ResourceVersion: version, ResourceVersionMatch: meta.ResourceVersionMatchExact})
		if err != nil {
			return fmt.Errorf("at %s: %w", version, err)
		}
		var found []string
		for _, object := range list.Items {
			found = append(found, object.Name+"="+object.Data["value"])
		}
		sort.Strings(found)
		if list.ResourceVersion != version || !slices.Equal(found, wanted) {
			return fmt.Errorf("at %s there was %v, at %s is shown %v", version, wanted, list.ResourceVersion, found)
		}
	}
	return nil
}

func addresses(ctx context.Context, s *server, namespace string) error {
	const all = 24
	var mu sync.Mutex
	taken := map[string]string{}
	return each(all, func(number int) error {
		service := &core.Service{ObjectMeta: meta.ObjectMeta{Name: fmt.Sprintf("s%d", number)},
			Spec: core.ServiceSpec{Type: core.ServiceTypeNodePort, Ports: []core.ServicePort{{Port: 80}}}}
		service, err := s.core.CoreV1().Services(namespace).Create(ctx, service, meta.CreateOptions{})
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for _, address := range []string{service.Spec.ClusterIP, fmt.Sprint(service.Spec.Ports[0].NodePort)} {
			if other, is := taken[address]; is || address == "" || address == "0" {
				return fmt.Errorf("%s and %s both have %q", service.Name, other, address)
			}
			taken[address] = service.Name
		}
		return nil
	})
}

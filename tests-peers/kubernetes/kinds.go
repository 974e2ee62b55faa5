package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	coordination "k8s.io/api/coordination/v1"
	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	definitions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// version is how a resource version compares with others. What is none comes before all.
func version(text string) int64 {
	number, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0
	}
	return number
}

// number is what a counter holds.
func number(text string) int {
	number, err := strconv.Atoi(text)
	if err != nil {
		return -1
	}
	return number
}

func someEvent(namespace, name string) *core.Event {
	now := meta.Now()
	return &core.Event{
		ObjectMeta:     meta.ObjectMeta{Name: name, Namespace: namespace},
		InvolvedObject: core.ObjectReference{Kind: "ConfigMap", Namespace: namespace, Name: "something"},
		Reason:         "Tried", Message: "to see", Type: core.EventTypeNormal,
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}
}

// events live as long as the server's --event-ttl says, which is short here.
func events(ctx context.Context, s *server, namespace string) error {
	written := s.core.CoreV1().Events(namespace)
	list, err := written.List(ctx, meta.ListOptions{})
	if err != nil {
		return err
	}
	w, err := written.Watch(ctx, meta.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		return err
	}
	defer w.Stop()
	begun := time.Now()
	const all = 30
	for number := range all {
		if _, err := written.Create(ctx, someEvent(namespace, fmt.Sprintf("e%02d", number)), meta.CreateOptions{}); err != nil {
			return err
		}
	}
	if list, err = written.List(ctx, meta.ListOptions{FieldSelector: "reason=Tried"}); err != nil {
		return err
	}
	if len(list.Items) != all {
		return fmt.Errorf("%d events, not %d", len(list.Items), all)
	}
	// The same events by their newer name.
	newer, err := s.core.EventsV1().Events(namespace).List(ctx, meta.ListOptions{})
	if err != nil {
		return err
	}
	if len(newer.Items) != all {
		return fmt.Errorf("by the newer name: %d events, not %d", len(newer.Items), all)
	}
	// They end by themselves, and the watch says so.
	added, ended := 0, 0
	for ended < all {
		select {
		case event, open := <-w.ResultChan():
			if !open {
				return fmt.Errorf("the watch ended after %d came and %d went", added, ended)
			}
			switch event.Type {
			case watch.Added:
				added++
			case watch.Deleted:
				ended++
			default:
				return fmt.Errorf("%s: %v", event.Type, event.Object)
			}
		case <-ctx.Done():
			return fmt.Errorf("%d came, %d went: %w", added, ended, ctx.Err())
		}
	}
	if added != all {
		return fmt.Errorf("the watch told of %d of %d", added, all)
	}
	if lived := time.Since(begun); lived < eventsLive {
		return fmt.Errorf("all had ended after %v", lived)
	}
	if list, err = written.List(ctx, meta.ListOptions{}); err != nil {
		return err
	}
	if len(list.Items) != 0 {
		return fmt.Errorf("%d are still there", len(list.Items))
	}
	return nil
}

// eventsLive is the --event-ttl that servers are started with.
const eventsLive = 20 * time.Second

func renewals(ctx context.Context, s *server, namespace string) error {
	const turns = 40
	leases := s.core.CoordinationV1().Leases(namespace)
	holder := func(name string) *coordination.Lease {
		seconds, now := int32(15), meta.NowMicro()
		return &coordination.Lease{ObjectMeta: meta.ObjectMeta{Name: "l"}, Spec: coordination.LeaseSpec{
			HolderIdentity: &name, LeaseDurationSeconds: &seconds, AcquireTime: &now, RenewTime: &now}}
	}
	taken, err := leases.Create(ctx, holder("one"), meta.CreateOptions{})
	if err != nil {
		return err
	}
	if _, err := leases.Create(ctx, holder("two"), meta.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("another took it: %v", err)
	}
	before := taken.DeepCopy()
	for range turns {
		now := meta.NowMicro()
		taken.Spec.RenewTime = &now
		if taken, err = leases.Update(ctx, taken, meta.UpdateOptions{}); err != nil {
			return err
		}
	}
	two := "two"
	before.Spec.HolderIdentity = &two
	if _, err := leases.Update(ctx, before, meta.UpdateOptions{}); !apierrors.IsConflict(err) {
		return fmt.Errorf("it was taken from one who renews it: %v", err)
	}
	return nil
}

func defined(ctx context.Context, s *server, namespace string) error {
	const all = 23
	kind := schema.GroupVersionResource{Group: "journal.example", Version: "v1", Resource: "things"}
	if err := define(ctx, s); err != nil {
		return err
	}
	things := s.dynamic.Resource(kind).Namespace(namespace)
	thing := func(name string, size int64) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "journal.example/v1", "kind": "Thing",
			"metadata": map[string]any{"name": name}, "spec": map[string]any{"size": size}}}
	}
	// The first may come before the server has its store for them.
	var first *unstructured.Unstructured
	err := within(ctx, 30*time.Second, 50*time.Millisecond, func(ctx context.Context) (err error) {
		first, err = things.Create(ctx, thing("t00", 0), meta.CreateOptions{})
		return err
	})
	if err != nil {
		return err
	}
	w, err := things.Watch(ctx, meta.ListOptions{ResourceVersion: first.GetResourceVersion()})
	if err != nil {
		return err
	}
	defer w.Stop()
	for number := 1; number < all; number++ {
		if _, err := things.Create(ctx, thing(fmt.Sprintf("t%02d", number), int64(number)), meta.CreateOptions{}); err != nil {
			return err
		}
	}
	if _, err := things.Create(ctx, thing("wrong", -1), meta.CreateOptions{}); !apierrors.IsInvalid(err) {
		return fmt.Errorf("its schema forbids it: %v", err)
	}
	_, err = things.Patch(ctx, "t00", types.MergePatchType, []byte(`{"status":{"seen":true}}`), meta.PatchOptions{}, "status")
	if err != nil {
		return err
	}
	_, err = things.Patch(ctx, "t00", types.MergePatchType, []byte(`{"spec":{"size":7}}`), meta.PatchOptions{})
	if err != nil {
		return err
	}
	read, err := things.Get(ctx, "t00", meta.GetOptions{})
	if err != nil {
		return err
	}
	seen, _, _ := unstructured.NestedBool(read.Object, "status", "seen")
	size, _, _ := unstructured.NestedInt64(read.Object, "spec", "size")
	if !seen || size != 7 {
		return fmt.Errorf("patched in two ways it is %v", read.Object)
	}
	var names []string
	options := meta.ListOptions{Limit: 5}
	for {
		list, err := things.List(ctx, options)
		if err != nil {
			return err
		}
		for _, item := range list.Items {
			names = append(names, item.GetName())
		}
		if options.Continue = list.GetContinue(); options.Continue == "" {
			break
		}
	}
	if len(names) != all || !slices.IsSorted(names) {
		return fmt.Errorf("pages of %v", names)
	}
	for told := 0; told < all-1+2; told++ {
		select {
		case event, open := <-w.ResultChan():
			if !open || event.Type == watch.Error {
				return fmt.Errorf("after %d events: %v", told, event.Object)
			}
		case <-ctx.Done():
			return fmt.Errorf("after %d events: %w", told, ctx.Err())
		}
	}
	if err := s.types.ApiextensionsV1().CustomResourceDefinitions().Delete(ctx, "things.journal.example", meta.DeleteOptions{}); err != nil {
		return err
	}
	// Its definition goes only once all of them are gone.
	return within(ctx, 90*time.Second, 100*time.Millisecond, func(ctx context.Context) error {
		_, err := s.types.ApiextensionsV1().CustomResourceDefinitions().Get(ctx, "things.journal.example", meta.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("the definition is still there: %v", err)
		}
		if _, err := things.List(ctx, meta.ListOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("they can still be listed: %v", err)
		}
		return nil
	})
}

func define(ctx context.Context, s *server) error {
	zero, keep := 0.0, true
	object := func(fields map[string]definitions.JSONSchemaProps) definitions.JSONSchemaProps {
		return definitions.JSONSchemaProps{Type: "object", Properties: fields, XPreserveUnknownFields: &keep}
	}
	form := object(map[string]definitions.JSONSchemaProps{
		"spec":   object(map[string]definitions.JSONSchemaProps{"size": {Type: "integer", Minimum: &zero}}),
		"status": object(nil),
	})
	definition := &definitions.CustomResourceDefinition{
		ObjectMeta: meta.ObjectMeta{Name: "things.journal.example"},
		Spec: definitions.CustomResourceDefinitionSpec{
			Group: "journal.example", Scope: definitions.NamespaceScoped,
			Names: definitions.CustomResourceDefinitionNames{Plural: "things", Singular: "thing", Kind: "Thing", ListKind: "ThingList"},
			Versions: []definitions.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Storage: true,
				Schema:       &definitions.CustomResourceValidation{OpenAPIV3Schema: &form},
				Subresources: &definitions.CustomResourceSubresources{Status: &definitions.CustomResourceSubresourceStatus{}}}},
		}}
	all := s.types.ApiextensionsV1().CustomResourceDefinitions()
	if _, err := all.Create(ctx, definition, meta.CreateOptions{}); err != nil {
		return err
	}
	return within(ctx, 30*time.Second, 50*time.Millisecond, func(ctx context.Context) error {
		read, err := all.Get(ctx, definition.Name, meta.GetOptions{})
		if err != nil {
			return err
		}
		for _, condition := range read.Status.Conditions {
			if condition.Type == definitions.Established && condition.Status == definitions.ConditionTrue {
				return nil
			}
		}
		return errors.New("it is not established")
	})
}

func rules(ctx context.Context, s *server, namespace string) error {
	config := rest.CopyConfig(s.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: "somebody"}
	somebody, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	maps := somebody.CoreV1().ConfigMaps(namespace)
	if _, err := maps.List(ctx, meta.ListOptions{}); !apierrors.IsForbidden(err) {
		return fmt.Errorf("nobody allowed it: %v", err)
	}
	role := &rbac.Role{ObjectMeta: meta.ObjectMeta{Name: "reads"},
		Rules: []rbac.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"list"}}}}
	if _, err := s.core.RbacV1().Roles(namespace).Create(ctx, role, meta.CreateOptions{}); err != nil {
		return err
	}
	binding := &rbac.RoleBinding{ObjectMeta: meta.ObjectMeta{Name: "somebody-reads"},
		Subjects: []rbac.Subject{{Kind: "User", Name: "somebody", APIGroup: rbac.GroupName}},
		RoleRef:  rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "Role", Name: "reads"}}
	if _, err := s.core.RbacV1().RoleBindings(namespace).Create(ctx, binding, meta.CreateOptions{}); err != nil {
		return err
	}
	// The server hears of it from its own watch.
	err = within(ctx, 10*time.Second, 20*time.Millisecond, func(ctx context.Context) error {
		_, err := maps.List(ctx, meta.ListOptions{})
		return err
	})
	if err != nil {
		return err
	}
	if _, err := maps.Create(ctx, configMap("a", "1"), meta.CreateOptions{}); !apierrors.IsForbidden(err) {
		return fmt.Errorf("only lists were allowed: %v", err)
	}
	return nil
}

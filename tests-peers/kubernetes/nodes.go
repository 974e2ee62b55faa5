package main

import (
	"context"
	"flag"
	"fmt"
	"time"

	coordination "k8s.io/api/coordination/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// nodes plays so many kubelets: each keeps a Node ready and its lease renewed, says of each pod that was
// bound to it that it runs, and lets it go when it shall. Nothing runs.
func nodes(flags *flag.FlagSet) func(context.Context, []*server) error {
	count := flags.Int("count", 5, "how many")
	return func(ctx context.Context, servers []*server) error {
		s := servers[0]
		names := make([]string, *count)
		for number := range names {
			names[number] = fmt.Sprintf("node-%d", number)
			if err := s.join(ctx, names[number]); err != nil {
				return err
			}
			go s.renew(ctx, names[number])
		}
		fmt.Printf("%d nodes\n", *count)
		s.play(ctx)
		// Whoever started it ends it.
		return nil
	}
}

const (
	leases = "kube-node-lease"
	// As a kubelet does.
	renewal = 10 * time.Second
)

func (s *server) join(ctx context.Context, name string) error {
	room := core.ResourceList{
		core.ResourceCPU: resource.MustParse("16"), core.ResourceMemory: resource.MustParse("64Gi"),
		core.ResourcePods: resource.MustParse("110"), core.ResourceEphemeralStorage: resource.MustParse("100Gi"),
	}
	node := &core.Node{
		ObjectMeta: meta.ObjectMeta{Name: name, Labels: map[string]string{core.LabelHostname: name, core.LabelOSStable: "linux"}},
	}
	node, err := s.core.CoreV1().Nodes().Create(ctx, node, meta.CreateOptions{})
	if err != nil {
		return err
	}
	now := meta.Now()
	node.Status = core.NodeStatus{
		Capacity: room, Allocatable: room,
		Conditions: []core.NodeCondition{{Type: core.NodeReady, Status: core.ConditionTrue, Reason: "Played",
			LastHeartbeatTime: now, LastTransitionTime: now}},
		Addresses: []core.NodeAddress{{Type: core.NodeHostName, Address: name}},
		NodeInfo:  core.NodeSystemInfo{KubeletVersion: "v1.36.3", OperatingSystem: "linux", Architecture: "amd64"},
	}
	_, err = s.core.CoreV1().Nodes().UpdateStatus(ctx, node, meta.UpdateOptions{})
	return err
}

func (s *server) renew(ctx context.Context, name string) {
	all := s.core.CoordinationV1().Leases(leases)
	seconds := int32(40)
	for {
		now := meta.NowMicro()
		lease, err := all.Get(ctx, name, meta.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			_, err = all.Create(ctx, &coordination.Lease{ObjectMeta: meta.ObjectMeta{Name: name},
				Spec: coordination.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: &seconds, RenewTime: &now}}, meta.CreateOptions{})
		case err == nil:
			lease.Spec.RenewTime = &now
			_, err = all.Update(ctx, lease, meta.UpdateOptions{})
		}
		wait := renewal
		if err != nil {
			// Until its namespace is there, for one.
			wait = 200 * time.Millisecond
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// play follows all pods that are bound, until the end.
func (s *server) play(ctx context.Context) {
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[cache.ObjectName]())
	source := cache.NewListWatchFromClient(s.core.CoreV1().RESTClient(), "pods", "", fields.OneTermNotEqualSelector("spec.nodeName", ""))
	add := func(object any) {
		if pod, ok := object.(*core.Pod); ok {
			queue.Add(cache.MetaObjectToName(pod))
		}
	}
	pods, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: source, ObjectType: &core.Pod{},
		Handler: cache.ResourceEventHandlerFuncs{AddFunc: add, UpdateFunc: func(_, object any) { add(object) }},
	})
	go controller.RunWithContext(ctx)
	for range 8 {
		go func() {
			for {
				name, ended := queue.Get()
				if ended {
					return
				}
				object, is, err := pods.GetByKey(name.String())
				if is && err == nil {
					err = s.tend(ctx, object.(*core.Pod))
				}
				if err != nil {
					queue.AddRateLimited(name)
				} else {
					queue.Forget(name)
				}
				queue.Done(name)
			}
		}()
	}
	<-ctx.Done()
	queue.ShutDown()
}

// tend does what a kubelet would do about one pod.
func (s *server) tend(ctx context.Context, pod *core.Pod) error {
	all := s.core.CoreV1().Pods(pod.Namespace)
	if pod.DeletionTimestamp != nil {
		now := int64(0)
		err := all.Delete(ctx, pod.Name, meta.DeleteOptions{GracePeriodSeconds: &now, Preconditions: meta.NewUIDPreconditions(string(pod.UID))})
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return nil
		}
		return err
	}
	if pod.Status.Phase == core.PodRunning {
		return nil
	}
	running := pod.DeepCopy()
	now := meta.Now()
	running.Status.Phase = core.PodRunning
	running.Status.StartTime = &now
	running.Status.PodIP = "192.0.2.10"
	for _, kind := range []core.PodConditionType{core.PodInitialized, core.ContainersReady, core.PodReady} {
		running.Status.Conditions = append(running.Status.Conditions,
			core.PodCondition{Type: kind, Status: core.ConditionTrue, LastTransitionTime: now})
	}
	for _, container := range pod.Spec.Containers {
		running.Status.ContainerStatuses = append(running.Status.ContainerStatuses, core.ContainerStatus{Name: container.Name,
			Image: container.Image, Ready: true, State: core.ContainerState{Running: &core.ContainerStateRunning{StartedAt: now}}})
	}
	_, err := all.UpdateStatus(ctx, running, meta.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"time"

	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	patience = 2 * time.Minute
	glance   = 50 * time.Millisecond
)

var app = map[string]string{"app": "web"}

// workload does what a person would, and waits for scheduler and controllers to follow.
func workload(flags *flag.FlagSet) func(context.Context, []*server) error {
	count := flags.Int("pods", 48, "in the deployment")
	namespace := flags.String("namespace", "workload", "where")
	return func(ctx context.Context, servers []*server) error {
		s := servers[0]
		if err := s.namespace(ctx, *namespace); err != nil {
			return err
		}
		// Controllers tell that they are there by what they make in each namespace.
		err := within(ctx, patience, glance, func(ctx context.Context) error {
			_, err := s.maps(*namespace).Get(ctx, "kube-root-ca.crt", meta.GetOptions{})
			return err
		})
		if err != nil {
			return fmt.Errorf("the controllers do nothing: %w", err)
		}
		for _, step := range []struct {
			name string
			run  func(context.Context, *server, string, int) error
		}{
			{"deployed: all pods scheduled and running", deploy},
			{"scaled up by half", scaledUp},
			{"rolled to another image", rolled},
			{"scaled down to three", scaledDown},
			{"a job ended", job},
			{"deleted: the collector took replica sets and pods", deleted},
			{"the namespace is gone, and all in it", emptied},
		} {
			begun := time.Now()
			if err := step.run(ctx, s, *namespace, *count); err != nil {
				return fmt.Errorf("%s: %w", step.name, err)
			}
			fmt.Printf("  %6.2f s  %s\n", time.Since(begun).Seconds(), step.name)
		}
		return nil
	}
}

func template(image string, labels map[string]string) core.PodTemplateSpec {
	no, now := false, int64(1)
	return core.PodTemplateSpec{
		ObjectMeta: meta.ObjectMeta{Labels: labels},
		Spec: core.PodSpec{
			AutomountServiceAccountToken: &no, TerminationGracePeriodSeconds: &now,
			Containers: []core.Container{{Name: "c", Image: image}},
			TopologySpreadConstraints: []core.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: core.LabelHostname,
				WhenUnsatisfiable: core.DoNotSchedule, LabelSelector: &meta.LabelSelector{MatchLabels: labels}}},
		},
	}
}

func deploy(ctx context.Context, s *server, namespace string, count int) error {
	replicas := int32(count)
	deployment := &apps.Deployment{ObjectMeta: meta.ObjectMeta{Name: "web"}, Spec: apps.DeploymentSpec{
		Replicas: &replicas, Selector: &meta.LabelSelector{MatchLabels: app}, Template: template("one", app)}}
	if _, err := s.core.AppsV1().Deployments(namespace).Create(ctx, deployment, meta.CreateOptions{}); err != nil {
		return err
	}
	if err := runs(ctx, s, namespace, count, "one"); err != nil {
		return err
	}
	// Nothing is bound beyond what it may be: the nodes have equal shares.
	pods, err := s.core.CoreV1().Pods(namespace).List(ctx, meta.ListOptions{LabelSelector: "app=web"})
	if err != nil {
		return err
	}
	shares := map[string]int{}
	for _, pod := range pods.Items {
		shares[pod.Spec.NodeName]++
	}
	nodes, err := s.core.CoreV1().Nodes().List(ctx, meta.ListOptions{})
	if err != nil {
		return err
	}
	least, most := count, 0
	for _, node := range nodes.Items {
		least, most = min(least, shares[node.Name]), max(most, shares[node.Name])
	}
	if most-least > 1 {
		return fmt.Errorf("the nodes have from %d to %d pods each: %v", least, most, shares)
	}
	return nil
}

// runs waits until exactly so many pods run, all with this image and each on a node.
func runs(ctx context.Context, s *server, namespace string, count int, image string) error {
	return within(ctx, patience, glance, func(ctx context.Context) error {
		deployment, err := s.core.AppsV1().Deployments(namespace).Get(ctx, "web", meta.GetOptions{})
		if err != nil {
			return err
		}
		pods, err := s.core.CoreV1().Pods(namespace).List(ctx, meta.ListOptions{LabelSelector: "app=web"})
		if err != nil {
			return err
		}
		running, bound := 0, 0
		for _, pod := range pods.Items {
			if pod.Spec.NodeName != "" {
				bound++
			}
			if pod.Status.Phase == core.PodRunning && pod.DeletionTimestamp == nil && pod.Spec.Containers[0].Image == image {
				running++
			}
		}
		status := deployment.Status
		if running != count || len(pods.Items) != count || int(status.AvailableReplicas) != count ||
			int(status.UpdatedReplicas) != count || status.ObservedGeneration != deployment.Generation {
			return fmt.Errorf("of %d pods %d are on nodes and %d run as they shall; %d shall; the deployment counts %d",
				len(pods.Items), bound, running, count, status.AvailableReplicas)
		}
		return nil
	})
}

func scale(ctx context.Context, s *server, namespace string, count int) error {
	patch := fmt.Sprintf(`{"spec":{"replicas":%d}}`, count)
	_, err := s.core.AppsV1().Deployments(namespace).Patch(ctx, "web", types.MergePatchType, []byte(patch), meta.PatchOptions{})
	return err
}

func scaledUp(ctx context.Context, s *server, namespace string, count int) error {
	if err := scale(ctx, s, namespace, count+count/2); err != nil {
		return err
	}
	return runs(ctx, s, namespace, count+count/2, "one")
}

func rolled(ctx context.Context, s *server, namespace string, count int) error {
	patch := `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"two"}]}}}}`
	_, err := s.core.AppsV1().Deployments(namespace).Patch(ctx, "web", types.StrategicMergePatchType, []byte(patch), meta.PatchOptions{})
	if err != nil {
		return err
	}
	return runs(ctx, s, namespace, count+count/2, "two")
}

func scaledDown(ctx context.Context, s *server, namespace string, _ int) error {
	if err := scale(ctx, s, namespace, 3); err != nil {
		return err
	}
	return runs(ctx, s, namespace, 3, "two")
}

// job has pods that end by themselves: this program says so, being their kubelet for once.
func job(ctx context.Context, s *server, namespace string, _ int) error {
	const pods = 6
	count := int32(pods)
	labels := map[string]string{"app": "job"}
	work := template("one", labels)
	work.Spec.RestartPolicy = core.RestartPolicyNever
	_, err := s.core.BatchV1().Jobs(namespace).Create(ctx, &batch.Job{ObjectMeta: meta.ObjectMeta{Name: "job"},
		Spec: batch.JobSpec{Parallelism: &count, Completions: &count, Template: work}}, meta.CreateOptions{})
	if err != nil {
		return err
	}
	ended := map[types.UID]bool{}
	return within(ctx, patience, glance, func(ctx context.Context) error {
		list, err := s.core.CoreV1().Pods(namespace).List(ctx, meta.ListOptions{LabelSelector: "app=job"})
		if err != nil {
			return err
		}
		for _, pod := range list.Items {
			if pod.Status.Phase != core.PodRunning || ended[pod.UID] {
				continue
			}
			pod.Status.Phase = core.PodSucceeded
			for number := range pod.Status.ContainerStatuses {
				pod.Status.ContainerStatuses[number].State = core.ContainerState{Terminated: &core.ContainerStateTerminated{Reason: "Completed"}}
			}
			if _, err := s.core.CoreV1().Pods(namespace).UpdateStatus(ctx, &pod, meta.UpdateOptions{}); err != nil {
				return err
			}
			ended[pod.UID] = true
		}
		found, err := s.core.BatchV1().Jobs(namespace).Get(ctx, "job", meta.GetOptions{})
		if err != nil {
			return err
		}
		if found.Status.Succeeded != pods || found.Status.CompletionTime == nil {
			return fmt.Errorf("%d of %d pods ended, and %d are counted", len(ended), pods, found.Status.Succeeded)
		}
		return nil
	})
}

func deleted(ctx context.Context, s *server, namespace string, _ int) error {
	background := meta.DeletePropagationBackground
	if err := s.core.AppsV1().Deployments(namespace).Delete(ctx, "web", meta.DeleteOptions{PropagationPolicy: &background}); err != nil {
		return err
	}
	return within(ctx, patience, glance, func(ctx context.Context) error {
		sets, err := s.core.AppsV1().ReplicaSets(namespace).List(ctx, meta.ListOptions{})
		if err != nil {
			return err
		}
		pods, err := s.core.CoreV1().Pods(namespace).List(ctx, meta.ListOptions{LabelSelector: "app=web"})
		if err != nil {
			return err
		}
		if len(sets.Items) > 0 || len(pods.Items) > 0 {
			return fmt.Errorf("%d replica sets and %d pods are left", len(sets.Items), len(pods.Items))
		}
		return nil
	})
}

func emptied(ctx context.Context, s *server, namespace string, _ int) error {
	for number := range 30 {
		if _, err := s.maps(namespace).Create(ctx, configMap(fmt.Sprintf("left%02d", number), "0"), meta.CreateOptions{}); err != nil {
			return err
		}
	}
	// With a deployment that works, which must end too.
	if err := deploy(ctx, s, namespace, 10); err != nil {
		return err
	}
	if err := s.core.CoreV1().Namespaces().Delete(ctx, namespace, meta.DeleteOptions{}); err != nil {
		return err
	}
	err := within(ctx, patience, glance, func(ctx context.Context) error {
		found, err := s.core.CoreV1().Namespaces().Get(ctx, namespace, meta.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		return fmt.Errorf("it is %s: %v", found.Status.Phase, found.Status.Conditions)
	})
	if err != nil {
		return err
	}
	pods, err := s.core.CoreV1().Pods(namespace).List(ctx, meta.ListOptions{})
	if err != nil {
		return err
	}
	left, err := s.maps(namespace).List(ctx, meta.ListOptions{})
	if err != nil {
		return err
	}
	if len(pods.Items)+len(left.Items) > 0 {
		return errors.New("the namespace is gone, and not all that was in it")
	}
	return nil
}

// Package main drives an adapter with etcd's own Go client, and with the packages that are built on it:
// mutexes, elections and software transactional memory, ordering, namespaces, leasing and mirrors. Each
// check can fail, and says of what.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/client/v3/leasing"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/ordering"
)

type check struct {
	name string
	run  func(context.Context, func() *clientv3.Client) error
}

var checks = []check{
	{"a mutex has one owner at a time", mutex},
	{"a mutex goes on when its owner's session ends", mutexOfDead},
	{"trying a mutex that is held fails at once", tryMutex},
	{"an election has one leader, and everybody hears of the next", election},
	{"transfers by transactional memory lose nothing", stm},
	{"a read is never older than one before it", order},
	{"a namespace hides its prefix, and everything else", spaces},
	{"cached keys are never stale", leases},
	{"a mirror has what there is, and every change of it", mirrors},
	{"a watch goes on through every change, once", watches},
	{"a lease that is kept alive stays, and one that is not goes", kept},
}

func main() {
	endpoints := flag.String("endpoints", "", "`HOST:PORT`s, with commas between them")
	flag.Parse()
	if *endpoints == "" {
		fmt.Fprintln(os.Stderr, "--endpoints, please")
		os.Exit(2)
	}
	failed := 0
	for _, c := range checks {
		if err := try(strings.Split(*endpoints, ","), c); err != nil {
			failed++
			fmt.Printf("%s: FAILED: %v\n", c.name, err)
		}
	}
	fmt.Printf("clients: %d checks, %d failed\n", len(checks), failed)
	if failed > 0 {
		os.Exit(1)
	}
}

// try gives a check clients of its own, each on its own connection.
func try(endpoints []string, c check) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var mu sync.Mutex
	var open []*clientv3.Client
	defer func() {
		for _, client := range open {
			client.Close()
		}
	}()
	fresh := func() *clientv3.Client {
		client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 10 * time.Second, Context: ctx})
		if err != nil {
			panic(err)
		}
		mu.Lock()
		defer mu.Unlock()
		open = append(open, client)
		return client
	}
	return c.run(ctx, fresh)
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

func mutex(ctx context.Context, fresh func() *clientv3.Client) error {
	const workers, turns = 4, 10
	var inside, entered atomic.Int64
	err := each(workers, func(int) error {
		session, err := concurrency.NewSession(fresh(), concurrency.WithTTL(30))
		if err != nil {
			return err
		}
		defer session.Close()
		m := concurrency.NewMutex(session, "clients/mutex")
		for range turns {
			if err := m.Lock(ctx); err != nil {
				return err
			}
			if inside.Add(1) != 1 {
				return fmt.Errorf("two are inside")
			}
			entered.Add(1)
			time.Sleep(time.Millisecond)
			inside.Add(-1)
			if err := m.Unlock(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && entered.Load() != workers*turns {
		err = fmt.Errorf("%d entered", entered.Load())
	}
	return err
}

func mutexOfDead(ctx context.Context, fresh func() *clientv3.Client) error {
	first, err := concurrency.NewSession(fresh(), concurrency.WithTTL(30))
	if err != nil {
		return err
	}
	if err := concurrency.NewMutex(first, "clients/dead").Lock(ctx); err != nil {
		return err
	}
	second, err := concurrency.NewSession(fresh(), concurrency.WithTTL(30))
	if err != nil {
		return err
	}
	defer second.Close()
	locked := make(chan error, 1)
	go func() { locked <- concurrency.NewMutex(second, "clients/dead").Lock(ctx) }()
	select {
	case err := <-locked:
		return fmt.Errorf("it was given to a second one (%v)", err)
	case <-time.After(200 * time.Millisecond):
	}
	if err := first.Close(); err != nil {
		return err
	}
	return <-locked
}

func tryMutex(ctx context.Context, fresh func() *clientv3.Client) error {
	session, err := concurrency.NewSession(fresh())
	if err != nil {
		return err
	}
	defer session.Close()
	other, err := concurrency.NewSession(fresh())
	if err != nil {
		return err
	}
	defer other.Close()
	if err := concurrency.NewMutex(session, "clients/try").TryLock(ctx); err != nil {
		return err
	}
	if err := concurrency.NewMutex(other, "clients/try").TryLock(ctx); err != concurrency.ErrLocked {
		return fmt.Errorf("a held mutex answers %v", err)
	}
	return nil
}

func election(ctx context.Context, fresh func() *clientv3.Client) error {
	const candidates = 3
	observer, err := concurrency.NewSession(fresh())
	if err != nil {
		return err
	}
	defer observer.Close()
	watching, stop := context.WithCancel(ctx)
	defer stop()
	heard := concurrency.NewElection(observer, "clients/election").Observe(watching)
	var mu sync.Mutex
	var led []string
	var leading atomic.Int64
	err = each(candidates, func(number int) error {
		session, err := concurrency.NewSession(fresh())
		if err != nil {
			return err
		}
		defer session.Close()
		e := concurrency.NewElection(session, "clients/election")
		name := strconv.Itoa(number)
		if err := e.Campaign(ctx, name); err != nil {
			return err
		}
		if leading.Add(1) != 1 {
			return fmt.Errorf("two lead")
		}
		mu.Lock()
		led = append(led, name)
		mu.Unlock()
		// The observer hears of this one before it goes.
		for {
			select {
			case said := <-heard:
				if len(said.Kvs) == 1 && string(said.Kvs[0].Value) == name {
					leading.Add(-1)
					return e.Resign(ctx)
				}
			case <-ctx.Done():
				return fmt.Errorf("nobody heard that %s leads", name)
			}
		}
	})
	if err == nil && len(led) != candidates {
		err = fmt.Errorf("only %v led", led)
	}
	return err
}

func stm(ctx context.Context, fresh func() *clientv3.Client) error {
	const accounts, workers, transfers, begin = 4, 4, 15, 100
	client := fresh()
	account := func(n int) string { return fmt.Sprintf("clients/stm/%d", n%accounts) }
	for n := range accounts {
		if _, err := client.Put(ctx, account(n), strconv.Itoa(begin)); err != nil {
			return err
		}
	}
	for _, isolation := range []concurrency.Isolation{concurrency.SerializableSnapshot, concurrency.RepeatableReads} {
		err := each(workers, func(number int) error {
			client := fresh()
			for n := range transfers {
				from, to := account(number+n), account(number+n+1+n%2)
				_, err := concurrency.NewSTM(client, func(s concurrency.STM) error {
					a, err := strconv.Atoi(s.Get(from))
					if err != nil {
						return err
					}
					b, err := strconv.Atoi(s.Get(to))
					if err != nil {
						return err
					}
					s.Put(from, strconv.Itoa(a-n))
					s.Put(to, strconv.Itoa(b+n))
					return nil
				}, concurrency.WithIsolation(isolation), concurrency.WithAbortContext(ctx))
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	all, err := client.Get(ctx, "clients/stm/", clientv3.WithPrefix())
	if err != nil {
		return err
	}
	sum := 0
	for _, kv := range all.Kvs {
		n, err := strconv.Atoi(string(kv.Value))
		if err != nil {
			return err
		}
		sum += n
	}
	if sum != accounts*begin {
		return fmt.Errorf("there were %d, and now there are %d", accounts*begin, sum)
	}
	return nil
}

func order(ctx context.Context, fresh func() *clientv3.Client) error {
	violated := func(clientv3.Op, clientv3.OpResponse, int64) error { return fmt.Errorf("a read went back") }
	ordered := fresh()
	ordered.KV = ordering.NewKV(ordered.KV, violated)
	writer := fresh()
	for n := range 200 {
		put, err := writer.Put(ctx, "clients/order", strconv.Itoa(n))
		if err != nil {
			return err
		}
		var ops []clientv3.OpOption
		if n%2 == 0 {
			ops = append(ops, clientv3.WithSerializable())
		}
		got, err := ordered.Get(ctx, "clients/order", ops...)
		if err != nil {
			return err
		}
		if n%2 == 1 && got.Header.Revision < put.Header.Revision {
			return fmt.Errorf("a read at %d came after a write at %d", got.Header.Revision, put.Header.Revision)
		}
	}
	return nil
}

func spaces(ctx context.Context, fresh func() *clientv3.Client) error {
	plain, spaced := fresh(), fresh()
	spaced.KV = namespace.NewKV(spaced.KV, "clients/space/")
	spaced.Watcher = namespace.NewWatcher(spaced.Watcher, "clients/space/")
	spaced.Lease = namespace.NewLease(spaced.Lease, "clients/space/")
	events := spaced.Watch(ctx, "", clientv3.WithPrefix())
	lease, err := spaced.Grant(ctx, 60)
	if err != nil {
		return err
	}
	if _, err := plain.Put(ctx, "clients/outside", "x"); err != nil {
		return err
	}
	if _, err := spaced.Put(ctx, "a", "1", clientv3.WithLease(lease.ID)); err != nil {
		return err
	}
	if got, err := plain.Get(ctx, "clients/space/a"); err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "1" {
		return fmt.Errorf("outside there is %v (%v)", got, err)
	}
	all, err := spaced.Get(ctx, "", clientv3.WithFromKey())
	if err != nil || len(all.Kvs) != 1 || string(all.Kvs[0].Key) != "a" {
		return fmt.Errorf("inside there is %v (%v)", all, err)
	}
	done, err := spaced.Txn(ctx).If(clientv3.Compare(clientv3.Value("a"), "=", "1")).
		Then(clientv3.OpPut("b", "2"), clientv3.OpGet("", clientv3.WithPrefix())).Commit()
	if err != nil || !done.Succeeded || len(done.Responses[1].GetResponseRange().Kvs) != 2 {
		return fmt.Errorf("a Txn inside says %v (%v)", done, err)
	}
	left, err := spaced.TimeToLive(ctx, lease.ID, clientv3.WithAttachedKeys())
	if err != nil || len(left.Keys) != 1 || string(left.Keys[0]) != "a" {
		return fmt.Errorf("the lease has %v (%v)", left, err)
	}
	if _, err := spaced.Revoke(ctx, lease.ID); err != nil {
		return err
	}
	var told []string
	for len(told) < 3 {
		select {
		case response := <-events:
			for _, event := range response.Events {
				told = append(told, fmt.Sprintf("%v %s", event.Type, event.Kv.Key))
			}
		case <-ctx.Done():
			return fmt.Errorf("the watch told only %v", told)
		}
	}
	if said := strings.Join(told, ", "); said != "PUT a, PUT b, DELETE a" {
		return fmt.Errorf("the watch told %s", said)
	}
	return nil
}

func leases(ctx context.Context, fresh func() *clientv3.Client) error {
	const workers, writes = 3, 20
	var kvs []clientv3.KV
	for range workers {
		kv, closer, err := leasing.NewKV(fresh(), "clients/leasing/")
		if err != nil {
			return err
		}
		defer closer()
		kvs = append(kvs, kv)
	}
	for n := range writes {
		value := strconv.Itoa(n)
		if _, err := kvs[n%workers].Put(ctx, "clients/cached", value); err != nil {
			return err
		}
		for number, kv := range kvs {
			got, err := kv.Get(ctx, "clients/cached")
			if err != nil {
				return err
			}
			if len(got.Kvs) != 1 || string(got.Kvs[0].Value) != value {
				return fmt.Errorf("client %d has %v instead of %s", number, got.Kvs, value)
			}
		}
	}
	if _, err := kvs[0].Delete(ctx, "clients/cached"); err != nil {
		return err
	}
	for number, kv := range kvs {
		if got, err := kv.Get(ctx, "clients/cached"); err != nil || len(got.Kvs) != 0 {
			return fmt.Errorf("client %d still has %v (%v)", number, got, err)
		}
	}
	return nil
}

func mirrors(ctx context.Context, fresh func() *clientv3.Client) error {
	const keys = 1500
	client := fresh()
	key := func(n int) string { return fmt.Sprintf("clients/mirror/%04d", n) }
	for from := 0; from < keys; from += 100 {
		var ops []clientv3.Op
		for n := from; n < from+100; n++ {
			ops = append(ops, clientv3.OpPut(key(n), "old"))
		}
		if _, err := client.Txn(ctx).Then(ops...).Commit(); err != nil {
			return err
		}
	}
	syncer := mirror.NewSyncer(fresh(), "clients/mirror/", 0)
	copied := map[string]string{}
	pages, failures := syncer.SyncBase(ctx)
	// What changes meanwhile is told afterwards.
	if _, err := client.Put(ctx, key(0), "new"); err != nil {
		return err
	}
	for page := range pages {
		for _, kv := range page.Kvs {
			copied[string(kv.Key)] = string(kv.Value)
		}
	}
	if err := <-failures; err != nil {
		return err
	}
	if len(copied) != keys {
		return fmt.Errorf("%d of %d keys were copied", len(copied), keys)
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	updates := syncer.SyncUpdates(watching)
	if _, err := client.Delete(ctx, key(1)); err != nil {
		return err
	}
	last, err := client.Put(ctx, key(2), "new")
	if err != nil {
		return err
	}
	for seen := int64(0); seen < last.Header.Revision; {
		select {
		case response := <-updates:
			if err := response.Err(); err != nil {
				return err
			}
			for _, event := range response.Events {
				seen = event.Kv.ModRevision
				if event.Type == clientv3.EventTypeDelete {
					delete(copied, string(event.Kv.Key))
				} else {
					copied[string(event.Kv.Key)] = string(event.Kv.Value)
				}
			}
		case <-ctx.Done():
			return fmt.Errorf("updates came only up to %d of %d", seen, last.Header.Revision)
		}
	}
	now, err := client.Get(ctx, "clients/mirror/", clientv3.WithPrefix())
	if err != nil {
		return err
	}
	for _, kv := range now.Kvs {
		if copied[string(kv.Key)] != string(kv.Value) {
			return fmt.Errorf("%s is %s, and %q in the mirror", kv.Key, kv.Value, copied[string(kv.Key)])
		}
	}
	if len(copied) != len(now.Kvs) {
		return fmt.Errorf("the mirror has %d keys instead of %d", len(copied), len(now.Kvs))
	}
	return nil
}

func watches(ctx context.Context, fresh func() *clientv3.Client) error {
	const writers, writes = 3, 50
	begin, err := fresh().Put(ctx, "clients/watch/begin", "")
	if err != nil {
		return err
	}
	events := fresh().Watch(clientv3.WithRequireLeader(ctx), "clients/watch/", clientv3.WithPrefix(),
		clientv3.WithRev(begin.Header.Revision+1), clientv3.WithPrevKV())
	var mu sync.Mutex
	var written []int64
	err = each(writers, func(number int) error {
		client := fresh()
		for n := range writes {
			put, err := client.Put(ctx, fmt.Sprintf("clients/watch/%d", number), strconv.Itoa(n))
			if err != nil {
				return err
			}
			mu.Lock()
			written = append(written, put.Header.Revision)
			mu.Unlock()
		}
		return nil
	})
	if err != nil {
		return err
	}
	sort.Slice(written, func(i, j int) bool { return written[i] < written[j] })
	last := map[string]string{}
	for n := 0; n < len(written); {
		select {
		case response := <-events:
			if err := response.Err(); err != nil {
				return err
			}
			for _, event := range response.Events {
				if event.Kv.ModRevision != written[n] {
					return fmt.Errorf("told of revision %d instead of %d", event.Kv.ModRevision, written[n])
				}
				key := string(event.Kv.Key)
				if before, ok := last[key]; ok && (event.PrevKv == nil || string(event.PrevKv.Value) != before) {
					return fmt.Errorf("before %v there was %s, not %v", event.Kv, before, event.PrevKv)
				}
				last[key] = string(event.Kv.Value)
				n++
			}
		case <-ctx.Done():
			return fmt.Errorf("told of %d of %d changes", n, len(written))
		}
	}
	return nil
}

func kept(ctx context.Context, fresh func() *clientv3.Client) error {
	client := fresh()
	var ids [2]clientv3.LeaseID
	for n := range ids {
		lease, err := client.Grant(ctx, 2)
		if err != nil {
			return err
		}
		ids[n] = lease.ID
		if _, err := client.Put(ctx, fmt.Sprintf("clients/kept/%d", n), "x", clientv3.WithLease(lease.ID)); err != nil {
			return err
		}
	}
	alive, err := client.KeepAlive(ctx, ids[0])
	if err != nil {
		return err
	}
	go func() {
		for range alive {
		}
	}()
	for begun := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		there, err := client.Get(ctx, "clients/kept/", clientv3.WithPrefix())
		if err != nil {
			return err
		}
		if len(there.Kvs) == 0 || string(there.Kvs[0].Key) != "clients/kept/0" {
			return fmt.Errorf("the lease that is kept alive is gone")
		}
		passed := time.Since(begun)
		if len(there.Kvs) == 1 {
			if passed < 1500*time.Millisecond {
				return fmt.Errorf("a lease ended after %v", passed)
			}
			return nil
		}
		if passed > 15*time.Second {
			return fmt.Errorf("a lease does not end")
		}
	}
}

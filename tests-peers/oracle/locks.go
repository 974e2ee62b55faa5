package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	electionpb "go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	lockpb "go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
)

// said asks both sides the same, and compares what they answer.
func (r *run) said(about string, ask func(context.Context, *side) (proto.Message, error)) error {
	_, err := r.compare(about, ask)
	return err
}

// lock plays two contenders, on leases 1 and 2, for a lock or for the lead.
func (r *run) lock(s step) error {
	if string(s.msg.(*pb.PutRequest).Key) == "elections" {
		return r.elect()
	}
	name := []byte("lock")
	take := func(lease int64) func(context.Context, *side) (proto.Message, error) {
		return func(ctx context.Context, s *side) (proto.Message, error) {
			return s.lock.Lock(ctx, &lockpb.LockRequest{Name: name, Lease: lease})
		}
	}
	if err := r.said("a free lock", take(1)); err != nil {
		return err
	}
	if err := r.said("a lock that one holds already", take(1)); err != nil {
		return err
	}
	second := make(chan error, 1)
	go func() { second <- r.said("a lock that was waited for", take(2)) }()
	if err := r.contenders("lock/", 2); err != nil {
		return err
	}
	if err := r.said("giving up the lock", func(ctx context.Context, s *side) (proto.Message, error) {
		return s.lock.Unlock(ctx, &lockpb.UnlockRequest{Key: []byte("lock/1")})
	}); err != nil {
		return err
	}
	if err := <-second; err != nil {
		return err
	}
	if err := r.said("a lock on a lease that is not there", take(99)); err != nil {
		return err
	}
	if err := r.said("giving up a lock that is not there", func(ctx context.Context, s *side) (proto.Message, error) {
		return s.lock.Unlock(ctx, &lockpb.UnlockRequest{Key: []byte("lock/1")})
	}); err != nil {
		return err
	}
	return r.said("a lock without a lease lives on one of its own", func(ctx context.Context, s *side) (proto.Message, error) {
		locked, err := s.lock.Lock(ctx, &lockpb.LockRequest{Name: []byte("own")})
		if err != nil {
			return nil, err
		}
		var lease int64
		if _, err := fmt.Sscanf(string(locked.Key), "own/%x", &lease); err != nil {
			return nil, fmt.Errorf("the key is %q: %w", locked.Key, err)
		}
		left, err := s.lease.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: lease, Keys: true})
		if err != nil || left.GrantedTTL != 60 || len(left.Keys) != 1 || string(left.Keys[0]) != string(locked.Key) {
			return nil, fmt.Errorf("its lease is %v (%w)", left, err)
		}
		// The key has another name on each side: let nobody compare it.
		for _, st := range r.all {
			st.mu.Lock()
			st.hidden = append(st.hidden, string(locked.Key))
			st.mu.Unlock()
		}
		return s.lease.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: lease})
	})
}

// contenders waits until so many keys are under the prefix on both sides.
func (r *run) contenders(prefix string, count int64) error {
	end := []byte(prefix)
	end[len(end)-1]++
	for _, s := range r.p.sides() {
		for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			found, err := s.kv.Range(ctx, &pb.RangeRequest{Key: []byte(prefix), RangeEnd: end, CountOnly: true})
			cancel()
			if err != nil {
				return err
			}
			if found.Count == count {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("%s has %d contenders instead of %d", s.name, found.Count, count)
			}
		}
	}
	return nil
}

func (r *run) elect() error {
	name := []byte("lead")
	leader := func(ctx context.Context, s *side) (proto.Message, error) {
		return s.election.Leader(ctx, &electionpb.LeaderRequest{Name: name})
	}
	if err := r.said("nobody leads", leader); err != nil {
		return err
	}
	heard, err := r.observe(name)
	if err != nil {
		return err
	}
	keys := map[*side]*electionpb.LeaderKey{}
	campaign := func(lease int64, value string) error {
		won := map[*side]*electionpb.LeaderKey{r.p.etcd: {}, r.p.subject: {}}
		err := r.said("winning", func(ctx context.Context, s *side) (proto.Message, error) {
			answer, err := s.election.Campaign(ctx, &electionpb.CampaignRequest{Name: name, Lease: lease, Value: []byte(value)})
			if err == nil {
				proto.Merge(won[s], answer.Leader)
			}
			return answer, err
		})
		for side, key := range won {
			keys[side] = key
		}
		return err
	}
	if err := campaign(1, "one"); err != nil {
		return err
	}
	if err := r.said("one leads", leader); err != nil {
		return err
	}
	if err := r.said("hearing that one leads", heard); err != nil {
		return err
	}
	first := map[*side]*electionpb.LeaderKey{}
	for side, key := range keys {
		first[side] = key
	}
	second := make(chan error, 1)
	go func() { second <- campaign(2, "two") }()
	if err := r.contenders("lead/", 2); err != nil {
		return err
	}
	r.revision += 1
	proclaim := func(value string) func(context.Context, *side) (proto.Message, error) {
		return func(ctx context.Context, s *side) (proto.Message, error) {
			return s.election.Proclaim(ctx, &electionpb.ProclaimRequest{Leader: first[s], Value: []byte(value)})
		}
	}
	if err := r.said("proclaiming", proclaim("uno")); err != nil {
		return err
	}
	if err := r.said("one proclaimed", leader); err != nil {
		return err
	}
	if err := r.said("hearing what one proclaims", heard); err != nil {
		return err
	}
	resign := func(ctx context.Context, s *side) (proto.Message, error) {
		return s.election.Resign(ctx, &electionpb.ResignRequest{Leader: first[s]})
	}
	if err := r.said("resigning", resign); err != nil {
		return err
	}
	if err := <-second; err != nil {
		return err
	}
	if err := r.said("two leads", leader); err != nil {
		return err
	}
	if err := r.said("hearing that two leads", heard); err != nil {
		return err
	}
	if err := r.said("proclaiming without leading", proclaim("again")); err != nil {
		return err
	}
	if err := r.said("resigning without leading", resign); err != nil {
		return err
	}
	if err := r.said("no leader said", func(ctx context.Context, s *side) (proto.Message, error) {
		return s.election.Proclaim(ctx, &electionpb.ProclaimRequest{})
	}); err != nil {
		return err
	}
	return r.said("no leader said", func(ctx context.Context, s *side) (proto.Message, error) {
		return s.election.Resign(ctx, &electionpb.ResignRequest{})
	})
}

// observe listens to an election on both sides, and answers what takes the next that is told.
func (r *run) observe(name []byte) (func(context.Context, *side) (proto.Message, error), error) {
	told := map[*side]electionpb.Election_ObserveClient{}
	for _, s := range r.p.sides() {
		calls, err := s.election.Observe(r.listening, &electionpb.LeaderRequest{Name: name})
		if err != nil {
			return nil, err
		}
		told[s] = calls
	}
	return func(ctx context.Context, s *side) (proto.Message, error) {
		next := make(chan answer, 1)
		go func() {
			msg, err := told[s].Recv()
			next <- answer{msg, err}
		}()
		select {
		case said := <-next:
			return said.msg, said.err
		case <-ctx.Done():
			return nil, fmt.Errorf("%s tells nothing", s.name)
		}
	}, nil
}

// contend is a step of a lock or of an election that answers at once. One that would have to wait is
// left out: the named cases wait.
func (r *run) contend(st step) error {
	ask := st
	switch m := st.msg.(type) {
	case *lockpb.LockRequest:
		if waits, err := r.waits(m.Name, m.Lease); err != nil || waits {
			return err
		}
	case *electionpb.CampaignRequest:
		if waits, err := r.waits(m.Name, m.Lease); err != nil || waits {
			return err
		}
	case *electionpb.ProclaimRequest:
		leader, err := r.present(m.Leader)
		if err != nil {
			return err
		}
		ask.msg = &electionpb.ProclaimRequest{Leader: leader, Value: m.Value}
	case *electionpb.ResignRequest:
		leader, err := r.present(m.Leader)
		if err != nil {
			return err
		}
		ask.msg = &electionpb.ResignRequest{Leader: leader}
	}
	if err := r.said("the answer", func(ctx context.Context, s *side) (proto.Message, error) {
		return call(ctx, s, ask, ask.msg)
	}); err != nil {
		return err
	}
	// Who proclaims while he campaigns is answered with the revision from before.
	return r.said("the revision", func(ctx context.Context, s *side) (proto.Message, error) {
		return s.kv.Range(ctx, &pb.RangeRequest{Key: []byte("a"), CountOnly: true})
	})
}

// under is what etcd has under a name.
func (r *run) under(name []byte) ([]*mvccpb.KeyValue, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	prefix := append(slices.Clone(name), '/')
	end := append(slices.Clone(name), '/'+1)
	found, err := r.p.etcd.kv.Range(ctx, &pb.RangeRequest{Key: prefix, RangeEnd: end})
	if err != nil {
		return nil, err
	}
	return found.Kvs, nil
}

func (r *run) waits(name []byte, lease int64) (bool, error) {
	held, err := r.under(name)
	own := fmt.Sprintf("%s/%x", name, lease)
	return slices.ContainsFunc(held, func(kv *mvccpb.KeyValue) bool { return string(kv.Key) != own }), err
}

// present fills in the revision of who leads, where a step left it open.
func (r *run) present(leader *electionpb.LeaderKey) (*electionpb.LeaderKey, error) {
	if leader == nil || leader.Rev >= 0 {
		return leader, nil
	}
	held, err := r.under(leader.Name)
	if err != nil {
		return nil, err
	}
	leader = proto.Clone(leader).(*electionpb.LeaderKey)
	leader.Rev = 0
	for _, kv := range held {
		if string(kv.Key) == string(leader.Key) {
			leader.Rev = kv.CreateRevision
		}
	}
	return leader, nil
}

// expire waits until a key has gone with its lease, on both sides.
func (r *run) expire(key []byte) error {
	for _, s := range r.p.sides() {
		for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			found, err := s.kv.Range(ctx, &pb.RangeRequest{Key: key})
			cancel()
			if err != nil {
				return err
			}
			if found.Count == 0 {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("%s keeps %q", s.name, key)
			}
		}
	}
	return r.said("what is left", func(ctx context.Context, s *side) (proto.Message, error) {
		return s.kv.Range(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	})
}

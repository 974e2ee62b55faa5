package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
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
	return r.said("giving up a lock that is not there", func(ctx context.Context, s *side) (proto.Message, error) {
		return s.lock.Unlock(ctx, &lockpb.UnlockRequest{Key: []byte("lock/1")})
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

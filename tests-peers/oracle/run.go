package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	electionpb "go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	lockpb "go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
)

const streams = 2

// Deleting it is the last that happens before a sequence.
var lastKey = []byte("reset")

// A run plays one sequence on a pair.
type run struct {
	p *pair
	// Revisions that both sides are at.
	base, revision, compacted int64
	// One stream that is told everything, and the streams of the sequence; each once for each side.
	all      [2]*stream
	open     [streams][2]*stream
	watchers []*watcher
	// Watchers that a compaction ended, by stream and id: they can still be canceled, once.
	dead map[[2]int64]bool
	// Ends with the run.
	listening context.Context
	deafen    context.CancelFunc
	steps     int
	events    int
	trace     io.Writer
}

// play plays a sequence from a clean start. The error is the first difference.
func play(p *pair, sequence []step, trace io.Writer) (r *run, err error) {
	r = &run{p: p, trace: trace, dead: map[[2]int64]bool{}}
	r.listening, r.deafen = context.WithCancel(context.Background())
	defer r.close()
	if err := r.reset(); err != nil {
		return r, fmt.Errorf("before the first step: %w", err)
	}
	for i, s := range sequence {
		r.steps++
		if r.trace != nil {
			fmt.Fprintf(r.trace, "  %3d  revision %d  %v\n", i+1, r.revision-r.base, s)
		}
		if err := r.take(s); err != nil {
			return r, fmt.Errorf("step %d: %v\n    %w", i+1, s, err)
		}
	}
	if err := r.settle(); err != nil {
		return r, fmt.Errorf("at the end: %w", err)
	}
	return r, nil
}

// both asks both sides at once.
func (r *run) both(ask func(context.Context, *side) (proto.Message, error)) (etcd, subject answer) {
	var answers [2]answer
	var wait sync.WaitGroup
	for i, s := range r.p.sides() {
		wait.Add(1)
		go func() {
			defer wait.Done()
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			answers[i].msg, answers[i].err = ask(ctx, s)
		}()
	}
	wait.Wait()
	return answers[0], answers[1]
}

// compare asks both sides, and is satisfied if they say the same.
func (r *run) compare(about string, ask func(context.Context, *side) (proto.Message, error)) (answer, error) {
	etcd, subject := r.both(ask)
	if err := differ(about, r.p.etcd.plain(etcd), r.p.subject.plain(subject)); err != nil {
		return etcd, err
	}
	if headed, ok := etcd.msg.(headed); ok && etcd.err == nil && headed.GetHeader() != nil {
		r.revision = max(r.revision, headed.GetHeader().Revision)
	}
	return etcd, nil
}

// reset takes away what earlier sequences left: keys, leases, alarms and the past.
func (r *run) reset() error {
	everything := []byte{0}
	for _, s := range r.p.sides() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		alarms, err := s.maintenance.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_GET})
		if err != nil {
			return err
		}
		for _, alarm := range alarms.Alarms {
			off := &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: alarm.MemberID, Alarm: alarm.Alarm}
			if _, err := s.maintenance.Alarm(ctx, off); err != nil {
				return err
			}
		}
	}
	// A key makes sure that there is something to delete, and to compact.
	if _, err := r.compare("a put", func(ctx context.Context, s *side) (proto.Message, error) {
		return s.kv.Put(ctx, &pb.PutRequest{Key: []byte("reset")})
	}); err != nil {
		return err
	}
	if _, err := r.compare("deleting everything", func(ctx context.Context, s *side) (proto.Message, error) {
		return s.kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: everything, RangeEnd: everything})
	}); err != nil {
		return err
	}
	// What earlier sequences wrote is deleted below the revision that is compacted at, so that a watch
	// that begins exactly there is told the same whatever they were.
	for _, message := range []proto.Message{&pb.PutRequest{Key: lastKey}, &pb.DeleteRangeRequest{Key: lastKey}} {
		if _, err := r.compare("a last key", func(ctx context.Context, s *side) (proto.Message, error) {
			return call(ctx, s, step{}, message)
		}); err != nil {
			return err
		}
	}
	for _, s := range r.p.sides() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		leases, err := s.lease.LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
		if err != nil {
			return err
		}
		for _, lease := range leases.Leases {
			if _, err := s.lease.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: lease.ID}); err != nil {
				return err
			}
		}
		clear(s.chosen)
		clear(s.numbers)
	}
	r.base = r.revision
	if _, err := r.compare("compacting everything", func(ctx context.Context, s *side) (proto.Message, error) {
		return s.kv.Compact(ctx, &pb.CompactionRequest{Revision: r.base})
	}); err != nil {
		return err
	}
	r.compacted, r.p.hashed[r.base] = r.base, true
	for i, s := range r.p.sides() {
		st, err := openStream(s)
		if err != nil {
			return err
		}
		r.all[i] = st
		create := &pb.WatchCreateRequest{Key: everything, RangeEnd: everything, PrevKv: true}
		if err := st.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
			return err
		}
		if _, err := st.control(); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) close() {
	r.deafen()
	for _, st := range append([]*stream{r.all[0], r.all[1]}, slices.Concat(r.open[0][:], r.open[1][:])...) {
		if st != nil {
			st.cancel()
		}
	}
}

func (r *run) take(s step) error {
	switch s.kind {
	case "watch":
		return r.create(s)
	case "cancel":
		return r.cancel(s)
	case "progress":
		return r.askProgress(s.stream)
	case "lock":
		return r.lock(s)
	case "pause":
		// An id in etcd may be made of the second it was made in.
		time.Sleep(1100 * time.Millisecond)
		return nil
	case "expire":
		return r.expire(s.msg.(*pb.RangeRequest).Key)
	case "contend":
		return r.contend(s)
	}
	if s.kind == "compact" || s.kind == "sync" {
		// What a watcher has not been told yet would be lost, sooner on one side than on the other.
		if err := r.sync(); err != nil {
			return err
		}
		r.awaitSynced()
	}
	if s.kind == "sync" {
		return nil
	}
	if hash, ok := s.msg.(*pb.HashKVRequest); ok {
		at := resolved(hash, r.revision, r.p.etcd).Revision
		if r.p.hashed[at] || (at == 0 && r.p.hashed[r.revision]) {
			return nil
		}
	}
	got, err := r.compare("the answer", func(ctx context.Context, side *side) (proto.Message, error) {
		return call(ctx, side, s, resolved(s.msg, r.revision, side))
	})
	if err == nil && s.kind == "compact" && got.err == nil {
		r.compacted = resolved(s.msg.(*pb.CompactionRequest), r.revision, r.p.etcd).Revision
		r.p.hashed[r.compacted] = true
	}
	return err
}

// call is one request to one side.
func call(ctx context.Context, s *side, st step, msg proto.Message) (proto.Message, error) {
	switch m := msg.(type) {
	case *pb.RangeRequest:
		if st.kind == "stream" {
			return rangeStream(ctx, s, m)
		}
		return s.kv.Range(ctx, m)
	case *pb.PutRequest:
		return s.kv.Put(ctx, m)
	case *pb.DeleteRangeRequest:
		return s.kv.DeleteRange(ctx, m)
	case *pb.TxnRequest:
		return s.kv.Txn(ctx, m)
	case *pb.CompactionRequest:
		return s.kv.Compact(ctx, m)
	case *pb.LeaseGrantRequest:
		answer, err := s.lease.LeaseGrant(ctx, m)
		if err == nil && m.ID == 0 {
			if answer.ID <= 0 {
				return nil, fmt.Errorf("the server chose the lease id %d", answer.ID)
			}
			s.chosen[slot+int64(st.stream)] = answer.ID
			s.numbers[answer.ID] = slot + int64(len(s.numbers))
		}
		return answer, err
	case *pb.LeaseRevokeRequest:
		return s.lease.LeaseRevoke(ctx, m)
	case *pb.LeaseKeepAliveRequest:
		return keepAlive(ctx, s, m)
	case *pb.LeaseTimeToLiveRequest:
		answer, err := s.lease.LeaseTimeToLive(ctx, m)
		if err == nil && answer.GrantedTTL > 0 {
			// Some of it is gone. How much is a matter of time.
			if answer.TTL > answer.GrantedTTL || answer.TTL < answer.GrantedTTL-30 {
				return nil, fmt.Errorf("%d of %d seconds are left", answer.TTL, answer.GrantedTTL)
			}
			answer.TTL = answer.GrantedTTL
			sort.Slice(answer.Keys, func(i, j int) bool { return string(answer.Keys[i]) < string(answer.Keys[j]) })
		}
		return answer, err
	case *pb.LeaseLeasesRequest:
		answer, err := s.lease.LeaseLeases(ctx, m)
		if err == nil {
			// Leases of one age are in no order.
			s.blank(answer)
			sort.Slice(answer.Leases, func(i, j int) bool { return answer.Leases[i].ID < answer.Leases[j].ID })
		}
		return answer, err
	case *pb.HashKVRequest:
		return s.maintenance.HashKV(ctx, m)
	case *pb.AlarmRequest:
		answer, err := s.maintenance.Alarm(ctx, m)
		if err == nil {
			// They come from a map.
			sort.Slice(answer.Alarms, func(i, j int) bool {
				a, b := answer.Alarms[i], answer.Alarms[j]
				return a.MemberID < b.MemberID || a.MemberID == b.MemberID && a.Alarm < b.Alarm
			})
		}
		return answer, err
	case *pb.HashRequest:
		answer, err := s.maintenance.Hash(ctx, m)
		if err == nil {
			// It is of etcd's file, whatever is in it.
			answer.Hash = 0
		}
		return answer, err
	case *pb.StatusRequest:
		return aboutItself(ctx, s, m)
	case *pb.MemberListRequest:
		answer, err := s.cluster.MemberList(ctx, m)
		if err == nil {
			err = reachable(s, answer)
		}
		return answer, err
	case *lockpb.LockRequest:
		return s.lock.Lock(ctx, m)
	case *lockpb.UnlockRequest:
		return s.lock.Unlock(ctx, m)
	case *electionpb.CampaignRequest:
		return s.election.Campaign(ctx, m)
	case *electionpb.ProclaimRequest:
		return s.election.Proclaim(ctx, m)
	case *electionpb.ResignRequest:
		return s.election.Resign(ctx, m)
	case *electionpb.LeaderRequest:
		if st.kind == "contend" {
			return s.election.Leader(ctx, m)
		}
		calls, err := s.election.Observe(ctx, m)
		if err != nil {
			return nil, err
		}
		return calls.Recv()
	case *pb.DowngradeRequest:
		return s.maintenance.Downgrade(ctx, m)
	case *pb.MoveLeaderRequest:
		return s.maintenance.MoveLeader(ctx, m)
	case *pb.DefragmentRequest:
		return s.maintenance.Defragment(ctx, m)
	case *pb.MemberRemoveRequest:
		answer, err := s.cluster.MemberRemove(ctx, m)
		if err == nil {
			err = s.placeless(answer.Members)
		}
		return answer, err
	case *pb.MemberPromoteRequest:
		return s.cluster.MemberPromote(ctx, m)
	case *pb.MemberUpdateRequest:
		answer, err := s.cluster.MemberUpdate(ctx, m)
		if err == nil {
			err = s.placeless(answer.Members)
		}
		return answer, err
	case *pb.MemberAddRequest:
		answer, err := s.cluster.MemberAdd(ctx, m)
		if err == nil {
			s.chosen[slot+int64(st.stream)] = int64(answer.Member.ID)
			s.numbers[int64(answer.Member.ID)] = slot + int64(len(s.numbers))
			err = s.placeless(answer.Members)
		}
		return answer, err
	}
	return nil, fmt.Errorf("no such step: %v", st)
}

// rangeStream joins the pieces, and checks that only the last one speaks of the whole.
func rangeStream(ctx context.Context, s *side, m *pb.RangeRequest) (proto.Message, error) {
	calls, err := s.kv.RangeStream(ctx, m)
	if err != nil {
		return nil, err
	}
	whole := &pb.RangeResponse{}
	for {
		piece, err := calls.Recv()
		if errors.Is(err, io.EOF) {
			if whole.Header == nil {
				return nil, fmt.Errorf("a stream that ends without a header: %v", text(whole))
			}
			return whole, nil
		}
		if err != nil {
			return nil, err
		}
		if whole.Header != nil {
			return nil, fmt.Errorf("a piece before the last has a header")
		}
		proto.Merge(whole, piece.RangeResponse)
	}
}

func keepAlive(ctx context.Context, s *side, m *pb.LeaseKeepAliveRequest) (proto.Message, error) {
	calls, err := s.lease.LeaseKeepAlive(ctx)
	if err != nil {
		return nil, err
	}
	defer calls.CloseSend()
	if err := calls.Send(m); err != nil {
		return nil, err
	}
	return calls.Recv()
}

func (r *run) pairOf(number int) (*[2]*stream, error) {
	number %= streams
	for i, s := range r.p.sides() {
		if r.open[number][i] == nil {
			st, err := openStream(s)
			if err != nil {
				return nil, err
			}
			r.open[number][i] = st
		}
	}
	return &r.open[number], nil
}

// answered sends a watch request, and compares the answers.
func (r *run) answered(pair *[2]*stream, request *pb.WatchRequest) (*pb.WatchResponse, error) {
	if request != nil {
		for _, st := range pair {
			if err := st.send(request); err != nil {
				return nil, err
			}
		}
	}
	first, err := pair[0].control()
	if err != nil {
		return nil, err
	}
	second, err := pair[1].control()
	if err != nil {
		return nil, err
	}
	about := "the answer to a watch request"
	return first, differ(about, r.p.etcd.plain(answer{msg: first}), r.p.subject.plain(answer{msg: second}))
}

func (r *run) create(s step) error {
	pair, err := r.pairOf(s.stream)
	if err != nil {
		return err
	}
	request := resolved(s.msg.(*pb.WatchCreateRequest), r.revision, r.p.etcd)
	union := &pb.WatchRequest_CreateRequest{CreateRequest: request}
	created, err := r.answered(pair, &pb.WatchRequest{RequestUnion: union})
	if err != nil || created.Canceled {
		return err
	}
	from := request.StartRevision
	if from == 0 {
		from = created.Header.Revision + 1
	}
	if from < r.compacted {
		r.dead[[2]int64{int64(s.stream % streams), created.WatchId}] = true
		_, err := r.answered(pair, nil)
		return err
	}
	late := from <= created.Header.Revision
	r.watchers = append(r.watchers, &watcher{s.stream % streams, created.WatchId, request, from, late, r.compacted})
	return nil
}

func (r *run) cancel(s step) error {
	if err := r.sync(); err != nil {
		return err
	}
	pair, err := r.pairOf(s.stream)
	if err != nil {
		return err
	}
	id := s.msg.(*pb.WatchCancelRequest).WatchId
	known := slices.IndexFunc(r.watchers, func(w *watcher) bool { return w.stream == s.stream%streams && w.id == id })
	request := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: s.msg.(*pb.WatchCancelRequest)}}
	if dead := [2]int64{int64(s.stream % streams), id}; r.dead[dead] {
		delete(r.dead, dead)
		_, err = r.answered(pair, request)
		return err
	}
	if known < 0 {
		// There is no answer; the next one that comes must be to something else.
		for _, st := range pair {
			if err := st.send(request); err != nil {
				return err
			}
		}
		return nil
	}
	r.watchers = slices.Delete(r.watchers, known, known+1)
	_, err = r.answered(pair, request)
	return err
}

func (r *run) askProgress(number int) error {
	if err := r.sync(); err != nil {
		return err
	}
	pair, err := r.pairOf(number)
	if err != nil {
		return err
	}
	request := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
	for dead := range r.dead {
		if dead[0] == int64(number%streams) {
			// etcd tells such a stream no progress until the client cancels them too. Here it is told, truly.
			return nil
		}
	}
	owed, some := true, false
	for _, w := range r.watchers {
		if w.stream == number%streams {
			some = true
			owed = owed && w.request.StartRevision <= r.revision
		}
	}
	if !some {
		owed = false
	}
	for _, st := range pair {
		st.mu.Lock()
		st.progress = nil
		st.mu.Unlock()
		if !owed {
			if err := st.send(request); err != nil {
				return err
			}
			continue
		}
		// It is dropped while a watcher is behind, and etcd says of some that they are for a while.
		var told []int64
		deadline := time.Now().Add(patience)
		for len(told) == 0 && time.Now().Before(deadline) {
			if err := st.send(request); err != nil {
				return err
			}
			_ = st.wait("progress", 50*time.Millisecond, func() bool { told = st.progress; return len(told) > 0 })
		}
		if len(told) == 0 || told[0] != r.revision {
			return fmt.Errorf("%s tells progress %v at revision %d", st.side.name, told, r.revision)
		}
	}
	if !owed {
		// An answer to something later would come behind it.
		time.Sleep(5 * time.Millisecond)
		for _, st := range pair {
			st.mu.Lock()
			told := st.progress
			st.mu.Unlock()
			if len(told) > 0 {
				return fmt.Errorf("%s tells progress %v to a stream that is owed none", st.side.name, told)
			}
		}
	}
	return nil
}

// sync waits until every watcher was told everything, and compares what they were told.
func (r *run) sync() error {
	if err := r.history(); err != nil {
		return err
	}
	r.all[0].mu.Lock()
	history := r.all[0].events[0]
	r.all[0].mu.Unlock()
	for _, w := range r.watchers {
		pair := r.open[w.stream]
		owed := w.expects(history)
		if w.from == r.base && w.covers(lastKey) && !w.drops(mvccpb.Event_DELETE) {
			owed++
		}
		for i := range pair {
			// Of the revision that a compaction kept, etcd keeps one change of each key.
			enough := func() bool { return len(pair[i].events[w.id]) >= owed }
			limit := patience
			if w.from == r.compacted {
				limit = 500 * time.Millisecond
			}
			if err := pair[i].wait(fmt.Sprintf("watcher %d %d events", w.id, owed), limit, enough); err != nil && w.from != r.compacted {
				about := fmt.Sprintf("%v; watcher %d of stream %d from %d {%s}", err, w.id, w.stream, w.from, text(w.request))
				return &difference{about, pair[0].told(w.id, w.bare), pair[1].told(w.id, w.bare)}
			}
		}
		about := fmt.Sprintf("the events of watcher %d of stream %d {%s}", w.id, w.stream, text(w.request))
		if err := differ(about, pair[0].told(w.id, w.bare), pair[1].told(w.id, w.bare)); err != nil {
			return err
		}
	}
	return nil
}

// history waits until both sides told everything that happened, and compares it.
func (r *run) history() error {
	for _, st := range r.all {
		if err := st.wait(fmt.Sprintf("the events up to revision %d", r.revision), patience, func() bool {
			events := st.events[0]
			return r.revision == r.base || len(events) > 0 && events[len(events)-1].Kv.ModRevision >= r.revision
		}); err != nil {
			return err
		}
	}
	return differ("everything that happened", r.all[0].told(0, 0), r.all[1].told(0, 0))
}

// settle ends all watches, and looks for what nobody asked for.
func (r *run) settle() error {
	if err := r.sync(); err != nil {
		return err
	}
	r.events = r.all[0].count(0)
	for _, w := range slices.Clone(r.watchers) {
		r.events += r.open[w.stream][0].count(w.id)
		if err := r.cancel(step{kind: "cancel", stream: w.stream, msg: &pb.WatchCancelRequest{WatchId: w.id}}); err != nil {
			return err
		}
	}
	var wrong []string
	for _, st := range append([]*stream{r.all[0], r.all[1]}, slices.Concat(r.open[0][:], r.open[1][:])...) {
		if st == nil {
			continue
		}
		st.mu.Lock()
		wrong = append(wrong, st.wrong...)
		if len(st.controls) > 0 {
			wrong = append(wrong, fmt.Sprintf("%s says what nobody asked for: %v", st.side.name, st.controls))
		}
		if st.closed != nil {
			wrong = append(wrong, fmt.Sprintf("%s ended a watch stream: %v", st.side.name, st.closed))
		}
		st.mu.Unlock()
	}
	if len(wrong) > 0 {
		return errors.New(strings.Join(wrong, "; "))
	}
	// The contents, the leases and the hash of everything.
	if _, err := r.compare("the content", func(ctx context.Context, s *side) (proto.Message, error) {
		return s.kv.Range(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	}); err != nil {
		return err
	}
	return nil
}

// awaitSynced waits until watchers that began in the past are as far as all others, on both sides. Of
// one that was owed nothing, only progress tells; and a stream may be owed none of that.
func (r *run) awaitSynced() {
	ask := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
	for _, w := range r.watchers {
		if !w.late {
			continue
		}
		for _, st := range r.open[w.stream] {
			st.mu.Lock()
			st.progress = nil
			st.mu.Unlock()
			for range 8 {
				_ = st.send(ask)
				if st.wait("progress", 50*time.Millisecond, func() bool { return len(st.progress) > 0 }) == nil {
					break
				}
			}
		}
		w.late = false
	}
}

package main

import (
	"fmt"
	"math/rand"

	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	electionpb "go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	lockpb "go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
)

// A generator draws sequences. What it draws depends on nothing but the seed.
type generator struct {
	*rand.Rand
	// Whether leases are left to the server to name: then values have other ids in them on each side,
	// and their hashes differ.
	chosen bool
	slots  int64
	// Whether there are many keys. Then nothing is sorted by what several of them share: etcd's order of
	// equals is stable only among few.
	wide bool
	// Watchers asked for, per stream.
	asked [streams]int64
}

// Few keys, so that requests meet. Some are a byte away from each other.
var keys = []string{"a", "a\x00", "a/1", "a/2", "b", "b/x", "c", "k\xff", "k\xff\xff", "l", "\x00x"}

func generate(seed int64, steps int) []step {
	g := &generator{Rand: rand.New(rand.NewSource(seed))}
	g.chosen = g.Intn(4) == 0
	g.wide = g.Intn(6) == 0
	var sequence []step
	for len(sequence) < steps {
		sequence = append(sequence, g.step())
	}
	return sequence
}

func (g *generator) one(in int) bool { return g.Intn(in) == 0 }

func (g *generator) step() step {
	switch n := g.Intn(100); {
	case n < 22:
		return step{kind: "put", msg: g.put()}
	case n < 24:
		return g.contend()
	case n < 32:
		return step{kind: "delete", msg: g.delete()}
	case n < 50:
		return step{kind: "txn", msg: tamed(g.txn(3))}
	case n < 64:
		return step{kind: "range", msg: g.rangeRequest()}
	case n < 67:
		return step{kind: "stream", msg: g.rangeRequest()}
	case n < 70:
		return step{kind: "compact", msg: &pb.CompactionRequest{Revision: g.compactRevision(), Physical: g.one(4)}}
	case n < 81:
		return g.leaseStep()
	case n < 88:
		return g.watch()
	case n < 90:
		stream := g.Intn(streams)
		return step{kind: "cancel", stream: stream, msg: &pb.WatchCancelRequest{WatchId: g.watchID(stream)}}
	case n < 92:
		return step{kind: "progress", stream: g.Intn(streams)}
	case n < 93:
		return step{kind: "sync"}
	case n < 95 && !g.chosen:
		return step{kind: "hash", msg: &pb.HashKVRequest{Revision: g.revision()}}
	case n < 97:
		return step{kind: "alarm", msg: g.alarm()}
	case n < 98:
		return g.upkeep()
	case n < 99:
		return g.contend()
	}
	return step{kind: "range", msg: g.rangeRequest()}
}

func (g *generator) key() []byte {
	switch {
	case g.one(60):
		return nil
	case g.wide && g.one(2):
		return []byte{'w', byte('0' + g.Intn(6)), byte('0' + g.Intn(10))}
	}
	return []byte(keys[g.Intn(len(keys))])
}

func (g *generator) end(key []byte) []byte {
	switch g.Intn(8) {
	case 0, 1, 2:
		return nil
	case 3:
		return []byte{0}
	case 4:
		if len(key) > 0 && key[len(key)-1] < 0xff {
			end := append([]byte(nil), key...)
			end[len(end)-1]++
			return end
		}
		return []byte{0}
	case 5:
		return []byte("z")
	}
	return g.key()
}

func (g *generator) bounds() (key, end []byte) {
	if g.one(12) {
		return []byte{0}, []byte{0}
	}
	key = g.key()
	return key, g.end(key)
}

func (g *generator) value() []byte {
	switch g.Intn(12) {
	case 0:
		return nil
	case 1:
		return make([]byte, g.Intn(3000))
	}
	return []byte{byte('0' + g.Intn(10))}
}

func (g *generator) leaseID() int64 {
	switch {
	case g.one(12):
		return 777
	case g.chosen && g.one(2):
		return slot + g.Int63n(4)
	}
	return []int64{1, 2, 3, -4}[g.Intn(4)]
}

// revision is mostly one of the recent ones.
func (g *generator) revision() int64 {
	switch g.Intn(10) {
	case 0, 1, 2:
		return 0
	case 3:
		return now + g.Int63n(4)
	case 4:
		return -g.Int63n(3)
	}
	return now - g.Int63n(25)
}

func (g *generator) compactRevision() int64 {
	switch g.Intn(10) {
	case 0:
		return now + 1 + g.Int63n(3)
	case 1:
		return -g.Int63n(3)
	case 2:
		return now - 40
	case 3:
		return now
	}
	return now - g.Int63n(12)
}

func (g *generator) put() *pb.PutRequest {
	put := &pb.PutRequest{Key: g.key(), Value: g.value(), PrevKv: g.one(3)}
	if g.one(3) {
		put.Lease = g.leaseID()
	}
	if g.one(8) {
		put.IgnoreValue = true
		if !g.one(5) {
			put.Value = nil
		}
	}
	if g.one(8) {
		put.IgnoreLease = true
		if !g.one(5) {
			put.Lease = 0
		}
	}
	return put
}

func (g *generator) delete() *pb.DeleteRangeRequest {
	key, end := g.bounds()
	if g.one(2) {
		end = nil
	}
	return &pb.DeleteRangeRequest{Key: key, RangeEnd: end, PrevKv: g.one(2)}
}

func (g *generator) rangeRequest() *pb.RangeRequest {
	key, end := g.bounds()
	r := &pb.RangeRequest{Key: key, RangeEnd: end, Serializable: g.one(5), KeysOnly: g.one(5), CountOnly: g.one(7)}
	if g.one(2) {
		r.Revision = g.revision()
	}
	if g.one(2) {
		r.Limit = g.Int63n(7) - 1
	}
	if g.one(3) {
		r.SortOrder = pb.RangeRequest_SortOrder(g.Intn(3))
		r.SortTarget = pb.RangeRequest_SortTarget(g.Intn(5))
		if g.wide {
			r.SortTarget = pb.RangeRequest_KEY
		}
		if g.one(30) {
			r.SortTarget = 9
		}
		if g.one(30) {
			r.SortOrder = -1
		}
	}
	if g.one(4) {
		bound := func() int64 {
			switch g.Intn(3) {
			case 0:
				return now - g.Int63n(20)
			case 1:
				return now + 2 - g.Int63n(4)
			}
			return 0
		}
		r.MinModRevision, r.MaxModRevision = bound(), bound()
		if g.one(2) {
			r.MinCreateRevision, r.MaxCreateRevision = bound(), bound()
		}
	}
	return r
}

func (g *generator) txn(depth int) *pb.TxnRequest {
	if g.one(60) {
		return g.manyOps()
	}
	txn := &pb.TxnRequest{}
	for range g.Intn(3) {
		txn.Compare = append(txn.Compare, g.compare())
	}
	used := map[string]bool{}
	for range g.Intn(4) {
		txn.Success = append(txn.Success, g.op(depth, used))
	}
	used = map[string]bool{}
	for range g.Intn(3) {
		txn.Failure = append(txn.Failure, g.op(depth, used))
	}
	return txn
}

// tamed keeps etcd alive. It does not see that a range to the end of all keys meets a put of the same
// transaction, and a put that keeps the value of a key that is gone by then panics in apply, for ever.
func tamed(txn *pb.TxnRequest) *pb.TxnRequest {
	deletes, puts := false, []*pb.PutRequest{}
	var walk func(ops []*pb.RequestOp)
	walk = func(ops []*pb.RequestOp) {
		for _, op := range ops {
			deletes = deletes || len(op.GetRequestDeleteRange().GetRangeEnd()) > 0
			if put := op.GetRequestPut(); put != nil {
				puts = append(puts, put)
			}
			walk(op.GetRequestTxn().GetSuccess())
			walk(op.GetRequestTxn().GetFailure())
		}
	}
	walk(txn.Success)
	walk(txn.Failure)
	for _, put := range puts {
		put.IgnoreValue = put.IgnoreValue && !deletes
		put.IgnoreLease = put.IgnoreLease && !deletes
	}
	return txn
}

// manyOps is near to the most that a Txn may have.
func (g *generator) manyOps() *pb.TxnRequest {
	count := 126 + g.Intn(5)
	ops := func(n int) (all []*pb.RequestOp) {
		for range n {
			all = append(all, rangeOp(&pb.RangeRequest{Key: []byte("a"), CountOnly: true}))
		}
		return all
	}
	switch g.Intn(3) {
	case 0:
		return &pb.TxnRequest{Success: ops(count)}
	case 1:
		var compares []*pb.Compare
		for range count {
			compares = append(compares, &pb.Compare{Key: []byte("a"), Result: pb.Compare_GREATER,
				TargetUnion: &pb.Compare_Version{Version: -1}})
		}
		return &pb.TxnRequest{Compare: compares, Failure: ops(1)}
	}
	half := 63 + g.Intn(3)
	inner := &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Success: ops(half)}}}
	return &pb.TxnRequest{Success: append(ops(half), inner)}
}

func rangeOp(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

// op mostly avoids keys that the branch has used, since the whole Txn would be refused otherwise.
func (g *generator) op(depth int, used map[string]bool) *pb.RequestOp {
	switch n := g.Intn(20); {
	case n < 9:
		put := g.put()
		for range 4 {
			if !used[string(put.Key)] || g.one(10) {
				break
			}
			put.Key = g.key()
		}
		used[string(put.Key)] = true
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}}
	case n < 12:
		delete := g.delete()
		if !g.one(3) {
			delete.RangeEnd = nil
		}
		used[string(delete.Key)] = true
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: delete}}
	case n < 16:
		return rangeOp(g.rangeRequest())
	case n < 19 && depth > 1:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: g.txn(depth - 1)}}
	case n == 19 && g.one(8):
		return &pb.RequestOp{}
	}
	return rangeOp(&pb.RangeRequest{Key: g.key()})
}

func (g *generator) compare() *pb.Compare {
	key, end := g.key(), []byte(nil)
	if g.one(3) {
		end = g.end(key)
	}
	c := &pb.Compare{Key: key, RangeEnd: end, Result: pb.Compare_CompareResult(g.Intn(4))}
	if g.one(40) {
		c.Result = 7
	}
	switch g.Intn(5) {
	case 0:
		c.Target, c.TargetUnion = pb.Compare_VERSION, &pb.Compare_Version{Version: g.Int63n(4)}
	case 1:
		c.Target, c.TargetUnion = pb.Compare_CREATE, &pb.Compare_CreateRevision{CreateRevision: g.boundary()}
	case 2:
		c.Target, c.TargetUnion = pb.Compare_MOD, &pb.Compare_ModRevision{ModRevision: g.boundary()}
	case 3:
		c.Target, c.TargetUnion = pb.Compare_VALUE, &pb.Compare_Value{Value: g.value()}
	case 4:
		c.Target, c.TargetUnion = pb.Compare_LEASE, &pb.Compare_Lease{Lease: g.Int63n(4)}
	}
	switch {
	case g.one(40):
		c.TargetUnion = nil
	case g.one(40):
		// What is compared is not what the target says.
		c.Target = pb.Compare_CompareTarget(g.Intn(5))
	case g.one(60):
		c.Target = 9
	}
	return c
}

func (g *generator) boundary() int64 {
	if g.one(3) {
		return 0
	}
	return now - g.Int63n(15)
}

func (g *generator) leaseStep() step {
	switch g.Intn(10) {
	case 0, 1, 2:
		grant := &pb.LeaseGrantRequest{ID: g.leaseID(), TTL: 100 + g.Int63n(5000)}
		place := 0
		switch {
		case g.one(12):
			grant.TTL = 9_000_000_001
		case g.one(20):
			grant.TTL = 9_000_000_000
		}
		if near(grant.ID, slot) {
			grant.ID, place = 0, int(grant.ID-slot)
		}
		if grant.ID == 777 {
			grant.ID = 1
		}
		return step{kind: "grant", stream: place, msg: grant}
	case 3, 4:
		return step{kind: "revoke", msg: &pb.LeaseRevokeRequest{ID: g.leaseID()}}
	case 5, 6:
		return step{kind: "keepalive", msg: &pb.LeaseKeepAliveRequest{ID: g.leaseID()}}
	case 7, 8:
		return step{kind: "timetolive", msg: &pb.LeaseTimeToLiveRequest{ID: g.leaseID(), Keys: g.one(2)}}
	}
	return step{kind: "leases", msg: &pb.LeaseLeasesRequest{}}
}

func (g *generator) watch() step {
	key, end := g.bounds()
	create := &pb.WatchCreateRequest{Key: key, RangeEnd: end, PrevKv: g.one(2), Fragment: g.one(4)}
	switch g.Intn(8) {
	case 0, 1:
		create.StartRevision = now - g.Int63n(15)
	case 2:
		create.StartRevision = now + 1 + g.Int63n(6)
	case 3:
		if g.one(3) {
			create.StartRevision = -1
		}
	}
	if g.one(4) {
		create.Filters = append(create.Filters, pb.WatchCreateRequest_FilterType(g.Intn(2)))
	}
	if g.one(10) {
		create.Filters = append(create.Filters, pb.WatchCreateRequest_NOPUT, pb.WatchCreateRequest_NODELETE)
	}
	if g.one(30) {
		// Of no meaning yet.
		create.Filters = append(create.Filters, 7)
	}
	create.ProgressNotify = g.one(6)
	stream := g.Intn(streams)
	if g.one(4) {
		create.WatchId = g.Int63n(6)
	}
	g.asked[stream]++
	return step{kind: "watch", stream: stream, msg: create}
}

func (g *generator) watchID(stream int) int64 {
	return g.Int63n(g.asked[stream] + 2)
}

func (g *generator) alarm() *pb.AlarmRequest {
	return &pb.AlarmRequest{
		Action:   pb.AlarmRequest_AlarmAction(g.Intn(3)),
		MemberID: uint64(g.Intn(3)),
		Alarm:    pb.AlarmType(g.Intn(3)),
	}
}

func (g *generator) upkeep() step {
	all := []proto.Message{
		&pb.DefragmentRequest{},
		&pb.StatusRequest{},
		&pb.HashRequest{},
		&pb.MemberListRequest{},
		&pb.MemberListRequest{Linearizable: true},
		&pb.DowngradeRequest{Action: pb.DowngradeRequest_VALIDATE, Version: "3.5"},
		&pb.DowngradeRequest{Action: pb.DowngradeRequest_VALIDATE, Version: "three"},
		&pb.DowngradeRequest{Action: pb.DowngradeRequest_VALIDATE, Version: "3.6.0"},
		&pb.DowngradeRequest{Action: pb.DowngradeRequest_CANCEL},
		&pb.MoveLeaderRequest{TargetID: 5},
		&pb.MemberRemoveRequest{ID: 5},
		&pb.MemberPromoteRequest{ID: 5},
		&pb.MemberUpdateRequest{ID: 5, PeerURLs: []string{"http://127.0.0.1:1"}},
		&pb.MemberAddRequest{PeerURLs: []string{"nonsense"}},
		&pb.MemberAddRequest{},
	}
	return step{kind: "upkeep", msg: all[g.Intn(len(all))]}
}

// contend is of a lock or of an election. Leases have ids that both sides know: they are in keys.
func (g *generator) contend() step {
	name := []byte([]string{"a", "lead", "", "k\xff"}[g.Intn(4)])
	lease := []int64{1, 2, -4, 777}[g.Intn(4)]
	key := []byte(fmt.Sprintf("%s/%x", name, lease))
	leader := &electionpb.LeaderKey{Name: name, Key: key, Lease: lease, Rev: -1}
	if g.one(5) {
		leader.Rev = now - g.Int63n(5)
	}
	if g.one(12) {
		leader = nil
	}
	all := []proto.Message{
		&lockpb.LockRequest{Name: name, Lease: lease},
		&lockpb.UnlockRequest{Key: key},
		&electionpb.CampaignRequest{Name: name, Lease: lease, Value: g.value()},
		&electionpb.ProclaimRequest{Leader: leader, Value: g.value()},
		&electionpb.ResignRequest{Leader: leader},
		&electionpb.LeaderRequest{Name: name},
	}
	return step{kind: "contend", msg: all[g.Intn(len(all))]}
}

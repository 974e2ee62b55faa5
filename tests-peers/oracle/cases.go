package main

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	electionpb "go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	lockpb "go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
)

// A named is a fixed sequence for rules of the surface, which its name begins with. What must come of
// it is not written down: it is what etcd says.
type named struct {
	name  string
	steps []step
}

func put(key, value string) step {
	return req("put", &pb.PutRequest{Key: []byte(key), Value: []byte(value)})
}
func del(key string) step { return req("delete", &pb.DeleteRangeRequest{Key: []byte(key)}) }
func get(r *pb.RangeRequest) step {
	return req("range", r)
}
func txn(t *pb.TxnRequest) step             { return req("txn", t) }
func compact(rev int64) step                { return req("compact", &pb.CompactionRequest{Revision: rev}) }
func req(kind string, m proto.Message) step { return step{kind: kind, msg: m} }
func watchOn(stream int, w *pb.WatchCreateRequest) step {
	return step{kind: "watch", stream: stream, msg: w}
}
func stopWatch(stream int, id int64) step {
	return step{kind: "cancel", stream: stream, msg: &pb.WatchCancelRequest{WatchId: id}}
}
func progress(stream int) step { return step{kind: "progress", stream: stream} }
func grant(id, ttl int64) step { return req("grant", &pb.LeaseGrantRequest{ID: id, TTL: ttl}) }
func lock(what string) step    { return step{kind: "lock", msg: &pb.PutRequest{Key: []byte(what)}} }

func call1(m proto.Message) step { return req("contend", m) }

// sized is a put of a value of so many bytes.
func sized(bytes int) step {
	return req("put", &pb.PutRequest{Key: k, Value: make([]byte, bytes)})
}

func putOp(p *pb.PutRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: p}}
}
func delOp(d *pb.DeleteRangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: d}}
}
func txnOp(t *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: t}}
}
func ops(all ...*pb.RequestOp) *pb.TxnRequest { return &pb.TxnRequest{Success: all} }

func modIs(key string, rev int64) *pb.Compare {
	return &pb.Compare{Key: []byte(key), Target: pb.Compare_MOD, TargetUnion: &pb.Compare_ModRevision{ModRevision: rev}}
}

var (
	k     = []byte("k")
	whole = []byte{0}
)

func someKeys() []step { return []step{put("k1", "c"), put("k2", "a"), put("k3", "b"), put("k2", "d")} }

func sorted() (all []step) {
	all = someKeys()
	for order := range 3 {
		for target := range 5 {
			for _, limit := range []int64{0, 2} {
				all = append(all, get(&pb.RangeRequest{Key: k, RangeEnd: []byte("l"), Limit: limit,
					SortOrder: pb.RangeRequest_SortOrder(order), SortTarget: pb.RangeRequest_SortTarget(target)}))
			}
		}
	}
	return all
}

func compares() (all []step) {
	all = append(someKeys(), grant(1, 100), req("put", &pb.PutRequest{Key: []byte("leased"), Lease: 1}))
	unions := []func(*pb.Compare){
		func(c *pb.Compare) { c.TargetUnion = &pb.Compare_Version{Version: 1} },
		func(c *pb.Compare) { c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: now - 3} },
		func(c *pb.Compare) { c.TargetUnion = &pb.Compare_ModRevision{ModRevision: now - 3} },
		func(c *pb.Compare) { c.TargetUnion = &pb.Compare_Value{Value: []byte("c")} },
		func(c *pb.Compare) { c.TargetUnion = &pb.Compare_Lease{Lease: 1} },
	}
	for target := range 6 {
		for result := range 5 {
			for _, key := range []string{"k1", "leased", "missing"} {
				for _, end := range []string{"", "l"} {
					c := &pb.Compare{Key: []byte(key), RangeEnd: []byte(end), Target: pb.Compare_CompareTarget(target),
						Result: pb.Compare_CompareResult(result)}
					if target < 5 {
						unions[target](c)
					}
					all = append(all, txn(&pb.TxnRequest{Compare: []*pb.Compare{c}}))
				}
			}
		}
	}
	return all
}

func cases() []named {
	prefix := &pb.RangeRequest{Key: k, RangeEnd: []byte("l")}
	return []named{
		{"HDR-2 headers of reads and of writes that change nothing", append(someKeys(),
			get(&pb.RangeRequest{Key: k, Revision: now - 1}), del("missing"), txn(ops()), compact(now-2))},
		{"HDR-3 TX-9 headers within a Txn", []step{txn(ops(putOp(&pb.PutRequest{Key: k}), rangeOp(prefix),
			txnOp(ops(delOp(&pb.DeleteRangeRequest{Key: k}), rangeOp(prefix)))))}},
		{"HDR-5 MT-7 defragmentation has no header", []step{req("upkeep", &pb.DefragmentRequest{})}},
		{"KV-P1 puts that contradict themselves", []step{put("", "x"),
			req("put", &pb.PutRequest{Key: k, Value: k, IgnoreValue: true}),
			req("put", &pb.PutRequest{Key: k, Lease: 5, IgnoreLease: true})}},
		{"KV-P2 versions and revisions of a key", []step{put("k", "1"), put("k", "2"), get(prefix), del("k"), put("k", "3"), get(prefix)}},
		{"KV-P3 what is kept must be there", []step{req("put", &pb.PutRequest{Key: k, IgnoreValue: true}),
			req("put", &pb.PutRequest{Key: k, IgnoreLease: true}), grant(1, 100),
			req("put", &pb.PutRequest{Key: k, Value: k, Lease: 1}),
			req("put", &pb.PutRequest{Key: k, Value: whole, IgnoreLease: true}), get(prefix),
			req("put", &pb.PutRequest{Key: k, IgnoreValue: true}), get(prefix)}},
		{"KV-P4 LS-11 a key moves between leases", []step{req("put", &pb.PutRequest{Key: k, Lease: 1}), grant(1, 100), grant(2, 100),
			req("put", &pb.PutRequest{Key: k, Lease: 1}), req("put", &pb.PutRequest{Key: k, Lease: 2}),
			req("timetolive", &pb.LeaseTimeToLiveRequest{ID: 1, Keys: true}),
			req("timetolive", &pb.LeaseTimeToLiveRequest{ID: 2, Keys: true}), put("k", "x"),
			req("timetolive", &pb.LeaseTimeToLiveRequest{ID: 2, Keys: true}), req("revoke", &pb.LeaseRevokeRequest{ID: 2}), get(prefix)}},
		{"KV-P5 the version before", []step{req("put", &pb.PutRequest{Key: k, PrevKv: true}),
			req("put", &pb.PutRequest{Key: k, PrevKv: true})}},
		{"KV-D1 deleting ranges", append(someKeys(), req("delete", &pb.DeleteRangeRequest{Key: k, RangeEnd: []byte("k3"), PrevKv: true}),
			req("delete", &pb.DeleteRangeRequest{Key: k, RangeEnd: k}), req("delete", &pb.DeleteRangeRequest{}),
			req("delete", &pb.DeleteRangeRequest{Key: k, RangeEnd: whole}))},
		{"KV-C1 where a compaction may be", append(someKeys(), compact(now+1), compact(now-1), compact(now-1), compact(now-2), compact(0), compact(-1))},
		{"KV-C3 what a compaction leaves", append(someKeys(), del("k1"), compact(now), get(prefix),
			get(&pb.RangeRequest{Key: k, RangeEnd: whole, Revision: now}), get(&pb.RangeRequest{Key: k, Revision: now - 1}),
			req("hash", &pb.HashKVRequest{Revision: now + 5}))},
		{"KV-R1 revisions of ranges within a Txn", append(someKeys(), txn(ops(rangeOp(&pb.RangeRequest{Key: k, Revision: -1}))),
			get(&pb.RangeRequest{Key: k, Revision: -1}), txn(ops(rangeOp(&pb.RangeRequest{Key: k, Revision: now + 1}))),
			txn(ops(putOp(&pb.PutRequest{Key: k}), rangeOp(&pb.RangeRequest{Key: k, Revision: now + 1}))), compact(now),
			txn(ops(rangeOp(&pb.RangeRequest{Key: k, Revision: now - 1}))))},
		{"KV-R2 streamed ranges", append(someKeys(), req("stream", prefix), req("stream", &pb.RangeRequest{Key: k, RangeEnd: whole, CountOnly: true}),
			req("stream", &pb.RangeRequest{Key: k, SortOrder: pb.RangeRequest_DESCEND}),
			req("stream", &pb.RangeRequest{Key: k, MinModRevision: 1}), req("stream", &pb.RangeRequest{Key: k, Revision: now + 9}))},
		{"KV-R2 streamed ranges with a target and no order", append(someKeys(),
			req("stream", &pb.RangeRequest{Key: k, RangeEnd: whole, Limit: 2, SortTarget: pb.RangeRequest_VALUE}),
			req("stream", &pb.RangeRequest{Key: k, RangeEnd: whole, Limit: 1, SortTarget: pb.RangeRequest_VERSION}),
			req("stream", &pb.RangeRequest{Key: k, RangeEnd: whole, Limit: 1, SortTarget: pb.RangeRequest_MOD}),
			req("stream", &pb.RangeRequest{Key: k, RangeEnd: whole, Limit: -1, SortTarget: pb.RangeRequest_VALUE}))},
		{"A3 every order and limit of a range", sorted()},
		{"TX-1 too many operations", []step{txn(ops(make128(129)...)), txn(ops(make128(128)...)),
			txn(ops(txnOp(ops(make128(128)...)))), txn(ops(txnOp(ops(make128(127)...))))}},
		{"TX-2 operations without a key, or without anything", []step{txn(ops(&pb.RequestOp{})), txn(&pb.TxnRequest{Compare: []*pb.Compare{{}}}),
			txn(ops(putOp(&pb.PutRequest{}))), txn(ops(delOp(&pb.DeleteRangeRequest{}))), txn(ops(rangeOp(&pb.RangeRequest{})))}},
		{"TX-3 one key twice", []step{txn(ops(putOp(&pb.PutRequest{Key: k}), putOp(&pb.PutRequest{Key: k}))),
			txn(ops(putOp(&pb.PutRequest{Key: k}), delOp(&pb.DeleteRangeRequest{Key: k}))),
			txn(ops(txnOp(&pb.TxnRequest{Success: []*pb.RequestOp{putOp(&pb.PutRequest{Key: k})}, Failure: []*pb.RequestOp{putOp(&pb.PutRequest{Key: k})}}))),
			txn(ops(putOp(&pb.PutRequest{Key: k}), txnOp(ops(putOp(&pb.PutRequest{Key: k}))))),
			txn(ops(delOp(&pb.DeleteRangeRequest{Key: k}), delOp(&pb.DeleteRangeRequest{Key: k, RangeEnd: whole})))}},
		{"TX-4 every comparison", compares()},
		{"TX-5 later operations see earlier ones", []step{txn(ops(putOp(&pb.PutRequest{Key: k}), rangeOp(prefix),
			delOp(&pb.DeleteRangeRequest{Key: []byte("x")}), putOp(&pb.PutRequest{Key: []byte("k2")}), rangeOp(prefix))), get(prefix)}},
		{"TX-6 a Txn without an effect", append(someKeys(), txn(ops(delOp(&pb.DeleteRangeRequest{Key: []byte("missing")}))), txn(ops(txnOp(ops()))), txn(ops(rangeOp(prefix))))},
		{"TX-7 nested comparisons see what was before", []step{put("k", "1"), txn(ops(putOp(&pb.PutRequest{Key: []byte("new")}),
			txnOp(&pb.TxnRequest{Compare: []*pb.Compare{modIs("new", 0)}, Success: []*pb.RequestOp{rangeOp(prefix)}})))}},
		{"TX-8 a Txn that fails has no effect", []step{txn(ops(putOp(&pb.PutRequest{Key: k}), putOp(&pb.PutRequest{Key: []byte("l"), Lease: 99}))), get(prefix),
			txn(ops(putOp(&pb.PutRequest{Key: k}), putOp(&pb.PutRequest{Key: []byte("l"), IgnoreValue: true}))), get(prefix),
			txn(ops(rangeOp(&pb.RangeRequest{Key: k, Revision: now + 1}), putOp(&pb.PutRequest{Key: []byte("l"), Lease: 99})))}},
		{"LS-1 grants", []step{grant(7, 100), grant(7, 100), grant(0, 100), grant(-7, 100), grant(8, 9_000_000_001), grant(8, 9_000_000_000), grant(9, 0), grant(10, -5)}},
		{"LS-2 MT-3 MT-4 without space", []step{put("k", "1"), grant(1, 100), alarm(pb.AlarmRequest_ACTIVATE, pb.AlarmType_NOSPACE), put("k", "2"), grant(2, 100),
			txn(ops(putOp(&pb.PutRequest{Key: k}))), txn(ops(delOp(&pb.DeleteRangeRequest{Key: k}))), compact(now), get(prefix), req("revoke", &pb.LeaseRevokeRequest{ID: 1}),
			req("alarm", &pb.AlarmRequest{}), alarm(pb.AlarmRequest_DEACTIVATE, pb.AlarmType_NOSPACE), alarm(pb.AlarmRequest_DEACTIVATE, pb.AlarmType_NOSPACE), put("k", "3")}},
		{"MT-5 with damage", []step{put("k", "1"), grant(1, 100), alarm(pb.AlarmRequest_ACTIVATE, pb.AlarmType_CORRUPT), put("k", "2"), del("k"), compact(now), grant(2, 100),
			req("revoke", &pb.LeaseRevokeRequest{ID: 1}), get(prefix), txn(ops(putOp(&pb.PutRequest{Key: k}))), txn(ops(rangeOp(prefix))),
			alarm(pb.AlarmRequest_DEACTIVATE, pb.AlarmType_CORRUPT), put("k", "3")}},
		{"HDR-6 a keep-alive's header", []step{grant(1, 100), put("k", "1"), req("keepalive", &pb.LeaseKeepAliveRequest{ID: 1}), del("k"),
			req("keepalive", &pb.LeaseKeepAliveRequest{ID: 1}), req("keepalive", &pb.LeaseKeepAliveRequest{}), req("timetolive", &pb.LeaseTimeToLiveRequest{})}},
		{"LS-4 LS-8 a lease that nobody keeps takes its keys along, and is not there to be renewed", []step{grant(1, 1), grant(2, 1000),
			watchOn(0, &pb.WatchCreateRequest{Key: k, RangeEnd: whole, PrevKv: true}),
			req("put", &pb.PutRequest{Key: []byte("k2"), Lease: 1}), req("put", &pb.PutRequest{Key: k, Lease: 1}), req("put", &pb.PutRequest{Key: []byte("k3"), Lease: 2}),
			req("expire", &pb.RangeRequest{Key: k}), req("keepalive", &pb.LeaseKeepAliveRequest{ID: 1}), req("timetolive", &pb.LeaseTimeToLiveRequest{ID: 1, Keys: true}),
			req("revoke", &pb.LeaseRevokeRequest{ID: 1}), req("put", &pb.PutRequest{Key: k, Lease: 1}), req("leases", &pb.LeaseLeasesRequest{})}},
		{"LS-3 keeping alive what is there and what is not", []step{grant(1, 100), req("keepalive", &pb.LeaseKeepAliveRequest{ID: 1}), req("keepalive", &pb.LeaseKeepAliveRequest{ID: 2})}},
		{"LS-5 LS-6 what is left of leases", []step{grant(1, 100), req("timetolive", &pb.LeaseTimeToLiveRequest{ID: 1}), req("timetolive", &pb.LeaseTimeToLiveRequest{ID: 5, Keys: true}),
			grant(2, 200), req("leases", &pb.LeaseLeasesRequest{})}},
		{"LS-7 revoking", []step{grant(1, 100), req("put", &pb.PutRequest{Key: []byte("b"), Lease: 1}), req("put", &pb.PutRequest{Key: []byte("a"), Lease: 1}),
			req("revoke", &pb.LeaseRevokeRequest{ID: 1}), req("revoke", &pb.LeaseRevokeRequest{ID: 1}), grant(2, 100), req("revoke", &pb.LeaseRevokeRequest{ID: 2})}},
		{"W-1 ranges of watches", []step{watchOn(0, &pb.WatchCreateRequest{}), watchOn(0, &pb.WatchCreateRequest{Key: k, RangeEnd: k}), watchOn(0, &pb.WatchCreateRequest{Key: k, RangeEnd: whole}),
			put("\x00", "x"), put("k", "x"), put("z", "x")}},
		{"HDR-7 headers of what is no event", append(someKeys(), compact(now-1), watchOn(0, &pb.WatchCreateRequest{Key: k, ProgressNotify: true}), progress(0),
			watchOn(0, &pb.WatchCreateRequest{Key: k, StartRevision: now - 2}), watchOn(0, &pb.WatchCreateRequest{Key: k, StartRevision: -1}), put("k", "1"),
			stopWatch(0, 0), stopWatch(0, 1), progress(0), watchOn(0, &pb.WatchCreateRequest{Key: k, RangeEnd: k}))},
		{"W-2 ids of watches", []step{watchOn(0, &pb.WatchCreateRequest{Key: k, WatchId: 1}), watchOn(0, &pb.WatchCreateRequest{Key: k}), watchOn(0, &pb.WatchCreateRequest{Key: k}),
			watchOn(0, &pb.WatchCreateRequest{Key: k, WatchId: 1}), stopWatch(0, 1), watchOn(0, &pb.WatchCreateRequest{Key: k, WatchId: 1}), put("k", "x")}},
		{"W-3 a negative start comes before an empty range", []step{watchOn(0, &pb.WatchCreateRequest{Key: k, StartRevision: -1}), watchOn(0, &pb.WatchCreateRequest{Key: k, RangeEnd: k, StartRevision: -1})}},
		{"W-5 W-6 W-9 W-10 W-11 from the past into the present", append(someKeys(), watchOn(0, &pb.WatchCreateRequest{Key: k, RangeEnd: whole, StartRevision: now - 2, PrevKv: true}),
			watchOn(0, &pb.WatchCreateRequest{Key: k, RangeEnd: whole, PrevKv: true}), put("k2", "e"), del("k1"),
			txn(ops(putOp(&pb.PutRequest{Key: []byte("k9")}), delOp(&pb.DeleteRangeRequest{Key: []byte("k2")}))))},
		{"W-7 W-16 a start below the compaction, and its end", append(someKeys(), del("k3"), compact(now), watchOn(0, &pb.WatchCreateRequest{Key: k, StartRevision: now - 1}),
			watchOn(0, &pb.WatchCreateRequest{Key: k, WatchId: 0}), stopWatch(0, 0), stopWatch(0, 0), stopWatch(0, 1), stopWatch(0, 77),
			watchOn(0, &pb.WatchCreateRequest{Key: k, RangeEnd: whole, StartRevision: now, PrevKv: true}))},
		{"W-8 a start in the future", []step{watchOn(0, &pb.WatchCreateRequest{Key: k, StartRevision: now + 3}), put("k", "1"), put("k", "2"), progress(0), put("k", "3"), put("k", "4"), progress(0)}},
		{"W-11 a key that its revision deletes and creates has nothing before it", append(someKeys(),
			watchOn(0, &pb.WatchCreateRequest{Key: k, RangeEnd: whole, PrevKv: true}),
			txn(ops(delOp(&pb.DeleteRangeRequest{Key: whole, RangeEnd: whole}), putOp(&pb.PutRequest{Key: []byte("k1"), PrevKv: true}))),
			watchOn(0, &pb.WatchCreateRequest{Key: k, RangeEnd: whole, PrevKv: true, StartRevision: now}))},
		{"W-12 filters", []step{watchOn(0, &pb.WatchCreateRequest{Key: k, Filters: []pb.WatchCreateRequest_FilterType{0}}), watchOn(0, &pb.WatchCreateRequest{Key: k, Filters: []pb.WatchCreateRequest_FilterType{1}}),
			put("k", "1"), del("k"), put("k", "2")}},
		{"W-13 fragments", []step{watchOn(0, &pb.WatchCreateRequest{Key: k, Fragment: true, RangeEnd: whole}), big("k1"), big("k2"), big("k3"),
			watchOn(1, &pb.WatchCreateRequest{Key: k, Fragment: true, RangeEnd: whole, StartRevision: now - 2})}},
		{"W-15 progress of a stream", []step{progress(0), watchOn(0, &pb.WatchCreateRequest{Key: k}), progress(0), put("k", "1"), progress(0), watchOn(0, &pb.WatchCreateRequest{Key: k, StartRevision: now + 1}), progress(0)}},
		{"W-17 watches of one stream are told the same, and progress comes behind all of them", []step{
			watchOn(0, &pb.WatchCreateRequest{Key: k, RangeEnd: whole}), watchOn(0, &pb.WatchCreateRequest{Key: k, RangeEnd: whole}), watchOn(1, &pb.WatchCreateRequest{Key: []byte("k2")}),
			put("k1", "1"), progress(0), txn(ops(putOp(&pb.PutRequest{Key: []byte("k2")}), putOp(&pb.PutRequest{Key: []byte("k1")}))), progress(0), progress(1),
			watchOn(0, &pb.WatchCreateRequest{Key: k, RangeEnd: whole, StartRevision: now - 1}), put("k1", "2"), progress(0)}},
		{"MT-1 MT-2 MT-6 what a member says of itself", []step{req("upkeep", &pb.StatusRequest{}), req("upkeep", &pb.HashRequest{}),
			req("alarm", &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_NOSPACE}),
			alarm(pb.AlarmRequest_ACTIVATE, pb.AlarmType_NOSPACE), req("upkeep", &pb.StatusRequest{}), alarm(pb.AlarmRequest_ACTIVATE, pb.AlarmType_CORRUPT), req("upkeep", &pb.StatusRequest{})}},
		{"MT-8 MT-9 hashes", append(someKeys(), del("k1"), req("hash", &pb.HashKVRequest{}), req("hash", &pb.HashKVRequest{Revision: now - 1}), req("hash", &pb.HashKVRequest{Revision: now + 1}), req("hash", &pb.HashKVRequest{Revision: -1}),
			compact(now-1), put("k", "1"), req("hash", &pb.HashKVRequest{}), req("hash", &pb.HashKVRequest{Revision: now}))},
		{"MT-12 downgrades that are refused", []step{req("upkeep", &pb.DowngradeRequest{Version: "3.5"}), req("upkeep", &pb.DowngradeRequest{Version: "three"}), req("upkeep", &pb.DowngradeRequest{Version: "3.6.0"}), req("upkeep", &pb.DowngradeRequest{Action: pb.DowngradeRequest_CANCEL})}},
		{"CL-2 CL-3 CL-6 members that are not there", []step{req("upkeep", &pb.MemberAddRequest{PeerURLs: []string{"x"}}), req("upkeep", &pb.MemberAddRequest{}), req("upkeep", &pb.MemberRemoveRequest{ID: 5}),
			req("upkeep", &pb.MemberPromoteRequest{ID: 5}), req("upkeep", &pb.MemberUpdateRequest{ID: 5}), req("upkeep", &pb.MoveLeaderRequest{TargetID: 5})}},
		{"CL-1 HDR-4 the members", []step{req("upkeep", &pb.MemberListRequest{}), req("upkeep", &pb.MemberListRequest{Linearizable: true})}},
		{"CL-2 CL-3 CL-4 a learner comes and goes", []step{req("upkeep", &pb.MemberAddRequest{IsLearner: true, PeerURLs: []string{"http://127.0.0.1:1"}}),
			req("upkeep", &pb.MemberListRequest{Linearizable: true}), {kind: "pause"},
			req("upkeep", &pb.MemberAddRequest{IsLearner: true, PeerURLs: []string{"http://127.0.0.1:1"}}),
			req("upkeep", &pb.MemberAddRequest{IsLearner: true, PeerURLs: []string{"http://127.0.0.1:2"}}), req("upkeep", &pb.MoveLeaderRequest{TargetID: uint64(slot)}),
			req("upkeep", &pb.MemberPromoteRequest{ID: uint64(slot)}), req("upkeep", &pb.MemberUpdateRequest{ID: uint64(slot), PeerURLs: []string{"http://127.0.0.1:3"}}),
			// One without addresses would end etcd's process.
			req("upkeep", &pb.MemberRemoveRequest{ID: uint64(slot)}), req("upkeep", &pb.MemberRemoveRequest{ID: uint64(slot)}),
			req("upkeep", &pb.MemberPromoteRequest{ID: uint64(slot)}), req("upkeep", &pb.MemberListRequest{Linearizable: true})}},
		{"CL-3 CL-6 the only member", []step{req("upkeep", &pb.MoveLeaderRequest{TargetID: uint64(self)}), req("upkeep", &pb.MemberPromoteRequest{ID: uint64(self)}),
			req("upkeep", &pb.MemberRemoveRequest{ID: uint64(self)}), req("upkeep", &pb.MemberListRequest{Linearizable: true})}},
		{"A3 requests that are too large", []step{sized(1_572_000), sized(1_573_000), sized(2_097_152), sized(3_000_000)}},
		{"A10 contending without waiting", []step{grant(1, 100), grant(-4, 100), call1(&lockpb.LockRequest{Name: k, Lease: 1}), call1(&lockpb.LockRequest{Name: k, Lease: 1}),
			call1(&lockpb.UnlockRequest{Key: []byte("k/1")}), call1(&lockpb.LockRequest{Name: k, Lease: -4}), call1(&lockpb.UnlockRequest{}), call1(&lockpb.LockRequest{Lease: 1}),
			call1(&lockpb.LockRequest{Name: k, Lease: 99}), call1(&electionpb.CampaignRequest{Name: []byte("e"), Lease: -4, Value: k}), call1(&electionpb.LeaderRequest{Name: []byte("e")}),
			call1(&electionpb.CampaignRequest{Name: []byte("e"), Lease: -4, Value: whole}), call1(&electionpb.LeaderRequest{Name: []byte("e")}), req("observe", &electionpb.LeaderRequest{Name: []byte("e")}),
			call1(&electionpb.ProclaimRequest{Leader: &electionpb.LeaderKey{Name: []byte("e"), Key: []byte("e/-4"), Lease: -4, Rev: -1}, Value: k}),
			call1(&electionpb.ResignRequest{Leader: &electionpb.LeaderKey{Name: []byte("e"), Key: []byte("e/-4"), Lease: -4, Rev: -1}}), call1(&electionpb.LeaderRequest{Name: []byte("e")})}},
		{"A10 who cannot proclaim resigns", []step{put("e/1", "somebody's"), call1(&electionpb.CampaignRequest{Name: []byte("e"), Lease: 1, Value: k}),
			call1(&electionpb.LeaderRequest{Name: []byte("e")}), put("e/1", "again"), grant(1, 100), call1(&electionpb.CampaignRequest{Name: []byte("e"), Lease: 1, Value: k}),
			call1(&electionpb.LeaderRequest{Name: []byte("e")})}},
		{"A10 locks", []step{grant(1, 100), grant(2, 100), lock("locks")}},
		{"A10 elections", []step{grant(1, 100), grant(2, 100), lock("elections")}},
	}
}

func alarm(action pb.AlarmRequest_AlarmAction, kind pb.AlarmType) step {
	return req("alarm", &pb.AlarmRequest{Action: action, MemberID: 1, Alarm: kind})
}

func big(key string) step {
	return req("put", &pb.PutRequest{Key: []byte(key), Value: make([]byte, 1_000_000)})
}

func make128(count int) (all []*pb.RequestOp) {
	for range count {
		all = append(all, rangeOp(&pb.RangeRequest{Key: k}))
	}
	return all
}

// playCases plays all named cases on one pair, and says which failed. One that fails gets fresh servers.
func playCases(fresh func() (*pair, error)) (played, failed int) {
	var p *pair
	for _, c := range cases() {
		if p == nil {
			var err error
			if p, err = fresh(); err != nil {
				fmt.Printf("no servers: %v\n", err)
				return played, failed + 1
			}
		}
		played++
		if _, err := play(p, c.steps, nil); err != nil {
			failed++
			fmt.Printf("case %q fails at %v\n", c.name, err)
			p.stop()
			p = nil
		}
	}
	if p != nil {
		p.stop()
	}
	return played, failed
}

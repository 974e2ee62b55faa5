package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// How long a side may take for what it owes, on a machine that does other things too.
const patience = 30 * time.Second

// A stream is one watch stream of one side, with what came over it sorted out. Messages are no unit of
// comparison, since several revisions may travel in one; but each side must keep the rules of messages.
type stream struct {
	side   *side
	cancel context.CancelFunc
	calls  pb.Watch_WatchClient

	mu      sync.Mutex
	changed chan struct{}
	// Answers to what was asked: created, canceled, in order.
	controls []*pb.WatchResponse
	// Revisions of progress for the whole stream.
	progress []int64
	events   map[int64][]*mvccpb.Event
	// Watchers that were told that they are canceled.
	ended map[int64]bool
	// Watchers of which a response waits for its other fragments.
	parts  map[int64]bool
	wrong  []string
	closed error
	// Keys whose names the servers chose.
	hidden []string
}

func openStream(s *side) (*stream, error) {
	ctx, cancel := context.WithCancel(context.Background())
	calls, err := s.watch.Watch(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	st := &stream{
		side: s, cancel: cancel, calls: calls, changed: make(chan struct{}),
		events: map[int64][]*mvccpb.Event{}, ended: map[int64]bool{}, parts: map[int64]bool{},
	}
	go st.receive()
	return st, nil
}

func (st *stream) receive() {
	for {
		response, err := st.calls.Recv()
		st.mu.Lock()
		if err != nil {
			st.closed = err
		} else {
			st.sort(response)
		}
		close(st.changed)
		st.changed = make(chan struct{})
		st.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (st *stream) sort(r *pb.WatchResponse) {
	id := r.WatchId
	switch {
	case r.Created || r.Canceled:
		if len(r.Events) > 0 {
			st.complain("events beside created or canceled: %v", r)
		}
		if r.Created && !r.Canceled {
			st.events[id], st.ended[id] = nil, false
		} else if r.Canceled {
			st.ended[id] = true
		}
		st.controls = append(st.controls, r)
	case len(r.Events) == 0:
		if id == -1 {
			st.progress = append(st.progress, r.Header.Revision)
		}
	default:
		if st.ended[id] {
			st.complain("events for watcher %d after its end", id)
		}
		had := st.events[id]
		last := int64(0)
		if len(had) > 0 {
			last = had[len(had)-1].Kv.ModRevision
		}
		first := r.Events[0].Kv.ModRevision
		if first < last || (first == last && !st.parts[id]) {
			st.complain("watcher %d is told of revision %d after %d", id, first, last)
		}
		for i := 1; i < len(r.Events); i++ {
			if r.Events[i].Kv.ModRevision < r.Events[i-1].Kv.ModRevision {
				st.complain("watcher %d is told of revisions out of order", id)
			}
		}
		if newest := r.Events[len(r.Events)-1].Kv.ModRevision; r.Header.Revision < newest {
			st.complain("watcher %d is told of revision %d under a header of %d", id, newest, r.Header.Revision)
		}
		st.parts[id] = r.Fragment
		st.events[id] = append(had, r.Events...)
	}
}

func (st *stream) complain(format string, args ...any) {
	st.wrong = append(st.wrong, st.side.name+": "+fmt.Sprintf(format, args...))
}

// wait waits until `done` says so; it is asked whenever something came.
func (st *stream) wait(what string, limit time.Duration, done func() bool) error {
	deadline := time.After(limit)
	for {
		st.mu.Lock()
		ok, closed, changed := done(), st.closed, st.changed
		st.mu.Unlock()
		if ok {
			return nil
		}
		if closed != nil {
			return fmt.Errorf("%s: the watch stream ended while it owed %s: %w", st.side.name, what, closed)
		}
		select {
		case <-changed:
		case <-deadline:
			return fmt.Errorf("%s owes %s", st.side.name, what)
		}
	}
}

func (st *stream) send(request *pb.WatchRequest) error { return st.calls.Send(request) }

// control takes the next answer.
func (st *stream) control() (*pb.WatchResponse, error) {
	var next *pb.WatchResponse
	err := st.wait("an answer to a watch request", patience, func() bool {
		if len(st.controls) == 0 {
			return false
		}
		next = st.controls[0]
		st.controls = st.controls[1:]
		return true
	})
	return next, err
}

func (st *stream) count(id int64) int {
	st.mu.Lock()
	defer st.mu.Unlock()
	return len(st.events[id])
}

// told is what a watcher was told, without the versions before changes up to the revision `bare`: they
// are compacted, and whether they are still there is a matter of time.
func (st *stream) told(id, bare int64) string {
	st.mu.Lock()
	defer st.mu.Unlock()
	var all []string
	for _, event := range st.events[id] {
		event = proto.Clone(event).(*mvccpb.Event)
		if slices.Contains(st.hidden, string(event.Kv.Key)) {
			event.Kv.Key, event.Kv.Lease, event.PrevKv = nil, 0, nil
		}
		if event.Kv.ModRevision <= bare {
			event.PrevKv = nil
		}
		st.side.blank(event)
		all = append(all, "<"+text(event)+">")
	}
	return strings.Join(all, " ")
}

// A watcher is one watch on both sides.
type watcher struct {
	stream  int
	id      int64
	request *pb.WatchCreateRequest
	from    int64
	// It began in the past, and may not have caught up.
	late bool
	// What had been compacted when it began.
	bare int64
}

// expects says how many events the watcher is owed, given everything that happened.
func (w *watcher) expects(history []*mvccpb.Event) int {
	count := 0
	for _, event := range history {
		if event.Kv.ModRevision >= w.from && w.covers(event.Kv.Key) && !w.drops(event.Type) {
			count++
		}
	}
	return count
}

func (w *watcher) covers(key []byte) bool {
	from, end := w.request.Key, w.request.RangeEnd
	if len(from) == 0 {
		from = []byte{0}
	}
	switch {
	case len(end) == 0:
		return bytes.Equal(key, from)
	case bytes.Equal(end, []byte{0}):
		return bytes.Compare(key, from) >= 0
	}
	return bytes.Compare(key, from) >= 0 && bytes.Compare(key, end) < 0
}

func (w *watcher) drops(kind mvccpb.Event_EventType) bool {
	for _, filter := range w.request.Filters {
		if filter == pb.WatchCreateRequest_NOPUT && kind == mvccpb.Event_PUT ||
			filter == pb.WatchCreateRequest_NODELETE && kind == mvccpb.Event_DELETE {
			return true
		}
	}
	return false
}

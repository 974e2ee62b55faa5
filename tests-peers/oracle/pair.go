package main

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	electionpb "go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	lockpb "go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
)

// A side is one of the two servers that are compared.
type side struct {
	name        string
	conn        *grpc.ClientConn
	kv          pb.KVClient
	lease       pb.LeaseClient
	watch       pb.WatchClient
	maintenance pb.MaintenanceClient
	cluster     pb.ClusterClient
	lock        lockpb.LockClient
	election    electionpb.ElectionClient
	// The ids of leases that the server chose itself, by the slot that the sequence gave them, and the
	// numbers of all of them: a slot may be filled anew while its first lease is still there.
	chosen, numbers map[int64]int64
	// The member that answers.
	member int64
}

// A pair is etcd itself and the server that must not be told from it. Both have seen the same history,
// so that whatever they say can be compared as it is.
type pair struct {
	etcd, subject *side
	stops         []func()
	// Revisions that were compacted at: of these, etcd remembers the hash from before.
	hashed map[int64]bool
}

func (p *pair) sides() []*side { return []*side{p.etcd, p.subject} }

func (p *pair) stop() {
	for _, stop := range p.stops {
		stop()
	}
}

func connect(name, address string) (*side, error) {
	all := grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30), grpc.MaxCallSendMsgSize(1<<30))
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()), all)
	if err != nil {
		return nil, err
	}
	return &side{
		name:        name,
		conn:        conn,
		kv:          pb.NewKVClient(conn),
		lease:       pb.NewLeaseClient(conn),
		watch:       pb.NewWatchClient(conn),
		maintenance: pb.NewMaintenanceClient(conn),
		cluster:     pb.NewClusterClient(conn),
		lock:        lockpb.NewLockClient(conn),
		election:    electionpb.NewElectionClient(conn),
		chosen:      map[int64]int64{},
		numbers:     map[int64]int64{},
	}, nil
}

// newPair starts a real etcd within this process, and the adapter beside it, unless it is there already.
func newPair(adapter, endpoint string) (*pair, error) {
	p := &pair{hashed: map[int64]bool{}}
	address, err := p.startEtcd()
	if err == nil {
		p.etcd, err = connect("etcd", address)
	}
	if err == nil && endpoint == "" {
		endpoint, err = p.startAdapter(adapter)
	}
	if err == nil {
		p.subject, err = connect("adapter", endpoint)
	}
	if err == nil {
		for _, s := range p.sides() {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			var answer *pb.RangeResponse
			answer, err = s.kv.Range(ctx, &pb.RangeRequest{Key: []byte("a")}, grpc.WaitForReady(true))
			cancel()
			if err != nil {
				err = fmt.Errorf("%s does not answer: %w", s.name, err)
				break
			}
			s.member = int64(answer.Header.MemberId)
		}
	}
	if err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// inMemory is where files do not wait for a disk that others keep busy: for so long that a server seems
// to owe an answer. Where there is no such place, it is the usual one.
func inMemory() string {
	if place, err := os.MkdirTemp("/dev/shm", "oracle-"); err == nil {
		os.Remove(place)
		return "/dev/shm"
	}
	return ""
}

func (p *pair) startEtcd() (string, error) {
	dir, err := os.MkdirTemp(inMemory(), "oracle-etcd-")
	if err != nil {
		return "", err
	}
	p.stops = append(p.stops, func() { os.RemoveAll(dir) })
	anywhere := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	cfg := embed.NewConfig()
	cfg.Name = "reference"
	cfg.Dir = filepath.Join(dir, "data")
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = anywhere, anywhere
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = anywhere, anywhere
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	// It is the reference, and keeps nothing.
	cfg.UnsafeNoFsync = true
	cfg.LogLevel = "fatal"
	cfg.LogOutputs = []string{"/dev/null"}
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		return "", err
	}
	p.stops = append([]func(){etcd.Close}, p.stops...)
	select {
	case <-etcd.Server.ReadyNotify():
	case <-time.After(30 * time.Second):
		return "", fmt.Errorf("etcd does not become ready")
	}
	return etcd.Clients[0].Addr().String(), nil
}

func (p *pair) startAdapter(program string) (string, error) {
	// Somebody may take the port in between: then the adapter ends, and another one is tried.
	for attempt := 0; ; attempt++ {
		address, err := freeAddress()
		if err != nil {
			return "", err
		}
		dir, err := os.MkdirTemp(inMemory(), "oracle-adapter-")
		if err != nil {
			return "", err
		}
		p.stops = append(p.stops, func() { os.RemoveAll(dir) })
		listen := "http://" + address
		command := exec.Command(program, "--ephemeral", "--name", "subject", "--data-dir", filepath.Join(dir, "data"),
			"--listen-client-urls", listen, "--advertise-client-urls", listen, "--log-level", "warn")
		said, err := os.Create(filepath.Join(dir, "log"))
		if err != nil {
			return "", err
		}
		command.Stderr, command.Stdout = said, said
		if err := command.Start(); err != nil {
			return "", err
		}
		ended := make(chan struct{})
		go func() { command.Wait(); close(ended) }()
		stop := func() { command.Process.Kill(); <-ended }
		if answers(address, ended) {
			p.stops = append([]func(){stop}, p.stops...)
			return address, nil
		}
		stop()
		words, _ := os.ReadFile(said.Name())
		if attempt == 3 {
			return "", fmt.Errorf("the adapter does not answer; it said: %s", words)
		}
	}
}

func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}

func answers(address string, ended chan struct{}) bool {
	for tries := 0; tries < 1000; tries++ {
		select {
		case <-ended:
			return false
		default:
		}
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			return true
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false
}

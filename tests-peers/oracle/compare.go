package main

import (
	"fmt"
	"regexp"
	"strings"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// An answer is what a side said to one request.
type answer struct {
	msg proto.Message
	err error
}

// A difference is what the two sides said, where it was not the same.
type difference struct {
	about         string
	etcd, subject string
}

func (d *difference) Error() string {
	etcd, subject := apart(squeezed(d.etcd), squeezed(d.subject))
	return fmt.Sprintf("%s\n      etcd:    %s\n      adapter: %s", d.about, etcd, subject)
}

// squeezed says long runs of zero bytes, of which large values are made, in fewer words.
func squeezed(said string) string { return zeros.ReplaceAllString(said, `\x00...`) }

var zeros = regexp.MustCompile(`(\\x00|\\000){4,}`)

// apart leaves out most of what two long texts begin with alike.
func apart(a, b string) (string, string) {
	const before = 300
	same := 0
	for same < min(len(a), len(b)) && a[same] == b[same] {
		same++
	}
	if same <= before {
		return a, b
	}
	same -= before
	return "..." + a[same:], "..." + b[same:]
}

func differ(about, etcd, subject string) error {
	if etcd == subject {
		return nil
	}
	return &difference{about, etcd, subject}
}

type headed interface{ GetHeader() *pb.ResponseHeader }

// plain is an answer without what may differ: ids of the cluster and of members, terms, indexes, and
// ids of leases that a server chose. That they are there where they must be is checked here.
func (s *side) plain(a answer) string {
	if a.err != nil {
		st := status.Convert(a.err)
		return fmt.Sprintf("%s %q", st.Code(), st.Message())
	}
	msg := proto.Clone(a.msg)
	problem := ""
	if headed, ok := msg.(headed); ok && headed.GetHeader() != nil {
		header := headed.GetHeader()
		if header.ClusterId == 0 || header.MemberId == 0 || header.RaftTerm == 0 {
			problem = " (a header without ids or term)"
		}
		header.ClusterId, header.MemberId, header.RaftTerm = 0, 0, 0
	}
	s.blank(msg)
	return text(msg) + problem
}

// blank replaces the ids of leases that this side chose with their numbers in the sequence.
func (s *side) blank(msg proto.Message) {
	if len(s.numbers) == 0 {
		return
	}
	walk(msg.ProtoReflect(), func(_ protoreflect.Message, field protoreflect.FieldDescriptor, n int64) int64 {
		if number, ok := s.numbers[n]; ok && (field.Name() == "lease" || field.Name() == "ID") {
			return number
		}
		return n
	})
}

func text(msg proto.Message) string {
	// The format puts in spaces at random, so that nobody relies on it.
	return strings.Join(strings.Fields(prototext.MarshalOptions{}.Format(msg)), " ")
}

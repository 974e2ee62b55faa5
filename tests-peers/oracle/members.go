package main

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// aboutItself asks for the status. What is a member's own is checked here and left out: ids, sizes, and
// how far its log goes.
func aboutItself(ctx context.Context, s *side, m *pb.StatusRequest) (*pb.StatusResponse, error) {
	answer, err := s.maintenance.Status(ctx, m)
	if err != nil {
		return nil, err
	}
	if answer.Header == nil || answer.Leader != answer.Header.MemberId || answer.RaftTerm != answer.Header.RaftTerm {
		return nil, fmt.Errorf("the only member does not lead: %v", text(answer))
	}
	if answer.RaftIndex == 0 || answer.RaftAppliedIndex == 0 || answer.RaftAppliedIndex > answer.RaftIndex {
		return nil, fmt.Errorf("indexes that cannot be: %v", text(answer))
	}
	if answer.DbSize <= 0 || answer.DbSizeInUse > answer.DbSize {
		return nil, fmt.Errorf("sizes that cannot be: %v", text(answer))
	}
	answer.Leader, answer.RaftTerm, answer.RaftIndex, answer.RaftAppliedIndex = 0, 0, 0, 0
	answer.DbSize, answer.DbSizeInUse = 0, 0
	// They come from a map, in a format with spaces at random.
	for i, said := range answer.Errors {
		answer.Errors[i] = strings.Join(strings.Fields(said), " ")
	}
	sort.Strings(answer.Errors)
	return answer, nil
}

// reachable checks that the member who answers is in the list, with addresses where it is found.
func reachable(s *side, answer *pb.MemberListResponse) error {
	own := slices.IndexFunc(answer.Members, func(m *pb.Member) bool { return m.ID == answer.Header.MemberId })
	if own < 0 || answer.Members[own].Name == "" || len(answer.Members[own].ClientURLs) == 0 {
		return fmt.Errorf("who answers is not a member that can be reached: %v", text(answer))
	}
	return s.placeless(answer.Members)
}

// placeless leaves out of members what is a matter of where they run: the own id, name and addresses.
// The order is that of ids in etcd.
func (s *side) placeless(members []*pb.Member) error {
	for _, member := range members {
		if member.Name == "" {
			continue
		}
		if len(member.PeerURLs) == 0 {
			return fmt.Errorf("a member without peer addresses: %v", text(member))
		}
		member.ID, member.Name, member.PeerURLs, member.ClientURLs = 0, "self", nil, nil
	}
	sort.Slice(members, func(i, j int) bool { return members[i].Name > members[j].Name })
	return nil
}

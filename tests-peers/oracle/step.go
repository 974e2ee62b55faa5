package main

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// A step is one thing that is asked of both servers. Its message may hold placeholders:
//
//   - a revision of `now + delta` stands for the revision when the step is taken, moved by delta, so
//     that a sequence means the same wherever it begins, and when steps are left out of it;
//   - a lease of `slot + n` stands for the id that the server chose for the n-th such lease, and a
//     member of `slot + n` likewise;
//   - a member of `self` stands for the one that is asked.
type step struct {
	kind string
	// Which watch stream, or which watcher.
	stream int
	msg    proto.Message
}

const (
	now  = int64(1) << 40
	slot = int64(1) << 42
	self = int64(1) << 43
	// Placeholders are this near to their base.
	span = int64(1) << 20
)

func (s step) String() string {
	text := ""
	if s.msg != nil {
		text = prototext.MarshalOptions{}.Format(s.msg)
	}
	text = strings.Join(strings.Fields(text), " ")
	return fmt.Sprintf("%s/%d {%s}", s.kind, s.stream, text)
}

func near(n, base int64) bool { return n > base-span && n < base+span }

// resolved is the message as it is sent to one side: with its placeholders replaced.
func resolved[M proto.Message](msg M, revision int64, s *side) M {
	copied := proto.Clone(msg).(M)
	walk(copied.ProtoReflect(), func(_ protoreflect.Message, field protoreflect.FieldDescriptor, n int64) int64 {
		switch {
		case near(n, now):
			return max(revision+n-now, 1)
		case n == self:
			return s.member
		case near(n, slot):
			// A slot that nobody has filled is an unknown lease.
			if id, ok := s.chosen[n]; ok {
				return id
			}
			return 424242
		}
		return n
	})
	return copied
}

// walk visits every int64 and uint64 of a message, however deep, and sets it to what `visit` answers.
func walk(m protoreflect.Message, visit func(protoreflect.Message, protoreflect.FieldDescriptor, int64) int64) {
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.IsList() && field.Kind() == protoreflect.MessageKind:
			list := value.List()
			for i := range list.Len() {
				walk(list.Get(i).Message(), visit)
			}
		case field.Kind() == protoreflect.MessageKind && !field.IsMap():
			walk(value.Message(), visit)
		case field.Kind() == protoreflect.Int64Kind && !field.IsList():
			if was := value.Int(); true {
				if is := visit(m, field, was); is != was {
					m.Set(field, protoreflect.ValueOfInt64(is))
				}
			}
		case field.Kind() == protoreflect.Uint64Kind && !field.IsList():
			was := int64(value.Uint())
			if is := visit(m, field, was); is != was {
				m.Set(field, protoreflect.ValueOfUint64(uint64(is)))
			}
		}
		return true
	})
}

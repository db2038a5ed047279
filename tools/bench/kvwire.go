package main

import (
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// The few messages of etcd's API (etcdserverpb, version 3) that the barn group needs, written
// and read by hand: the client library would bring a hundred packages. Our replica answers
// the same ones, so that one client measures both.
const (
	kvService     = "etcdserverpb.KV"
	statusService = "etcdserverpb.Maintenance"
)

// rawCodec hands messages over as bytes. To the peer it is protobuf.
type rawCodec struct{}

// Marshal implements encoding.CodecV2.
func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("raw codec: %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

// Unmarshal implements encoding.CodecV2.
func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	p, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("raw codec: %T", v)
	}
	*p = data.Materialize()
	return nil
}

// Name implements encoding.CodecV2.
func (rawCodec) Name() string { return "proto" }

// putRequest is PutRequest{key, value}, and a RangeRequest where value is nil: linearizable,
// of one key.
func putRequest(key, value []byte) []byte {
	b := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), key)
	if value != nil {
		b = protowire.AppendBytes(protowire.AppendTag(b, 2, protowire.BytesType), value)
	}
	return b
}

// kvFields finds the fields of a message: numbers by field, and the last bytes of each.
func kvFields(b []byte) (numbers map[int]uint64, bytes map[int][]byte, err error) {
	numbers, bytes = map[int]uint64{}, map[int][]byte{}
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, nil, protowire.ParseError(n)
		}
		b = b[n:]
		switch typ {
		case protowire.VarintType:
			numbers[int(num)], n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			bytes[int(num)], n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return nil, nil, protowire.ParseError(n)
		}
		b = b[n:]
	}
	return numbers, bytes, nil
}

// found is RangeResponse{kvs: [{value}]}, without kvs for a key that is absent.
func found(value []byte, ok bool) []byte {
	if !ok {
		return nil
	}
	kv := protowire.AppendBytes(protowire.AppendTag(nil, 5, protowire.BytesType), value)
	return protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), kv)
}

// status is StatusResponse{header: {member_id}, leader}.
func status(self, leader uint64) []byte {
	h := protowire.AppendVarint(protowire.AppendTag(nil, 2, protowire.VarintType), self)
	b := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), h)
	return protowire.AppendVarint(protowire.AppendTag(b, 4, protowire.VarintType), leader)
}

// leads reads a StatusResponse: does the one that answered lead?
func leads(b []byte) (bool, error) {
	numbers, bytes, err := kvFields(b)
	if err != nil {
		return false, err
	}
	header, _, err := kvFields(bytes[1])
	if err != nil {
		return false, err
	}
	return numbers[4] != 0 && numbers[4] == header[2], nil
}

// value reads a RangeResponse of one key.
func value(b []byte) ([]byte, error) {
	_, bytes, err := kvFields(b)
	if err != nil {
		return nil, err
	}
	_, kv, err := kvFields(bytes[2])
	return kv[5], err
}

// callRaw has gRPC use the codec.
func callRaw() grpc.CallOption { return grpc.ForceCodecV2(rawCodec{}) }

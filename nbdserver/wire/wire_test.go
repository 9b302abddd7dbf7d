package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// unhex reads bytes written for people: blanks don't count.
func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Bytes as nbdinfo and nbdcopy of libnbd 1.14 send them, and as the
// specification lays them out.
func TestParseRequest(t *testing.T) {
	tests := []struct {
		name, bytes string
		want        Request
		payload     uint64
	}{
		{
			"read", "25609513 0000 0000 0000000000000001 0000000000001000 00000200",
			Request{Cookie: 1, Offset: 4096, Length: 512}, 0,
		},
		{
			"write with FUA", "25609513 0001 0001 ffffffffffffffff 8000000000000000 ffffffff",
			Request{Flags: FlagFUA, Command: CmdWrite, Cookie: 1<<64 - 1, Offset: 1 << 63, Length: 1<<32 - 1}, 1<<32 - 1,
		},
		{
			"an unknown command with unknown flags", "25609513 8000 1234 0000000000000000 0000000000000000 00000000",
			Request{Flags: 1 << 15, Command: 0x1234}, 0,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseRequest([RequestSize]byte(unhex(t, tt.bytes)))
			if err != nil || got != tt.want {
				t.Errorf("%+v, %v; not %+v", got, err, tt.want)
			}
			if n := got.PayloadLength(); n != tt.payload {
				t.Errorf("payload of %d bytes, not %d", n, tt.payload)
			}
		})
	}
	if _, err := ParseRequest([RequestSize]byte{}); !errors.Is(err, ErrMalformed) {
		t.Errorf("wrong magic: %v", err)
	}
}

func TestReplies(t *testing.T) {
	tests := []struct {
		name string
		got  []byte
		want string
	}{
		{"greeting", AppendGreeting(nil, FlagFixedNewstyle|FlagNoZeroes), "4e42444d41474943 49484156454f5054 0003"},
		{"acknowledgement", AppendOptionReply(nil, OptGo, RepAck, nil), "0003e889045565a9 00000007 00000001 00000000"},
		{"unsupported", AppendOptionReply(nil, 0x10, RepErrUnsup, []byte("no")), "0003e889045565a9 00000010 80000001 00000002 6e6f"},
		{"server", AppendServer(nil, "a", "bc"), "00000001 61 6263"},
		{"export", AppendInfoExport(nil, 1<<40, HasFlags|ReadOnly), "0000 0000010000000000 0003"},
		{"name", AppendInfoString(nil, InfoName, "a"), "0001 61"},
		{"block size", AppendInfoBlockSize(nil, 1, 4096, 1<<25), "0003 00000001 00001000 02000000"},
		{"context", AppendMetaContext(nil, 1, "base:allocation"), "00000001 626173653a616c6c6f636174696f6e"},
		{"export name", AppendExportName(nil, 512, HasFlags, true), "0000000000000200 0001"},
		{"simple", AppendSimpleReply(nil, 7, EIO), "67446698 00000005 0000000000000007"},
		{"none", AppendNone(nil, 7), "668e33ef 0001 0000 0000000000000007 00000000"},
		{"data", AppendOffsetData(nil, ChunkDone, 7, 4096, 512), "668e33ef 0001 0001 0000000000000007 00000208 0000000000001000"},
		{"error", AppendError(nil, 7, ENOSPC, "full"), "668e33ef 0001 8001 0000000000000007 0000000a 0000001c 0004 66756c6c"},
		{
			"block status", AppendBlockStatus(nil, 7, 1, []Extent{{4096, StateHole | StateZero}, {512, 0}}),
			"668e33ef 0001 0005 0000000000000007 00000014 00000001 00001000 00000003 00000200 00000000",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if want := unhex(t, tt.want); !bytes.Equal(tt.got, want) {
				t.Errorf("%x\nnot %x", tt.got, want)
			}
		})
	}
	if b := AppendExportName(nil, 512, HasFlags, false); len(b) != 134 {
		t.Errorf("export name with zeroes is %d bytes long", len(b))
	}
}

func TestErrorMessageIsCut(t *testing.T) {
	b := AppendError(nil, 1, EIO, strings.Repeat("ü", 3000))
	if n := binary.BigEndian.Uint16(b[24:]); n > MaxString || len(b) != ChunkHeaderSize+6+int(n) {
		t.Errorf("a message of %d bytes in %d", n, len(b))
	}
}

func TestParseOptionHeader(t *testing.T) {
	h, err := ParseOptionHeader([16]byte(unhex(t, "49484156454f5054 00000007 ffffffff")))
	if err != nil || h != (OptionHeader{OptGo, 1<<32 - 1}) {
		t.Errorf("%+v, %v", h, err)
	}
	if _, err := ParseOptionHeader([16]byte{}); !errors.Is(err, ErrMalformed) {
		t.Errorf("wrong magic: %v", err)
	}
}

func TestParseClientFlags(t *testing.T) {
	if f, err := ParseClientFlags([4]byte{3: 3}); err != nil || f != ClientFixedNewstyle|ClientNoZeroes {
		t.Errorf("%v, %v", f, err)
	}
	if _, err := ParseClientFlags([4]byte{3: 7}); !errors.Is(err, ErrMalformed) {
		t.Errorf("unknown flags: %v", err)
	}
}

func FuzzParseInfoRequest(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x04disk\x00\x02\x00\x01\x00\x03"))
	f.Add([]byte("\xff\xff\xff\xffdisk"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseInfoRequest(b)
		if err != nil {
			malformedAndEmpty(t, err, r, InfoRequest{})
			return
		}
		again := binary.BigEndian.AppendUint32(nil, uint32(len(r.Name)))
		again = append(again, r.Name...)
		again = binary.BigEndian.AppendUint16(again, uint16(len(r.Infos)))
		for _, i := range r.Infos {
			again = binary.BigEndian.AppendUint16(again, uint16(i))
		}
		if !bytes.Equal(again, b) {
			t.Errorf("%x was read as %+v", b, r)
		}
	})
}

func FuzzParseMetaContextRequest(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x04disk\x00\x00\x00\x01\x00\x00\x00\x0fbase:allocation"))
	f.Add([]byte("\x00\x00\x00\x00\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseMetaContextRequest(b)
		if err != nil {
			malformedAndEmpty(t, err, r, MetaContextRequest{})
			return
		}
		again := binary.BigEndian.AppendUint32(nil, uint32(len(r.Name)))
		again = append(again, r.Name...)
		again = binary.BigEndian.AppendUint32(again, uint32(len(r.Queries)))
		for _, q := range r.Queries {
			again = binary.BigEndian.AppendUint32(again, uint32(len(q)))
			again = append(again, q...)
		}
		if !bytes.Equal(again, b) {
			t.Errorf("%x was read as %+v", b, r)
		}
	})
}

func malformedAndEmpty(t *testing.T, err error, got, want any) {
	t.Helper()
	if !errors.Is(err, ErrMalformed) {
		t.Errorf("error %v", err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v came with the error %v", got, err)
	}
}

func FuzzParseRequest(f *testing.F) {
	f.Add([]byte("\x25\x60\x95\x13\x00\x01\x00\x01\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x02\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) != RequestSize {
			return
		}
		r, err := ParseRequest([RequestSize]byte(b))
		if err != nil {
			malformedAndEmpty(t, err, r, Request{})
			return
		}
		if r.PayloadLength() != 0 && r.PayloadLength() != r.Length {
			t.Errorf("payload of %d bytes for %+v", r.PayloadLength(), r)
		}
	})
}

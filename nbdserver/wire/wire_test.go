package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"reflect"
	"slices"
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

func TestParseExtendedRequest(t *testing.T) {
	tests := []struct {
		name, bytes string
		want        Request
		payload     uint64
	}{
		{
			"zeroes of 2^40", "21e41c71 0010 0006 0000000000000001 0000000000001000 0000010000000000",
			Request{Extended: true, Flags: FlagFastZero, Command: CmdWriteZeroes, Cookie: 1, Offset: 4096, Length: 1 << 40}, 0,
		},
		{
			"write", "21e41c71 0021 0001 ffffffffffffffff 8000000000000000 0000000000000200",
			Request{Extended: true, Flags: FlagFUA | FlagPayloadLen, Command: CmdWrite, Cookie: 1<<64 - 1, Offset: 1 << 63, Length: 512}, 512,
		},
		{
			"write that forgot the flag", "21e41c71 0000 0001 0000000000000000 0000000000000000 0000000000000200",
			Request{Extended: true, Command: CmdWrite, Length: 512}, 0,
		},
		{
			"an unknown command with a payload", "21e41c71 0020 1234 0000000000000000 0000000000000000 ffffffffffffffff",
			Request{Extended: true, Flags: FlagPayloadLen, Command: 0x1234, Length: 1<<64 - 1}, 1<<64 - 1,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := unhex(t, tt.bytes)
			got, err := ParseExtendedRequest([ExtendedRequestSize]byte(b))
			if err != nil || got != tt.want || !IsExtendedRequest(b) {
				t.Errorf("%+v, %v; not %+v", got, err, tt.want)
			}
			if n := got.PayloadLength(); n != tt.payload {
				t.Errorf("payload of %d bytes, not %d", n, tt.payload)
			}
		})
	}
	if _, err := ParseExtendedRequest([ExtendedRequestSize]byte{}); !errors.Is(err, ErrMalformed) {
		t.Errorf("wrong magic: %v", err)
	}
}

func TestParseBlockStatusPayload(t *testing.T) {
	for _, tt := range []struct {
		name, bytes string
		length      uint64
		contexts    []uint32
		malformed   bool
	}{
		{"one context", "0000010000000000 00000001", 1 << 40, []uint32{1}, false},
		{"two contexts", "0000000000000200 00000001 ffffffff", 512, []uint32{1, 1<<32 - 1}, false},
		{"none", "0000000000000200", 512, nil, false},
		{"nothing", "", 0, nil, true},
		{"half a length", "00000000", 0, nil, true},
		{"half a context", "0000000000000200 0000", 0, nil, true},
	} {
		length, contexts, err := ParseBlockStatusPayload(unhex(t, tt.bytes))
		if length != tt.length || !slices.Equal(contexts, tt.contexts) || errors.Is(err, ErrMalformed) != tt.malformed {
			t.Errorf("%s: %d bytes, contexts %v, error %v", tt.name, length, contexts, err)
		}
	}
}

func TestReplies(t *testing.T) {
	r, x := Reply{Cookie: 7, Offset: 4096}, Reply{Extended: true, Cookie: 7, Offset: 4096}
	status := []Extent{{4096, StateHole | StateZero}, {512, 0}}
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
		{"none", r.AppendNone(nil), "668e33ef 0001 0000 0000000000000007 00000000"},
		{"data", r.AppendOffsetData(nil, ChunkDone, 4096, 512), "668e33ef 0001 0001 0000000000000007 00000208 0000000000001000"},
		{"error", r.AppendError(nil, ENOSPC, "full"), "668e33ef 0001 8001 0000000000000007 0000000a 0000001c 0004 66756c6c"},
		{
			"block status", r.AppendBlockStatus(nil, 1, status),
			"668e33ef 0001 0005 0000000000000007 00000014 00000001 00001000 00000003 00000200 00000000",
		},
		{"hole", r.AppendOffsetHole(nil, 0, 4096, 1<<16), "668e33ef 0000 0002 0000000000000007 0000000c 0000000000001000 00010000"},
		{"error at an offset", r.AppendErrorOffset(nil, EINVAL, "end", 1<<20), "668e33ef 0001 8002 0000000000000007 00000011 00000016 0003 656e64 0000000000100000"},
		{"none, extended", x.AppendNone(nil), "6e8a278c 0001 0000 0000000000000007 0000000000001000 0000000000000000"},
		{"data, extended", x.AppendOffsetData(nil, 0, 8192, 512), "6e8a278c 0000 0001 0000000000000007 0000000000001000 0000000000000208 0000000000002000"},
		{"hole, extended", x.AppendOffsetHole(nil, ChunkDone, 8192, 1), "6e8a278c 0001 0002 0000000000000007 0000000000001000 000000000000000c 0000000000002000 00000001"},
		{"error, extended", x.AppendError(nil, ENOTSUP, ""), "6e8a278c 0001 8001 0000000000000007 0000000000001000 0000000000000006 0000005f 0000"},
		{
			"block status, extended", x.AppendBlockStatus(nil, 1, append(status, Extent{1 << 40, StateHole})),
			"6e8a278c 0001 0006 0000000000000007 0000000000001000 0000000000000038 00000001 00000003" +
				"0000000000001000 0000000000000003 0000000000000200 0000000000000000 0000010000000000 0000000000000001",
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

// However a Backend words its error, the message is a string of the protocol.
func TestErrorMessageIsAString(t *testing.T) {
	for in, want := range map[string]string{
		strings.Repeat("ü", 3000):             strings.Repeat("ü", 2048),
		"x" + strings.Repeat("ü", 3000):       "x" + strings.Repeat("ü", 2047),
		"read of \"/srv/\xff\": no such disk": "read of \"/srv/\": no such disk",
	} {
		b := Reply{}.AppendError(nil, EIO, in)
		if n := binary.BigEndian.Uint16(b[24:]); int(n) != len(want) || string(b[26:]) != want {
			t.Errorf("%.20q became %.20q, of %d bytes", in, b[26:], n)
		}
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

func FuzzParseExtendedRequest(f *testing.F) {
	f.Add([]byte("\x21\xe4\x1c\x71\x00\x20\x00\x01\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00\x02\x00"))
	f.Add([]byte("\x21\xe4\x1c\x71\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x10\x00\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) != ExtendedRequestSize {
			return
		}
		r, err := ParseExtendedRequest([ExtendedRequestSize]byte(b))
		if err != nil {
			malformedAndEmpty(t, err, r, Request{})
			return
		}
		again := binary.BigEndian.AppendUint32(nil, 0x21e41c71)
		again = binary.BigEndian.AppendUint16(again, uint16(r.Flags))
		again = binary.BigEndian.AppendUint16(again, uint16(r.Command))
		for _, n := range []uint64{r.Cookie, r.Offset, r.Length} {
			again = binary.BigEndian.AppendUint64(again, n)
		}
		if !bytes.Equal(again, b) {
			t.Errorf("%x was read as %+v", b, r)
		}
		want := uint64(0)
		if b[5]&0x20 != 0 {
			want = r.Length
		}
		if r.PayloadLength() != want {
			t.Errorf("payload of %d bytes for %+v", r.PayloadLength(), r)
		}
	})
}

func FuzzParseBlockStatusPayload(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x02"))
	f.Add([]byte("\x00\x00\x00\x01\x00\x00\x00\x00"))
	f.Add([]byte("\x00\x00\x00\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		length, contexts, err := ParseBlockStatusPayload(b)
		if err != nil {
			malformedAndEmpty(t, err, contexts, []uint32(nil))
			return
		}
		again := binary.BigEndian.AppendUint64(nil, length)
		for _, c := range contexts {
			again = binary.BigEndian.AppendUint32(again, c)
		}
		if !bytes.Equal(again, b) {
			t.Errorf("%x was read as %d, %v", b, length, contexts)
		}
	})
}

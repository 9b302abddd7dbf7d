// Package wire is the framing of the NBD protocol: its numbers, and functions
// that turn bytes into values and back. It has no policy, no goroutines and no
// I/O of its own; lengths are bounded by those who call it before it allocates.
//
// The protocol is described in doc/proto.md of the NetworkBlockDevice/nbd
// project, extended headers in that of its branch extension-ext-header; names
// here are its names without the NBD_ prefix, and a section named in a comment
// is a section of that document. All numbers are big endian.
package wire

import "fmt"

// Magic numbers ("Newstyle negotiation", "Transmission phase").
const (
	// MagicInit opens the server's greeting: "NBDMAGIC".
	MagicInit uint64 = 0x4e42444d41474943
	// MagicOption follows it and opens each option of the client: "IHAVEOPT".
	MagicOption uint64 = 0x49484156454f5054
	// MagicOptionReply opens each reply to an option.
	MagicOptionReply uint64 = 0x0003e889045565a9
	// MagicRequest opens each request of the transmission phase.
	MagicRequest uint32 = 0x25609513
	// MagicExtendedRequest opens each request once extended headers are
	// negotiated.
	MagicExtendedRequest uint32 = 0x21e41c71
	// MagicSimpleReply opens a simple reply.
	MagicSimpleReply uint32 = 0x67446698
	// MagicStructuredReply opens each chunk of a structured reply.
	MagicStructuredReply uint32 = 0x668e33ef
	// MagicExtendedReply opens each chunk of an extended reply.
	MagicExtendedReply uint32 = 0x6e8a278c
)

// Limits that the specification sets.
const (
	// MaxString is the longest string, in bytes, that either side may send: an
	// export name, a query, an error message ("Values").
	MaxString = 4096
	// MaxBlock is the payload in bytes that every peer must be able to handle
	// ("Block size constraints"), and the maximum that this server advertises.
	MaxBlock = 32 << 20
)

// HandshakeFlags are sent by the server in its greeting ("Handshake flags").
type HandshakeFlags uint16

// Handshake flags of the server.
const (
	FlagFixedNewstyle HandshakeFlags = 1 << 0
	FlagNoZeroes      HandshakeFlags = 1 << 1
)

// ClientFlags answer the greeting ("Client flags").
type ClientFlags uint32

// Flags of the client.
const (
	ClientFixedNewstyle ClientFlags = 1 << 0
	ClientNoZeroes      ClientFlags = 1 << 1
)

// TransmissionFlags tell what an export can do ("Transmission flags").
type TransmissionFlags uint16

// Transmission flags.
const (
	HasFlags        TransmissionFlags = 1 << 0
	ReadOnly        TransmissionFlags = 1 << 1
	SendFlush       TransmissionFlags = 1 << 2
	SendFUA         TransmissionFlags = 1 << 3
	Rotational      TransmissionFlags = 1 << 4
	SendTrim        TransmissionFlags = 1 << 5
	SendWriteZeroes TransmissionFlags = 1 << 6
	SendDF          TransmissionFlags = 1 << 7
	CanMultiConn    TransmissionFlags = 1 << 8

	SendCache          TransmissionFlags = 1 << 10
	SendFastZero       TransmissionFlags = 1 << 11
	BlockStatusPayload TransmissionFlags = 1 << 12
)

// Option is the number of an option that a client sends ("Option types").
type Option uint32

// Options.
const (
	OptExportName      Option = 1
	OptAbort           Option = 2
	OptList            Option = 3
	OptStartTLS        Option = 5
	OptInfo            Option = 6
	OptGo              Option = 7
	OptStructuredReply Option = 8
	OptListMetaContext Option = 9
	OptSetMetaContext  Option = 10
	OptExtendedHeaders Option = 11
)

// String returns the option's name in the specification.
func (o Option) String() string {
	switch o {
	case OptExportName:
		return "NBD_OPT_EXPORT_NAME"
	case OptAbort:
		return "NBD_OPT_ABORT"
	case OptList:
		return "NBD_OPT_LIST"
	case OptStartTLS:
		return "NBD_OPT_STARTTLS"
	case OptInfo:
		return "NBD_OPT_INFO"
	case OptGo:
		return "NBD_OPT_GO"
	case OptStructuredReply:
		return "NBD_OPT_STRUCTURED_REPLY"
	case OptListMetaContext:
		return "NBD_OPT_LIST_META_CONTEXT"
	case OptSetMetaContext:
		return "NBD_OPT_SET_META_CONTEXT"
	case OptExtendedHeaders:
		return "NBD_OPT_EXTENDED_HEADERS"
	}
	return fmt.Sprintf("option %d", uint32(o))
}

// OptionReply is the type of a reply to an option ("Option reply types").
// Those with the highest bit set are errors.
type OptionReply uint32

// Option reply types.
const (
	RepAck         OptionReply = 1
	RepServer      OptionReply = 2
	RepInfo        OptionReply = 3
	RepMetaContext OptionReply = 4

	RepErrUnsup    OptionReply = 1<<31 + 1
	RepErrPolicy   OptionReply = 1<<31 + 2
	RepErrInvalid  OptionReply = 1<<31 + 3
	RepErrTLSReqd  OptionReply = 1<<31 + 5
	RepErrUnknown  OptionReply = 1<<31 + 6
	RepErrShutdown OptionReply = 1<<31 + 7
	RepErrTooBig   OptionReply = 1<<31 + 9

	RepErrBlockSizeReqd OptionReply = 1<<31 + 8
	RepErrExtHeaderReqd OptionReply = 1<<31 + 10
)

// Info is the type of an information item of OptInfo and OptGo
// ("NBD_INFO types").
type Info uint16

// Information types.
const (
	InfoExport      Info = 0
	InfoName        Info = 1
	InfoDescription Info = 2
	InfoBlockSize   Info = 3
)

// Command is the type of a request ("Request types").
type Command uint16

// Request types.
const (
	CmdRead        Command = 0
	CmdWrite       Command = 1
	CmdDisc        Command = 2
	CmdFlush       Command = 3
	CmdTrim        Command = 4
	CmdCache       Command = 5
	CmdWriteZeroes Command = 6
	CmdBlockStatus Command = 7
)

// String returns the command in lower case, as it stands in logs and metrics.
func (c Command) String() string {
	switch c {
	case CmdRead:
		return "read"
	case CmdWrite:
		return "write"
	case CmdDisc:
		return "disc"
	case CmdFlush:
		return "flush"
	case CmdTrim:
		return "trim"
	case CmdCache:
		return "cache"
	case CmdWriteZeroes:
		return "write_zeroes"
	case CmdBlockStatus:
		return "block_status"
	}
	return fmt.Sprintf("command %d", uint16(c))
}

// CommandFlags modify a request ("Command flags").
type CommandFlags uint16

// Command flags.
const (
	FlagFUA    CommandFlags = 1 << 0
	FlagNoHole CommandFlags = 1 << 1
	FlagDF     CommandFlags = 1 << 2
	FlagReqOne CommandFlags = 1 << 3

	FlagFastZero   CommandFlags = 1 << 4
	FlagPayloadLen CommandFlags = 1 << 5
)

// Errno is an error of the transmission phase ("Error values"). Its numbers
// are part of the protocol, whatever the operating system calls them.
type Errno uint32

// Error values; 0 is success.
const (
	EPERM     Errno = 1
	EIO       Errno = 5
	ENOMEM    Errno = 12
	EINVAL    Errno = 22
	ENOSPC    Errno = 28
	EOVERFLOW Errno = 75
	ENOTSUP   Errno = 95
	ESHUTDOWN Errno = 108
)

// String returns the error's name in the specification.
func (e Errno) String() string {
	switch e {
	case 0:
		return "ok"
	case EPERM:
		return "EPERM"
	case EIO:
		return "EIO"
	case ENOMEM:
		return "ENOMEM"
	case EINVAL:
		return "EINVAL"
	case ENOSPC:
		return "ENOSPC"
	case EOVERFLOW:
		return "EOVERFLOW"
	case ENOTSUP:
		return "ENOTSUP"
	case ESHUTDOWN:
		return "ESHUTDOWN"
	}
	return fmt.Sprintf("error %d", uint32(e))
}

// BaseAllocation is the one metadata context that this package knows how to
// describe ("base metadata context").
const BaseAllocation = "base:allocation"

// ExtentFlags is the status of an extent in base:allocation.
type ExtentFlags uint32

// Extent flags of base:allocation.
const (
	StateHole ExtentFlags = 1 << 0
	StateZero ExtentFlags = 1 << 1
)

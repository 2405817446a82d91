// Package attest holds the words of remote attestation, RFC 9334's, that the rest of Consilium speaks: evidence, claims,
// attester, verifier, appraisal policy. It holds no rule and knows no vendor.
//
// Verifying has two steps that are never merged. A [Verifier] answers *genuine?*: it turns evidence, the [Binding] that the
// evidence must carry, an instant and collateral into [Claims], or into one [*Error] with a class. A [Policy] answers
// *expected?*: it compares claims with what the members signed and admits or refuses. Neither can skip the other's work.
package attest

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"strings"
	"time"
)

// Type is a kind of evidence, as numbered in the hello of the attested channel. The zero Type is none.
type Type uint8

// The types of evidence that the channel's version 1 numbers.
const (
	SEVSNP            Type = 1
	TDX               Type = 2
	SGX               Type = 3
	CCA               Type = 4
	Nitro             Type = 5
	AzureSNP          Type = 6
	AzureTDX          Type = 7
	GCPSNP            Type = 8
	GCPTDX            Type = 9
	ConfidentialSpace Type = 10
	NvidiaGPU         Type = 32
	MAA               Type = 64
	ITA               Type = 65
	NRAS              Type = 66
	Signature         Type = 128
)

var typeNames = map[Type]string{
	SEVSNP: "sev-snp", TDX: "tdx", SGX: "sgx", CCA: "cca", Nitro: "nitro", AzureSNP: "azure-snp", AzureTDX: "azure-tdx",
	GCPSNP: "gcp-snp", GCPTDX: "gcp-tdx", ConfidentialSpace: "confidential-space", NvidiaGPU: "nvidia-gpu", MAA: "maa",
	ITA: "ita", NRAS: "nras", Signature: "signature",
}

// String returns the type's name as manifests spell it, or type(N) for a number without a name.
func (t Type) String() string {
	if s, ok := typeNames[t]; ok {
		return s
	}
	return fmt.Sprintf("type(%d)", uint8(t))
}

// ParseType returns the type with the given name, and false if there is none.
func ParseType(name string) (Type, bool) {
	for t, s := range typeNames {
		if s == name {
			return t, true
		}
	}
	return 0, false
}

// Office is what a peer is to the federation. The zero Office is nobody.
type Office uint8

// The offices, as numbered in the hello.
const (
	Coordinator Office = 1
	Participant Office = 2
	Person      Office = 3
)

// String returns the office as it is spelt in a leaf's SPIFFE id.
func (o Office) String() string {
	switch o {
	case Coordinator:
		return "coordinator"
	case Participant:
		return "participant"
	case Person:
		return "person"
	}
	return fmt.Sprintf("office(%d)", uint8(o))
}

// Class is why a peer, its evidence or a message was refused. Classes are stable: logs, alerts and tests name them.
type Class uint8

// The classes, numbered as the channel's ALERT frame sends them.
const (
	ClassTLS      Class = 1  // the TLS handshake or its parameters
	ClassFrame    Class = 2  // a frame's type, length or order
	ClassParse    Class = 3  // bytes that do not parse strictly
	ClassChain    Class = 4  // a certificate chain that does not lead to the root, or to this report
	ClassTime     Class = 5  // not yet or no longer valid
	ClassRevoked  Class = 6  // revoked, or revocation unknown where it must be known
	ClassSig      Class = 7  // a signature
	ClassBind     Class = 8  // evidence of another session, or another side
	ClassDebug    Class = 9  // debug or another forbidden guest policy
	ClassMeas     Class = 10 // a measurement
	ClassTCB      Class = 11 // a security version below the floor
	ClassPlat     Class = 12 // the platform's configuration or product line
	ClassInst     Class = 13 // an instance that is not on the list
	ClassDev      Class = 14 // an attached device
	ClassToken    Class = 15 // an external token
	ClassManifest Class = 16 // another key, name, federation, epoch or manifest
	ClassState    Class = 17 // the run's state
	ClassRate     Class = 18 // too many, too long, too slow
)

var classNames = [...]string{
	1: "TLS", "FRAME", "PARSE", "CHAIN", "TIME", "REVOKED", "SIG", "BIND", "DEBUG", "MEAS", "TCB", "PLAT", "INST", "DEV",
	"TOKEN", "MANIFEST", "STATE", "RATE",
}

// String returns the class's name, for example "BIND".
func (c Class) String() string {
	if c >= 1 && int(c) < len(classNames) {
		return classNames[c]
	}
	return fmt.Sprintf("CLASS(%d)", uint8(c))
}

// Error is a refusal with its class. Err says what was wrong with which thing; it is for this side's log and never sent
// to the peer.
type Error struct {
	Class Class
	Err   error
}

// Refuse returns an *Error of the class, its text formatted as by fmt.Errorf.
func Refuse(c Class, format string, args ...any) *Error {
	return &Error{Class: c, Err: fmt.Errorf(format, args...)}
}

func (e *Error) Error() string { return e.Class.String() + ": " + e.Err.Error() }

// Unwrap returns what was wrong.
func (e *Error) Unwrap() error { return e.Err }

// Binding is what evidence must carry to belong to one session and one side of it.
type Binding struct {
	ReportData [64]byte // B of the attested channel: where a platform has 64 bytes, they are these
	Nonce      [32]byte // the verifier's nonce, for platforms with a nonce of their own (Nitro)
	SPKI       []byte   // the attester's leaf key, PKIX DER, for platforms that carry a public key (Nitro)
	Seed       []byte   // what Attester.Devices was given, from which devices derive their nonces; nil where there are none
}

// Kind is a kind of collateral, as numbered in an EVIDENCE frame.
type Kind uint8

// The kinds of collateral.
const (
	KindCertificate Kind = 1  // DER
	KindCRL         Kind = 2  // DER
	KindCertTable   Kind = 3  // SNP's GUID table of certificates
	KindTCBInfo     Kind = 4  // Intel, as served
	KindQEIdentity  Kind = 5  // Intel, as served
	KindIssuerChain Kind = 6  // PEM
	KindEventLog    Kind = 7  // measured boot
	KindHCLReport   Kind = 8  // Azure
	KindRIM         Kind = 9  // NVIDIA
	KindInitdata    Kind = 10 // Confidential Containers
	KindToken       Kind = 11 // JWT
)

// Item is one piece of collateral. Collateral only saves a fetch: it is believed for its own signatures, never for its
// sender.
type Item struct {
	Kind  Kind
	Bytes []byte
}

// Collateral is what is needed beside evidence to judge it: certificates, revocation lists, TCB data.
type Collateral []Item

// Evidence is one attester's statement, in its platform's own format, with the collateral sent along.
type Evidence struct {
	Type       Type
	Body       []byte
	Collateral Collateral
}

// Bundle is the evidence of attached devices (types 32 to 63), collected before the CPU's so that the CPU's covers it.
type Bundle []Evidence

// Attester makes evidence about the machine it runs on. It is safe for concurrent use; it may be slow (10 ms to 2 s), and
// callers ask for one piece at a time.
type Attester interface {
	// Types returns the evidence types that Devices and Attest together give, ascending.
	Types() []Type
	// Devices returns the evidence of attached devices bound to seed, or nothing where there are none.
	Devices(ctx context.Context, seed []byte) (Bundle, error)
	// Attest returns evidence that carries b.
	Attest(ctx context.Context, b Binding) (Evidence, error)
	// Covered returns collateral that goes with each piece of evidence and that the binding has to cover, so that it is known
	// before: the event log of a measured boot. It is nothing where there is none, and does not change.
	Covered() Collateral
	// Simulated returns the name of the private root that this attester's evidence chains to, and "" on hardware.
	Simulated() string
}

// Verifier judges whether evidence of one type is genuine: its signature chain leads to a root that the verifier was made
// with, all is valid at now, and it carries b. It judges nothing else. Its errors are *Error. A Verifier is immutable and
// safe for concurrent use, and never panics on the bytes it is given.
type Verifier interface {
	Type() Type
	// Verify judges e at the instant now; c is collateral of our own, used beside what came with e. The order of
	// checks is: parse, chain and time, signature, binding.
	Verify(ctx context.Context, e Evidence, b Binding, now time.Time, c Collateral) (Claims, error)
}

// Claims is what genuine evidence says about a peer. Exactly one of the platforms' parts is set, that of Type.
type Claims struct {
	Type      Type
	Simulated string   // name of the private root the chain ends in; "" for a manufacturer's root
	Signed    [32]byte // SHA-256 of the signed body (not of the signature: ECDSA is malleable)

	RevocationChecked bool      // false where no revocation list was at hand
	CollateralFrom    time.Time // issue date of the oldest collateral used; zero if none was used
	Numbers           []Number  // of the collateral used, ascending by name; of several issues the highest

	// Judged is all collateral that the evidence was judged by, of whoever judges beside what came with it; nil where that is
	// what came.
	Judged Collateral

	SNP   *SNP
	Nitro *NitroDocument
	TDX   *TrustDomain
	SGX   *Enclave
}

// TCB is a SEV-SNP TCB version, component by component, since no order over the whole exists.
type TCB struct {
	FMC        uint8 // Turin only, else 0
	Bootloader uint8
	TEE        uint8
	SNP        uint8
	Microcode  uint8
}

// A TCBPart is a component of a [TCB], by the name that manifests have for it.
type TCBPart struct {
	Name string
	SVN  uint8
}

// Parts returns all components, in the order in which their firmware is loaded.
func (t TCB) Parts() [5]TCBPart {
	return [5]TCBPart{{"fmc", t.FMC}, {"bootloader", t.Bootloader}, {"tee", t.TEE}, {"snp", t.SNP}, {"microcode", t.Microcode}}
}

// Differences names the components in which t is not other, with word before the other's: "snp is 8, want 10; microcode is 1, want 2".
func (t TCB) Differences(other TCB, word string) string {
	var all []string
	for i, p := range t.Parts() {
		if o := other.Parts()[i]; p != o {
			all = append(all, fmt.Sprintf("%s is %d, %s %d", p.Name, p.SVN, word, o.SVN))
		}
	}
	return strings.Join(all, "; ")
}

// SNP is what a SEV-SNP attestation report says (AMD 56860, table "ATTESTATION_REPORT").
type SNP struct {
	Version     uint32
	ProductLine string // "Milan", "Genoa", "Turin"
	VMPL        uint32
	GuestSVN    uint32

	ABIMajor, ABIMinor uint8 // guest policy: least firmware ABI
	SMTAllowed         bool  // guest policy, SMT
	MigrateMA          bool  // guest policy, migration agent may be associated
	Debug              bool  // guest policy, debugging is allowed
	SingleSocket       bool  // guest policy, only one socket
	CXLAllowed         bool
	MemAES256XTS       bool
	RAPLDisabled       bool // guest policy
	CiphertextHiding   bool // guest policy
	PageSwapDisabled   bool // guest policy

	Platform SNPPlatform

	FamilyID, ImageID [16]byte
	ReportData        [64]byte
	Measurement       [48]byte
	HostData          [32]byte
	IDKeyDigest       [48]byte
	AuthorKeyDigest   [48]byte
	AuthorKeyEnabled  bool
	ReportID          [32]byte

	Current, Reported, Committed, Launch TCB

	// Mitigations that the firmware verified, one bit each, when the guest was launched and now; zero before version 5.
	LaunchMitigations, CurrentMitigations uint64

	ChipID     [64]byte
	ChipMasked bool   // MASK_CHIP_KEY, or a chip id of zeros
	SigningKey string // "vcek" or "vlek"
	Provider   string // whose VLEK signed, as its certificate spells it; "" for a VCEK
}

// SNPPlatform is a report's PLATFORM_INFO.
type SNPPlatform struct {
	SMT                bool
	TSME               bool
	ECC                bool
	RAPLDisabled       bool
	CiphertextHiding   bool
	AliasCheckComplete bool
	TIO                bool
	Unknown            uint64 // bits without a name here; must be 0 for a policy to pass
}

// NitroDocument is what an AWS Nitro Enclaves attestation document says.
type NitroDocument struct {
	ModuleID  string
	Timestamp time.Time
	PCRs      map[int][]byte // 48 bytes each
	Debug     bool           // PCR0, PCR1 and PCR2 are all zero

	Nonce, UserData, PublicKey []byte // as whoever asked for the document wished; nil where it has none
}

// DCAP is what Intel's certificate and collateral say about the platform that made a quote.
type DCAP struct {
	FMSPC    [6]byte  // family, model, stepping, platform type and custom SKU
	PPID     [16]byte // of the processor, or of the platform's first
	Instance [16]byte // platform instance id; zero where the certificate has none
	CA       string   // who certified the platform's key: "platform" (registered with Intel) or "processor" (made with one)
	QESVN    uint16   // ISVSVN of the quoting enclave
	TCB      IntelTCB
}

// IntelTCB is a platform's standing by Intel's TCB info and QE identity. All of it is zero where either was not at hand.
type IntelTCB struct {
	Checked    bool
	Status     string    // of platform, TDX module and quoting enclave together, as Intel spells it: "UpToDate", "OutOfDate", ...
	Platform   string    // of the platform's level alone
	Module     string    // of the TDX module alone; "" for SGX, and for modules before 1.5, which are judged with the platform
	QE         string    // of the quoting enclave alone
	Advisories []string  // of the levels that were matched, sorted
	Evaluation uint32    // tcbEvaluationDataNumber of both
	Date       time.Time // tcbDate of the platform's level
}

// TrustDomain is what a TD quote says (Intel TDX DCAP Quoting Library API, "TD Quote Body"). Byte strings are as they lie in the quote.
type TrustDomain struct {
	Version        uint16 // of the quote: 4 or 5
	TEETCBSVN      [16]byte
	MRSEAM         [48]byte // measurement of the TDX module
	MRSignerSEAM   [48]byte // its signer; zero for Intel's
	SEAMAttributes [8]byte
	TDAttributes   [8]byte
	XFAM           [8]byte
	MRTD           [48]byte // measurement of the domain at its start
	MRConfigID     [48]byte
	MROwner        [48]byte
	MROwnerConfig  [48]byte
	RTMR           [4][48]byte // what was measured since
	ReportData     [64]byte
	TD15           bool     // the quote has the fields of TDX 1.5; else the two below are zero
	TEETCBSVN2     [16]byte // of the module that runs now, where it was replaced under the domain
	MRServiceTD    [48]byte
	EventLog       bool // an event log came along, and replays to all four RTMRs
	Debug          bool // of TDAttributes

	Platform DCAP
}

// Enclave is what a quote of an SGX enclave says (Intel SGX, REPORT body). Byte strings are as they lie in the quote.
type Enclave struct {
	CPUSVN       [16]byte
	MiscSelect   [4]byte
	Attributes   [16]byte // 8 bytes of flags, 8 of XFRM
	MREnclave    [32]byte
	MRSigner     [32]byte
	ISVProdID    uint16
	ISVSVN       uint16
	ISVExtProdID [16]byte
	ISVFamilyID  [16]byte
	ConfigID     [64]byte
	ConfigSVN    uint16
	ReportData   [64]byte
	Debug        bool // of Attributes

	Platform DCAP
}

// Peer names whose claims are appraised. Both come from the manifest's entry for the peer's key, never from its words.
type Peer struct {
	Office Office
	Name   string
}

// peerKey is the context key of ForPeer.
type peerKey struct{}

// ForPeer returns a context that says whose evidence is judged under it, so that what judging costs others counts for that peer.
func ForPeer(ctx context.Context, p Peer) context.Context {
	return context.WithValue(ctx, peerKey{}, p)
}

// PeerIn returns the peer that [ForPeer] has named, the zero Peer where it has named none.
func PeerIn(ctx context.Context) Peer {
	p, _ := ctx.Value(peerKey{}).(Peer)
	return p
}

// Appraisal is the outcome of a policy that admitted a peer.
type Appraisal struct {
	Sets      []string      // reference sets that matched, one per type of evidence
	Any       []string      // fields that were not judged, as "set.field: reason"
	TTL       time.Duration // how long the appraisal holds
	Simulated string        // as in Claims
}

// Policy is what the members agreed on, as far as the channel needs it. It is immutable and pure.
type Policy interface {
	// Key returns the key that endorses the leaves of the one who holds the office under that name.
	Key(o Office, name string) (ed25519.PublicKey, bool)
	// Types returns the sets of evidence types, each ascending, of which a peer in this office must show one.
	Types(o Office) [][]Type
	// Appraise judges the claims, one for each type of evidence shown, of a peer; a refusal is an *Error.
	Appraise(p Peer, claims []Claims, now time.Time) (Appraisal, error)
}

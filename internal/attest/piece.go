package attest

import (
	"crypto/sha256"
	"encoding/hex"
	"math/big"
	"time"
)

// Piece is a piece of collateral that was read apart from evidence, its signature checked up to a root that is trusted. Whether it
// holds at some instant was not judged.
type Piece struct {
	// Name says what it is of, the same for every issue of it: a file's name, such as sev-snp-Genoa.crl or
	// tdx-00806f050000-tcb_info.json. What leads to a simulated root has [SimulatedPrefix] before that.
	Name string
	Item Item
	// Number is the one that its issuer counts issues by: of a revocation list its own, of TCB info and QE identity
	// tcbEvaluationDataNumber. nil for certificates, which have none.
	Number *big.Int
	// From and Until are the instants between which it says that it holds.
	From, Until time.Time
	// Issuers are the certificates (DER) that lead from it to the root, without the root; none where a verifier has them.
	Issuers [][]byte
}

// SimulatedPrefix is what the names of pieces that lead to the simulated root of that name begin with; "" for "", a manufacturer's.
func SimulatedPrefix(root string) string {
	if root == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(root))
	return "simulated-" + hex.EncodeToString(sum[:4]) + "-"
}

// Number is a signed number of a piece of collateral that evidence was judged by, in decimal.
type Number struct {
	Name   string // as of [Piece]
	Number string
}

// Service is who hands out collateral.
type Service uint8

// The services.
const (
	KDS  Service = 1 // AMD's Key Distribution Service
	PCS  Service = 2 // Intel's Provisioning Certification Service, or a PCCS that caches it
	Root Service = 3 // where Intel's root puts its revocation list: a place apart from PCS, and a path of a PCCS
)

// Reader is a verifier that can also read collateral apart from evidence, and say which pieces some evidence is judged by.
type Reader interface {
	Verifier
	// VerifyUnbound judges as Verify does, but for the binding.
	VerifyUnbound(e Evidence, now time.Time, c Collateral) (Claims, error)
	// Needs returns the names of all pieces by which e could be judged, judging nothing: who made e may say anything. The
	// error is an *Error.
	Needs(e Evidence) ([]string, error)
	// Examine returns the pieces among e's collateral whose signature leads to a root that is trusted, with the certificates
	// that are there, or in e's body if it has one, as issuers; what is none, or of another platform, is left out.
	Examine(e Evidence) []Piece
	// Source returns where a manufacturer's piece is handed out: the service and the path with its query. It reports false
	// for names that are not this platform's, or of pieces that nobody hands out.
	Source(name string) (s Service, path string, known bool)
}

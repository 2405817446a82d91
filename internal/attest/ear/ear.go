// Package ear writes down the outcome of an appraisal for other tools: as an EAT Attestation Result (draft-ietf-rats-ear), a
// signed JSON Web Token whose heart is the trustworthiness vector of AR4SI (draft-ietf-rats-ar4si). Nothing here judges; what
// was judged is put into eight numbers that relying parties of any verifier understand.
//
//	token, err := ear.Sign(ear.Result{Type: claims.Type, Claims: &claims, Appraisal: &appraisal, ...}, key)
//
// A vector says less than an appraisal: which class of refusal it was, and what a set left unjudged, have no place in it. So
// nothing in Consilium reads one, and a federation admits nobody by it.
package ear

import (
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"consilium.dev/internal/attest"
)

// Profile is the EAT profile of the results (draft-ietf-rats-ear, section "EAR Profile").
const Profile = "tag:github.com,2023:veraison/ear"

// Result is an appraisal's outcome. Exactly one of Appraisal and Refusal is set.
type Result struct {
	Type     attest.Type
	Evidence []byte         // as it was judged
	Claims   *attest.Claims // nil where the evidence was not genuine

	Appraisal *attest.Appraisal // of a policy that admitted the claims
	Refusal   *attest.Error     // of the verifier, or of the policy

	Policy   [32]byte  // digest of the manifest that was the policy
	Issued   time.Time // when the result is made
	Build    string    // of the verifier
	Verifier string    // who runs it
}

// Tiers of trust (draft-ietf-rats-ar4si, section "Trustworthiness Tiers").
const (
	tierNone            = 0
	tierAffirming       = 2
	tierWarning         = 32
	tierContraindicated = 96
)

// Values of trustworthiness claims (draft-ietf-rats-ar4si, section "Specific Claims"). Those up to 1 make no claim.
const (
	unexpected   = 1  // evidence that does not parse
	cryptoFailed = 99 // of any claim

	knownInstance   = 2
	unknownInstance = 97

	approvedConfig = 2
	badConfig      = 96

	approvedBoot      = 3
	unrecognizedImage = 33

	genuineHardware = 2
	badHardware     = 96
	unknownHardware = 97

	encryptedMemory = 2
	isolatedMemory  = 32
	visibleMemory   = 96
)

// vector is the trustworthiness vector. Claims of 0 are not made: no evidence here is about files, storage or sources of data.
type vector struct {
	InstanceIdentity int8 `json:"instance-identity,omitempty"`
	Configuration    int8 `json:"configuration,omitempty"`
	Executables      int8 `json:"executables,omitempty"`
	Hardware         int8 `json:"hardware,omitempty"`
	RuntimeOpaque    int8 `json:"runtime-opaque,omitempty"`
}

// result and submod are the claims of a token.
type result struct {
	Profile  string            `json:"eat_profile"`
	Issued   int64             `json:"iat"`
	Verifier verifierID        `json:"ear.verifier-id"`
	Evidence string            `json:"ear.raw-evidence"`
	Submods  map[string]submod `json:"submods"`
}

type verifierID struct {
	Build     string `json:"build"`
	Developer string `json:"developer"`
}

type submod struct {
	Status int8   `json:"ear.status"`
	Vector vector `json:"ear.trustworthiness-vector"`
	Policy string `json:"ear.appraisal-policy-id"`
}

// Sign returns the result as a JWT in its compact form, signed by an Ed25519 key (EdDSA, RFC 8037).
func Sign(r Result, key crypto.Signer) ([]byte, error) {
	if (r.Appraisal == nil) == (r.Refusal == nil) || r.Appraisal != nil && r.Claims == nil {
		return nil, errors.New("a result is of an appraisal of claims, or of a refusal")
	}
	if _, ok := key.Public().(ed25519.PublicKey); !ok {
		return nil, fmt.Errorf("a key of the kind %T, want Ed25519", key.Public())
	}
	v := r.vector()
	payload, err := json.Marshal(result{
		Profile: Profile, Issued: r.Issued.Unix(), Verifier: verifierID{r.Build, r.Verifier},
		Evidence: base64.RawURLEncoding.EncodeToString(r.Evidence),
		Submods:  map[string]submod{r.Type.String(): {Status: r.status(v), Vector: v, Policy: r.policy()}},
	})
	if err != nil {
		return nil, fmt.Errorf("writing the result: %w", err)
	}
	encode := base64.RawURLEncoding.AppendEncode
	token := append(encode(nil, []byte(`{"alg":"EdDSA","typ":"JWT"}`)), '.')
	token = encode(token, payload)
	signature, err := key.Sign(nil, token, crypto.Hash(0))
	if err != nil {
		return nil, fmt.Errorf("signing the result: %w", err)
	}
	return encode(append(token, '.'), signature), nil
}

// policy names the manifest, and the sets of it that the claims matched.
func (r *Result) policy() string {
	id := fmt.Sprintf("consilium:manifest:sha256:%x", r.Policy)
	if r.Appraisal != nil {
		id += "#" + strings.Join(r.Appraisal.Sets, ",")
	}
	return id
}

// status is never better than the vector, and never good for who was refused. Evidence that does not parse is no attester's.
func (r *Result) status(v vector) int8 {
	worst := int8(tierNone)
	for _, claim := range []int8{v.InstanceIdentity, v.Configuration, v.Executables, v.Hardware, v.RuntimeOpaque} {
		worst = max(worst, tierOf(claim))
	}
	if r.Refusal != nil && !(r.Claims == nil && r.Refusal.Class == attest.ClassParse) {
		worst = tierContraindicated
	}
	return worst
}

func tierOf(claim int8) int8 {
	switch {
	case claim <= unexpected:
		return tierNone
	case claim < tierWarning:
		return tierAffirming
	case claim < tierContraindicated:
		return tierWarning
	}
	return tierContraindicated
}

// vector puts the outcome into AR4SI's claims.
func (r *Result) vector() vector {
	if r.Claims == nil {
		return ungenuine(r.Refusal.Class)
	}
	v := vector{Hardware: genuineHardware, RuntimeOpaque: memory(r.Claims)}
	if r.Refusal != nil {
		v.refused(r.Refusal.Class, v.RuntimeOpaque == visibleMemory)
		return v
	}
	v.Executables, v.Configuration = approvedBoot, approvedConfig
	if r.instanceJudged() {
		v.InstanceIdentity = knownInstance
	}
	return v
}

// ungenuine is of evidence that a verifier refused.
func ungenuine(class attest.Class) vector {
	claim := int8(cryptoFailed)
	switch class {
	case attest.ClassParse:
		claim = unexpected
	case attest.ClassPlat:
		return vector{Hardware: unknownHardware}
	case attest.ClassRevoked, attest.ClassTCB:
		return vector{Hardware: badHardware}
	}
	return vector{claim, claim, claim, claim, claim}
}

// refused adds what a policy refused of genuine evidence. A document that is too old, alone, is about none of the claims.
func (v *vector) refused(class attest.Class, visible bool) {
	switch class {
	case attest.ClassMeas:
		v.Executables = unrecognizedImage
	case attest.ClassInst:
		v.InstanceIdentity = unknownInstance
	case attest.ClassTCB, attest.ClassRevoked:
		v.Hardware = badHardware
	case attest.ClassChain:
		v.Hardware = unknownHardware // another maker's, another root's or another kind of key
	case attest.ClassDebug, attest.ClassPlat:
		if !visible {
			v.Configuration = badConfig
		}
	}
}

// memory says from whom the platform keeps the enclave's memory. Nitro isolates it; that it is encrypted, no document says.
func memory(c *attest.Claims) int8 {
	switch {
	case c.SNP != nil && c.SNP.Debug, c.TDX != nil && c.TDX.Debug, c.SGX != nil && c.SGX.Debug, c.Nitro != nil && c.Nitro.Debug:
		return visibleMemory
	case c.Nitro != nil:
		return isolatedMemory
	}
	return encryptedMemory
}

// instances are the fields of reference sets that name machines.
var instances = []string{".chip_ids", ".modules", ".piids", ".ppids"}

// instanceJudged reports whether the set that matched names machines. A set says in its reasons what it leaves open.
func (r *Result) instanceJudged() bool {
	return !slices.ContainsFunc(r.Appraisal.Any, func(reason string) bool {
		field, _, _ := strings.Cut(reason, ":")
		return slices.ContainsFunc(instances, func(of string) bool { return strings.HasSuffix(field, of) })
	})
}

package witness

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The type of a cosigning key in C2SP signed-note: Ed25519, cosignature/v1 of C2SP tlog-cosignature.
const cosigning = 4

// Key is what a witness cosigns with. It is made in the witness's enclave at the start of its process and never leaves it; the
// member's identity key endorses it ([Endorsement]). It is safe for concurrent use.
type Key struct {
	name    string
	private ed25519.PrivateKey
}

// KeyName returns the name of a member's cosigning key.
func KeyName(federation, member string) string {
	return "consilium.dev/" + federation + "/witness/" + member
}

// NewKey returns the key of that name with a seed of 32 random bytes.
func NewKey(name string, seed [ed25519.SeedSize]byte) *Key {
	return &Key{name, ed25519.NewKeyFromSeed(seed[:])}
}

// Verifier returns the verifier key as C2SP signed-note spells it: NAME+HASH+KEY.
func (k *Key) Verifier() string {
	public := k.private.Public().(ed25519.PublicKey)
	return fmt.Sprintf("%s+%08x+%s", k.name, keyHash(k.name, public), base64.StdEncoding.EncodeToString(append([]byte{cosigning}, public...)))
}

// Cosign returns the signature line, with its newline, that the key adds to the checkpoint with that text (all of it up to the
// empty line, the last newline included) at the instant at. What it signs is
//
//	cosignature/v1 \n time SECONDS \n text
//
// and a line is an em dash, the key's name, and in base64 the key's hash (4 bytes), the seconds since 1970 (8, big-endian) and
// the signature.
func (k *Key) Cosign(text []byte, at time.Time) string {
	seconds := at.Unix()
	signature := binary.BigEndian.AppendUint32(nil, keyHash(k.name, k.private.Public().(ed25519.PublicKey)))
	signature = binary.BigEndian.AppendUint64(signature, uint64(seconds))
	signature = append(signature, ed25519.Sign(k.private, cosigned(text, seconds))...)
	return "\u2014 " + k.name + " " + base64.StdEncoding.EncodeToString(signature) + "\n"
}

func cosigned(text []byte, seconds int64) []byte {
	return append([]byte("cosignature/v1\ntime "+strconv.FormatInt(seconds, 10)+"\n"), text...)
}

func keyHash(name string, public ed25519.PublicKey) uint32 {
	h := sha256.Sum256(append([]byte(name+"\n\x04"), public...))
	return binary.BigEndian.Uint32(h[:4])
}

// maxLine is the most bytes of a signature line: a name of at most 160 bytes and 76 bytes in base64.
const maxLine = 300

// checkLine returns when the key with that verifier key has cosigned the checkpoint with that text. There is one spelling of a
// line.
func checkLine(line string, text []byte, verifier string) (time.Time, error) {
	name, public, err := parseVerifier(verifier)
	if err != nil {
		return time.Time{}, err
	}
	if len(line) > maxLine {
		return time.Time{}, fmt.Errorf("not a cosignature by %s", name)
	}
	coded, ok := strings.CutPrefix(line, "\u2014 "+name+" ")
	coded, newline := strings.CutSuffix(coded, "\n")
	raw, err := base64.StdEncoding.Strict().DecodeString(coded)
	if !ok || !newline || err != nil || strings.ContainsAny(coded, "\r\n") || len(raw) != 4+8+ed25519.SignatureSize ||
		binary.BigEndian.Uint32(raw) != keyHash(name, public) {
		return time.Time{}, fmt.Errorf("not a cosignature by %s", name)
	}
	seconds := binary.BigEndian.Uint64(raw[4:])
	if seconds > 1<<40 || !ed25519.Verify(public, cosigned(text, int64(seconds)), raw[12:]) {
		return time.Time{}, fmt.Errorf("%s has not cosigned this checkpoint", name)
	}
	return time.Unix(int64(seconds), 0).UTC(), nil
}

// parseVerifier reads a verifier key. There is one spelling of it.
func parseVerifier(verifier string) (string, ed25519.PublicKey, error) {
	if len(verifier) > maxLine {
		return "", nil, errors.New("not the verifier key of a witness")
	}
	name, rest, _ := strings.Cut(verifier, "+")
	_, coded, _ := strings.Cut(rest, "+")
	raw, err := base64.StdEncoding.Strict().DecodeString(coded)
	if err != nil || len(raw) != 1+ed25519.PublicKeySize || raw[0] != cosigning {
		return "", nil, errors.New("not the verifier key of a witness")
	}
	public := ed25519.PublicKey(raw[1:])
	if verifier != fmt.Sprintf("%s+%08x+%s", name, keyHash(name, public), coded) {
		return "", nil, errors.New("not the verifier key of a witness")
	}
	return name, public, nil
}

// endorsedFor is the most that a cosigning key is endorsed for, as a leaf certificate is.
const endorsedFor = 24 * time.Hour

// Endorsement says that a member's witness cosigns with a key. The member's identity key signs its Text, which cannot be
// mistaken for anything else that such a key signs: a certificate does not begin like this.
type Endorsement struct {
	Federation, Member string
	Key                string // verifier key
	From               time.Time
}

// Text returns what is signed, lines of
//
//	consilium.witness.key/1, federation, member, verifier key, and the first and the last instant as 2026-03-01T12:00:00Z,
//
// each with its newline. The last instant is 24 hours after the first.
func (e Endorsement) Text() []byte {
	from := e.From.UTC().Truncate(time.Second)
	return []byte("consilium.witness.key/1\n" + e.Federation + "\n" + e.Member + "\n" + e.Key + "\n" +
		from.Format(time.RFC3339) + "\n" + from.Add(endorsedFor).Format(time.RFC3339) + "\n")
}

// ValidAt returns an error unless the key may be used at that instant.
func (e Endorsement) ValidAt(at time.Time) error {
	if at.Before(e.From) || at.After(e.From.Add(endorsedFor)) {
		return fmt.Errorf("%s: the witness's key is endorsed from %s on for %s, not at %s", e.Member,
			e.From.Format(time.RFC3339), endorsedFor, at.UTC().Format(time.RFC3339))
	}
	return nil
}

// maxEndorsement is the most bytes of an endorsement's text.
const maxEndorsement = 1024

// parseEndorsement reads a text that Endorsement.Text wrote.
func parseEndorsement(text string) (Endorsement, error) {
	if len(text) > maxEndorsement { // first: what a stranger's text splits into takes many times its length
		return Endorsement{}, errors.New("not an endorsement of a witness's key")
	}
	lines := strings.Split(text, "\n")
	if len(lines) != 7 {
		return Endorsement{}, errors.New("not an endorsement of a witness's key")
	}
	from, err := time.Parse(time.RFC3339, lines[4])
	e := Endorsement{lines[1], lines[2], lines[3], from.UTC()}
	if err != nil || string(e.Text()) != text {
		return Endorsement{}, errors.New("not an endorsement of a witness's key")
	}
	return e, nil
}

// Cosignature is a member's cosignature of a checkpoint with the endorsement that says whose it is. Its JSON names are stable.
type Cosignature struct {
	Member      string `json:"member"`
	Endorsement string `json:"endorsement"` // Endorsement.Text
	Signature   []byte `json:"signature"`   // by the identity key, over Endorsement
	Line        string `json:"line"`        // C2SP tlog-cosignature
}

// Check returns when the member has cosigned the checkpoint with that text, if identity, the identity key that the manifest gives
// the member, endorses the key for that instant.
func (c Cosignature) Check(federation string, identity ed25519.PublicKey, text []byte) (time.Time, error) {
	e, err := c.Endorsed(federation, identity)
	if err != nil {
		return time.Time{}, err
	}
	at, err := checkLine(c.Line, text, e.Key)
	if err == nil {
		err = e.ValidAt(at)
	}
	if err != nil {
		return time.Time{}, err
	}
	return at, nil
}

// Endorsed returns what identity, the identity key that the manifest gives the member, endorses.
func (c Cosignature) Endorsed(federation string, identity ed25519.PublicKey) (Endorsement, error) {
	e, err := parseEndorsement(c.Endorsement)
	switch {
	case err != nil:
		return e, err
	case e.Federation != federation || e.Member != c.Member:
		return e, errors.New("the witness's key is endorsed for another member or federation")
	case len(identity) != ed25519.PublicKeySize || !ed25519.Verify(identity, []byte(c.Endorsement), c.Signature):
		return e, fmt.Errorf("the identity key of %s has not endorsed the witness's key", c.Member)
	}
	name, _, err := parseVerifier(e.Key)
	if err == nil && name != KeyName(federation, c.Member) {
		err = errors.New("the witness's key has another name than its member's")
	}
	return e, err
}

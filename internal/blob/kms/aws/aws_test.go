package aws_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/platform"
	"consilium.dev/internal/attest/simulated"
	"consilium.dev/internal/blob/kms/aws"
	"consilium.dev/internal/blob/kms/kmstest"
)

const (
	arn    = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	id     = "AKIDEXAMPLE"
	secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
)

// kms is a server of the tests that speaks the API of AWS KMS and of an instance's metadata.
type kms struct {
	t        *testing.T
	key      cipher.AEAD
	token    string                   // of the session
	verifier attest.Verifier          // of documents; nil: none is demanded
	policy   func(attest.Claims) bool // what the key's policy says of the enclave
	envelope func([]byte) []byte      // changes what is made for a recipient
	open     bool                     // gives the plaintext beside it
}

func newKMS(t *testing.T) *kms {
	t.Helper()
	return &kms{t: t, key: kmstest.AEAD(t)}
}

type question struct {
	KeyID      string            `json:"KeyId"`
	Plaintext  []byte            `json:"Plaintext"`
	Ciphertext []byte            `json:"CiphertextBlob"`
	Context    map[string]string `json:"EncryptionContext"`
	Recipient  *struct {
		KeyEncryptionAlgorithm string
		AttestationDocument    []byte
	}
}

func (s *kms) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/latest/") {
		s.metadata(w, r)
		return
	}
	fail := func(status int, kind string) {
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]string{"__type": "com.amazonaws.kms#" + kind, "message": "as the service words it"})
	}
	body, err := io.ReadAll(r.Body)
	if err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/x-amz-json-1.1" {
		fail(http.StatusBadRequest, "ValidationException")
		return
	}
	if !s.signed(r, body) {
		fail(http.StatusBadRequest, "InvalidSignatureException")
		return
	}
	var in question
	if err := json.Unmarshal(body, &in); err != nil || in.KeyID != arn {
		fail(http.StatusBadRequest, "NotFoundException")
		return
	}
	ad, _ := json.Marshal(in.Context) // a map's keys are sorted
	switch r.Header.Get("X-Amz-Target") {
	case "TrentService.Encrypt":
		_ = json.NewEncoder(w).Encode(map[string]any{"KeyId": arn, "CiphertextBlob": s.key.Seal(nil, nil, in.Plaintext, ad), "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"})
	case "TrentService.Decrypt":
		plain, err := s.key.Open(nil, nil, in.Ciphertext, ad)
		if err != nil {
			fail(http.StatusBadRequest, "InvalidCiphertextException")
			return
		}
		out := map[string]any{"KeyId": arn, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}
		if s.verifier == nil && in.Recipient == nil {
			out["Plaintext"] = plain
		} else if out["CiphertextForRecipient"] = s.forRecipient(in, plain); out["CiphertextForRecipient"] == nil || out["CiphertextForRecipient"].([]byte) == nil {
			fail(http.StatusBadRequest, "AccessDeniedException")
			return
		}
		if s.open {
			out["Plaintext"] = plain
		}
		_ = json.NewEncoder(w).Encode(out)
	default:
		fail(http.StatusBadRequest, "UnknownOperationException")
	}
}

// signed checks a request's signature: it signs what has come in once more, and compares.
func (s *kms) signed(r *http.Request, body []byte) bool {
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil || time.Since(at).Abs() > 5*time.Minute || r.Header.Get("X-Amz-Security-Token") != s.token {
		return false
	}
	_, list, _ := strings.Cut(r.Header.Get("Authorization"), "SignedHeaders=")
	list, _, _ = strings.Cut(list, ",")
	if !strings.Contains(list, "host") || !strings.Contains(list, "x-amz-target") {
		return false
	}
	again, err := http.NewRequest(r.Method, "http://"+r.Host+r.URL.RequestURI(), nil)
	if err != nil {
		return false
	}
	for name := range strings.SplitSeq(list, ";") {
		if name != "host" && name != "x-amz-date" && name != "x-amz-security-token" {
			again.Header.Set(name, r.Header.Get(name))
		}
	}
	aws.Sign(again, body, id, secret, s.token, "eu-central-1", "kms", at)
	return again.Header.Get("Authorization") == r.Header.Get("Authorization")
}

// forRecipient judges the document as KMS does, by its chain and signature and the key's policy, and encrypts to its key.
func (s *kms) forRecipient(in question, plain []byte) []byte {
	if in.Recipient == nil || in.Recipient.KeyEncryptionAlgorithm != "RSAES_OAEP_SHA_256" || s.verifier == nil {
		return nil
	}
	var sign1 []cbor.RawMessage
	var payload []byte
	var doc struct {
		PublicKey []byte `cbor:"public_key"`
		Nonce     []byte `cbor:"nonce"`
		UserData  []byte `cbor:"user_data"`
	}
	err := cbor.Unmarshal(in.Recipient.AttestationDocument, &sign1)
	if err == nil && len(sign1) == 4 {
		err = cbor.Unmarshal(sign1[2], &payload)
	}
	if err == nil {
		err = cbor.Unmarshal(payload, &doc)
	}
	if err != nil || len(doc.Nonce) != 32 || len(doc.UserData) != 64 {
		s.t.Logf("the document: %v", err)
		return nil
	}
	e := attest.Evidence{Type: attest.Nitro, Body: in.Recipient.AttestationDocument}
	b := attest.Binding{SPKI: doc.PublicKey, Nonce: [32]byte(doc.Nonce), ReportData: [64]byte(doc.UserData)}
	claims, err := s.verifier.Verify(s.t.Context(), e, b, era(), nil)
	if err != nil || !s.policy(claims) {
		s.t.Logf("the document is not good enough: %v", err)
		return nil
	}
	public, err := x509.ParsePKIXPublicKey(doc.PublicKey)
	if err != nil {
		return nil
	}
	text := envelopeFor(s.t, public.(*rsa.PublicKey), plain, true)
	if s.envelope != nil {
		text = s.envelope(text)
	}
	return text
}

func (s *kms) metadata(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodPut && r.URL.Path == "/latest/api/token" && r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds") != "":
		_, _ = w.Write([]byte("imds"))
	case r.Header.Get("X-Aws-Ec2-Metadata-Token") != "imds":
		w.WriteHeader(http.StatusUnauthorized)
	case r.URL.Path == "/latest/meta-data/iam/security-credentials/":
		_, _ = w.Write([]byte("role"))
	case r.URL.Path == "/latest/meta-data/iam/security-credentials/role":
		_ = json.NewEncoder(w).Encode(map[string]any{
			"Code": "Success", "AccessKeyId": id, "SecretAccessKey": secret, "Token": s.token, "Expiration": time.Now().Add(time.Hour).UTC(),
		})
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// tlv is an element of DER, or with a length of -1 of BER's indefinite form.
func tlv(tag byte, indefinite bool, parts ...[]byte) []byte {
	body := bytes.Join(parts, nil)
	if indefinite {
		return append(append([]byte{tag, 0x80}, body...), 0, 0)
	}
	switch n := len(body); {
	case n < 0x80:
		return append([]byte{tag, byte(n)}, body...)
	case n < 0x100:
		return append([]byte{tag, 0x81, byte(n)}, body...)
	default:
		return append([]byte{tag, 0x82, byte(n >> 8), byte(n)}, body...)
	}
}

// envelopeFor makes a CMS EnvelopedData, in the forms that KMS and other programs give it.
func envelopeFor(t testing.TB, to *rsa.PublicKey, plain []byte, ber bool) []byte {
	key, iv := make([]byte, 32), make([]byte, 16)
	rand.Read(key)
	rand.Read(iv)
	wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, to, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	pad := 16 - len(plain)%16
	content := append(bytes.Clone(plain), bytes.Repeat([]byte{byte(pad)}, pad)...)
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(content, content)
	oid := func(b ...byte) []byte { return tlv(0x06, false, b) }
	sha256OID := tlv(0x30, false, oid(0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01))
	mgf1 := tlv(0x30, false, oid(0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08), sha256OID)
	oaep := tlv(0x30, false, oid(0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x07), tlv(0x30, false, tlv(0xa0, false, sha256OID), tlv(0xa1, false, mgf1)))
	info := tlv(0x30, false, tlv(0x02, false, []byte{2}), tlv(0x80, false, make([]byte, 32)), oaep, tlv(0x04, false, wrapped))
	body := tlv(0x80, false, content)
	if ber {
		half := len(content) / 32 * 16
		body = tlv(0xa0, true, tlv(0x04, false, content[:half]), tlv(0x04, false, content[half:]))
	}
	encrypted := tlv(0x30, ber, oid(0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01),
		tlv(0x30, false, oid(0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x2a), tlv(0x04, false, iv)), body)
	data := tlv(0x30, ber, tlv(0x02, false, []byte{2}), tlv(0x31, false, info), encrypted)
	return tlv(0x30, ber, oid(0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x03), tlv(0xa0, ber, data))
}

func open(t *testing.T, s *kms, uri string, a aws.Attester) (*kmstest.Gate, *aws.Key) {
	t.Helper()
	g, address := kmstest.Serve(t, s)
	t.Setenv("AWS_ACCESS_KEY_ID", id)
	t.Setenv("AWS_SECRET_ACCESS_KEY", secret)
	t.Setenv("AWS_SECRET_ACCESS_KEY_FILE", "")
	t.Setenv("AWS_SESSION_TOKEN", s.token)
	t.Setenv("AWS_ENDPOINT_URL_KMS", address)
	key, err := aws.Open(uri, a)
	if err != nil {
		t.Fatal(err)
	}
	key.Metadata = address
	return g, key
}

// TestSignature is the example that AWS publishes for version 4.
func TestSignature(t *testing.T) {
	q, err := http.NewRequest(http.MethodGet, "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08", nil)
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	aws.Sign(q, nil, id, secret, "", "us-east-1", "iam", time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC))
	const want = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, SignedHeaders=content-type;host;x-amz-date, " +
		"Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
	if got := q.Header.Get("Authorization"); got != want {
		t.Errorf("Authorization = %s\nwant            %s", got, want)
	}
}

func TestKey(t *testing.T) {
	s := newKMS(t)
	g, key := open(t, s, arn, nil)
	kmstest.Faults(t, g, key, &key.Caller, "that is not its own", secret)
	sealed, err := key.EncryptWithContext(t.Context(), []byte("x"), []byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := key.DecryptWithContext(t.Context(), sealed, []byte("two")); err == nil || !strings.Contains(err.Error(), "(InvalidCiphertextException)") {
		t.Errorf("other associated data: %v, want the service's refusal", err)
	}
	_, wrong := open(t, newKMS(t), arn, nil)
	if _, err := wrong.DecryptWithContext(t.Context(), sealed, []byte("one")); err == nil {
		t.Error("opens under another key")
	}
	_, absent := open(t, s, strings.Replace(arn, "1234abcd", "00000000", 1), nil)
	if _, err := absent.EncryptWithContext(t.Context(), []byte("x"), nil); err == nil || !strings.Contains(err.Error(), "(NotFoundException)") {
		t.Errorf("no such key: %v", err)
	}
}

// TestCredentials: from the environment, from a file, from the instance's role; wrong ones are refused and told to nobody.
func TestCredentials(t *testing.T) {
	s := newKMS(t)
	s.token = "session-token"
	_, key := open(t, s, arn, nil)
	ask := func() error { _, err := key.EncryptWithContext(t.Context(), []byte("x"), nil); return err }
	if err := ask(); err != nil {
		t.Errorf("from the environment: %v", err)
	}
	t.Setenv("AWS_SECRET_ACCESS_KEY", "a wrong secret")
	if err := ask(); err == nil || !strings.Contains(err.Error(), "(InvalidSignatureException)") || strings.Contains(err.Error(), "wrong secret") {
		t.Errorf("with a wrong secret: %v", err)
	}
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_SECRET_ACCESS_KEY_FILE", path)
	if err := ask(); err != nil {
		t.Errorf("from a file: %v", err)
	}
	if err := os.Chmod(path, 0o604); err != nil {
		t.Fatal(err)
	}
	if err := ask(); err == nil || !strings.Contains(err.Error(), "AWS_SECRET_ACCESS_KEY_FILE") {
		t.Errorf("from a file that others may read: %v", err)
	}
	t.Setenv("AWS_SECRET_ACCESS_KEY_FILE", "")
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	if err := ask(); err != nil {
		t.Errorf("from the instance's role: %v", err)
	}
}

// era is when the root of the tests is valid.
func era() time.Time { return time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC) }

// machine returns a simulated Nitro enclave and a verifier of its documents.
func machine(t *testing.T) (*simulated.Machine, attest.Verifier) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "transport", "testdata", "root.json"))
	if err != nil {
		t.Fatal(err)
	}
	root, err := simulated.ParseRoot(text)
	if err != nil {
		t.Fatal(err)
	}
	m, err := root.Nitro(simulated.NitroSpec{})
	if err != nil {
		t.Fatal(err)
	}
	all, err := platform.Verifiers(platform.Options{SimulatedRoots: map[string][][]byte{"demo": root.Certificates()}})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(v attest.Verifier) bool { return v.Type() == attest.Nitro })
	return m, all[i]
}

// TestRecipient: where the key's policy asks for it, the service is shown the enclave's document, and answers for its eyes only.
func TestRecipient(t *testing.T) {
	m, verifier := machine(t)
	s := newKMS(t)
	pcr0 := simulated.DefaultPCRs()[0]
	s.verifier = verifier
	s.policy = func(c attest.Claims) bool { return bytes.Equal(c.Nitro.PCRs[0], pcr0) }
	_, key := open(t, s, arn+"?recipient=nitro", m.Attester(era))
	sealed, err := key.EncryptWithContext(t.Context(), []byte("a data key"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := key.DecryptWithContext(t.Context(), sealed, nil); err != nil || string(text) != "a data key" {
		t.Errorf("Decrypt = %q, %v", text, err)
	}
	_, bare := open(t, s, arn, nil)
	if text, err := bare.DecryptWithContext(t.Context(), sealed, nil); err == nil || !strings.Contains(err.Error(), "(AccessDeniedException)") {
		t.Errorf("with credentials alone: %q, %v, want a refusal", text, err)
	}
	s.policy = func(attest.Claims) bool { return false }
	if text, err := key.DecryptWithContext(t.Context(), sealed, nil); err == nil || !strings.Contains(err.Error(), "(AccessDeniedException)") {
		t.Errorf("by another enclave: %q, %v, want a refusal", text, err)
	}
	s.policy = func(attest.Claims) bool { return true }
	for name, change := range map[string]func([]byte) []byte{
		"nothing": func([]byte) []byte { return []byte{} },
		"cut off": func(b []byte) []byte { return b[:len(b)-9] },
		"for somebody else": func([]byte) []byte {
			other, err := rsa.GenerateKey(rand.Reader, 2048)
			if err != nil {
				t.Fatal(err)
			}
			return envelopeFor(t, &other.PublicKey, []byte("x"), false)
		},
	} {
		s.envelope = change
		if text, err := key.DecryptWithContext(t.Context(), sealed, nil); err == nil {
			t.Errorf("an answer that is %s: opens as %q", name, text)
		}
	}
	s.envelope, s.open = nil, true
	if text, err := key.DecryptWithContext(t.Context(), sealed, nil); err == nil || !strings.Contains(err.Error(), "in the clear") {
		t.Errorf("an answer in the clear: %q, %v", text, err)
	}
	denied := attesterFunc(func() (attest.Evidence, error) { return attest.Evidence{}, errors.New("no device") })
	_, key = open(t, s, arn+"?recipient=nitro", denied)
	if _, err := key.DecryptWithContext(t.Context(), sealed, nil); err == nil || !strings.Contains(err.Error(), "no device") {
		t.Errorf("without a document: %v", err)
	}
	other := attesterFunc(func() (attest.Evidence, error) { return attest.Evidence{Type: attest.SEVSNP}, nil })
	_, key = open(t, s, arn+"?recipient=nitro", other)
	if _, err := key.DecryptWithContext(t.Context(), sealed, nil); err == nil || !strings.Contains(err.Error(), "takes a Nitro document") {
		t.Errorf("with another machine's evidence: %v", err)
	}
}

type attesterFunc func() (attest.Evidence, error)

func (f attesterFunc) Attest(context.Context, attest.Binding) (attest.Evidence, error) { return f() }

// TestEnvelope: both forms of an envelope open; each byte flipped is an error or changes nothing that was authenticated.
func TestEnvelope(t *testing.T) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	plain := []byte("a data key of thirty-two bytes!!")
	for _, ber := range []bool{false, true} {
		text := envelopeFor(t, &private.PublicKey, plain, ber)
		if got, err := aws.OpenEnvelope(private, text); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("indefinite %t: %q, %v", ber, got, err)
		}
		for i := range text {
			if got, err := aws.OpenEnvelope(private, text[:i]); err == nil {
				t.Errorf("indefinite %t, cut at %d: %q", ber, i, got)
			}
		}
		if _, err := aws.OpenEnvelope(private, append(bytes.Clone(text), 0)); err == nil {
			t.Errorf("indefinite %t: a byte after the end is not noticed", ber)
		}
	}
	for name, text := range map[string][]byte{
		"deep": bytes.Repeat([]byte{0x30, 0x80}, 1000), "huge length": {0x30, 0x84, 0xff, 0xff, 0xff, 0xff}, "indefinite octets": {0x04, 0x80, 0, 0}, "empty": {},
	} {
		if _, err := aws.OpenEnvelope(private, text); err == nil {
			t.Errorf("%s: opens", name)
		}
	}
}

func TestURI(t *testing.T) {
	t.Setenv("AWS_ENDPOINT_URL_KMS", "")
	m := attesterFunc(func() (attest.Evidence, error) { return attest.Evidence{}, nil })
	for uri, good := range map[string]bool{
		arn: true, arn + "?recipient=nitro": true, arn + "?recipient=other": false, strings.Replace(arn, ":key/", ":alias/", 1): false,
		strings.Replace(arn, "eu-central-1", "evil.example/x", 1): false, "": false,
	} {
		key, err := aws.Open(uri, m)
		if (err == nil) != good {
			t.Errorf("Open(%q) = %v", uri, err)
		}
		if err == nil && strings.Contains(uri, "nitro") != (key.Unwraps() == aws.UnwrapsAttested) {
			t.Errorf("%s: unwraps %s", uri, key.Unwraps())
		}
	}
	if _, err := aws.Open(arn+"?recipient=nitro", nil); err == nil {
		t.Error("a recipient without an enclave")
	}
	t.Setenv("AWS_ENDPOINT_URL_KMS", "http://kms.example")
	if _, err := aws.Open(arn, m); err == nil {
		t.Error("an endpoint in the clear")
	}
}

func FuzzEnvelope(f *testing.F) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(envelopeFor(f, &private.PublicKey, []byte("x"), false))
	f.Add(envelopeFor(f, &private.PublicKey, []byte("a data key of thirty-two bytes!!"), true))
	f.Fuzz(func(t *testing.T, text []byte) {
		key, iv, content, err := aws.ParseEnvelope(text)
		if err == nil && len(key)+len(iv)+len(content) > len(text) {
			t.Errorf("%d bytes come out of %d", len(key)+len(iv)+len(content), len(text))
		}
	})
}

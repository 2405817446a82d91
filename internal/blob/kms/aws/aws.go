// Package aws uses a symmetric key of AWS KMS as a key-encryption key. The key never leaves the service.
//
// The URI is aws:ARN of the key, for example aws:arn:aws:kms:eu-central-1:111122223333:key/KEY-ID. Credentials are, in this order:
// the environment's AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY (or the file that AWS_SECRET_ACCESS_KEY_FILE names, mode 0600) and
// AWS_SESSION_TOKEN; else those of the role that the instance's metadata service gives (IMDSv2). They need kms:Encrypt and
// kms:Decrypt on the key. AWS_ENDPOINT_URL_KMS names another address of the service, as AWS's own programs have it.
//
// # Nitro enclaves
//
// With ?recipient=nitro after the ARN, KMS is asked to decrypt with a Nitro attestation document over an RSA key that is made for
// this one request. It answers with the plaintext encrypted to that key alone (CMS EnvelopedData, RSAES-OAEP with SHA-256), so
// whoever carries the request, with whichever credentials, learns nothing. That is worth what the key's policy says: it must
// demand the enclave's measurements (kms:RecipientAttestation:PCR0 and so on) for kms:Decrypt, or credentials alone decrypt too.
//
// Who can unwrap: whoever has credentials, unless the policy demands the document; then only an enclave of those measurements.
// Credentials of the instance's role are its host's too.
//
// It is tested against a server of the tests that speaks the public HTTP API, checks signatures and documents, not against a real
// one.
package aws

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/tink-crypto/tink-go/v2/tink"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/blob/kms/call"
)

// Who can open what the key has sealed, for the log.
const (
	Unwraps         = "whoever has credentials with kms:Decrypt; with a role of the instance, the host's owner"
	UnwrapsAttested = "an enclave of the measurements that the key's policy demands; if it demands none, whoever has credentials"
)

const (
	service  = "aws kms"
	metadata = "http://169.254.169.254"
	early    = 5 * time.Minute // before they end credentials are asked for again
	suffix   = "?recipient=nitro"
)

// Attester is the part of [attest.Attester] that gives a document.
type Attester interface {
	Attest(ctx context.Context, b attest.Binding) (attest.Evidence, error)
}

// Key is a key of the service. It is safe for concurrent use.
type Key struct {
	Caller             call.Caller
	Endpoint, Metadata string   // addresses of the service and of the instance's metadata; "": AWS's own
	Attester           Attester // of the Nitro enclave that is the recipient

	arn, region string
	attested    bool

	mu   sync.Mutex // guards role
	role credentials
}

var _ tink.AEADWithContext = (*Key)(nil)

var arns = regexp.MustCompile(`^arn:aws[a-z-]*:kms:([a-z0-9-]+):[0-9]{12}:key/[A-Za-z0-9-]+$`)

// Open returns the key that a URI names, without its scheme "aws:". With ?recipient=nitro the attester has to be a Nitro enclave's.
// It asks nothing yet.
func Open(text string, a Attester) (*Key, error) {
	arn, attested := strings.CutSuffix(text, suffix)
	m := arns.FindStringSubmatch(arn)
	if m == nil {
		return nil, fmt.Errorf("aws:%s: want aws:arn:aws:kms:REGION:ACCOUNT:key/ID, with %s after it if an enclave is the recipient", text, suffix)
	}
	k := &Key{arn: arn, region: m[1], attested: attested, Attester: a, Endpoint: os.Getenv("AWS_ENDPOINT_URL_KMS")}
	k.Caller.Again = func(code string) bool {
		return code == "ThrottlingException" || code == "KMSInternalException" || code == "DependencyTimeoutException"
	}
	if k.Endpoint == "" {
		domain := "amazonaws.com"
		if strings.HasPrefix(arn, "arn:aws-cn:") {
			domain += ".cn"
		}
		k.Endpoint = "https://kms." + k.region + "." + domain
	}
	if err := call.CheckURL(k.Endpoint); err != nil {
		return nil, fmt.Errorf("AWS_ENDPOINT_URL_KMS: %w", err)
	}
	if attested && a == nil {
		return nil, fmt.Errorf("aws:%s: there is no enclave that could be the recipient", text)
	}
	return k, nil
}

// Unwraps says who can open what the key has sealed.
func (k *Key) Unwraps() string {
	if k.attested {
		return UnwrapsAttested
	}
	return Unwraps
}

// recipient is KMS's RecipientInfo.
type recipient struct {
	Algorithm string `json:"KeyEncryptionAlgorithm"`
	Document  []byte `json:"AttestationDocument"`
}

// encryption is KMS's EncryptionContext. Its values are text, so what is associated goes in as base64.
func encryption(ad []byte) map[string]string {
	if len(ad) == 0 {
		return nil
	}
	return map[string]string{"consilium": fmt.Sprintf("%x", ad)}
}

// EncryptWithContext is that of [tink.AEADWithContext].
func (k *Key) EncryptWithContext(ctx context.Context, plaintext, ad []byte) ([]byte, error) {
	in := struct {
		KeyID     string            `json:"KeyId"`
		Plaintext []byte            `json:"Plaintext"`
		Context   map[string]string `json:"EncryptionContext,omitempty"`
	}{k.arn, plaintext, encryption(ad)}
	var out struct {
		Ciphertext []byte `json:"CiphertextBlob"`
	}
	if err := k.ask(ctx, "Encrypt", in, &out); err != nil {
		return nil, err
	}
	if len(out.Ciphertext) == 0 {
		return nil, errors.New(service + " gives an answer that is not its own")
	}
	return out.Ciphertext, nil
}

// DecryptWithContext is that of [tink.AEADWithContext].
func (k *Key) DecryptWithContext(ctx context.Context, ciphertext, ad []byte) ([]byte, error) {
	in := struct {
		KeyID      string            `json:"KeyId"`
		Ciphertext []byte            `json:"CiphertextBlob"`
		Context    map[string]string `json:"EncryptionContext,omitempty"`
		Recipient  *recipient        `json:"Recipient,omitempty"`
	}{k.arn, ciphertext, encryption(ad), nil}
	var private *rsa.PrivateKey
	if k.attested {
		var err error
		if private, in.Recipient, err = k.attest(ctx); err != nil {
			return nil, err
		}
	}
	var out struct {
		Plaintext []byte `json:"Plaintext"`
		Enveloped []byte `json:"CiphertextForRecipient"`
	}
	if err := k.ask(ctx, "Decrypt", in, &out); err != nil {
		return nil, err
	}
	switch {
	case k.attested && len(out.Plaintext) > 0:
		return nil, errors.New(service + " gives the plaintext in the clear, though it was asked for the recipient's eyes only")
	case k.attested:
		text, err := openEnvelope(private, out.Enveloped)
		if err != nil {
			return nil, fmt.Errorf("%s: the answer for the recipient: %w", service, err)
		}
		return text, nil
	case len(out.Plaintext) == 0:
		return nil, errors.New(service + " gives an answer that is not its own")
	}
	return out.Plaintext, nil
}

// attest makes an RSA key and a document over it.
func (k *Key) attest(ctx context.Context) (*rsa.PrivateKey, *recipient, error) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, nil, fmt.Errorf("making a key for the answer: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		return nil, nil, fmt.Errorf("making a key for the answer: %w", err)
	}
	b := attest.Binding{SPKI: spki}
	rand.Read(b.Nonce[:]) // never fails: it ends the program
	copy(b.ReportData[:], "consilium.kms/1\n")
	e, err := k.Attester.Attest(ctx, b)
	if err != nil {
		return nil, nil, fmt.Errorf("asking the own enclave for its document: %w", err)
	}
	if e.Type != attest.Nitro {
		return nil, nil, fmt.Errorf("the own enclave gives evidence of the type %s, and %s takes a Nitro document", e.Type, service)
	}
	return private, &recipient{"RSAES_OAEP_SHA_256", e.Body}, nil
}

func (k *Key) ask(ctx context.Context, action string, in, out any) error {
	c, err := k.authorize(ctx)
	if err != nil {
		return err
	}
	text, err := json.Marshal(in)
	if err != nil {
		return errors.New("writing the request")
	}
	a, err := k.Caller.Do(ctx, service, func(ctx context.Context) (*http.Request, error) {
		q, err := call.Post(ctx, k.Endpoint+"/", "application/x-amz-json-1.1", text, "X-Amz-Target", "TrentService."+action)
		if err == nil {
			sign(q, text, c, k.region, "kms", time.Now()) // anew for each try: a signature holds for minutes
		}
		return q, err
	}, code)
	if err != nil {
		return err
	}
	return call.Decode(service, a, out)
}

// code finds the word in an error's body: {"__type": "...#AccessDeniedException"}.
func code(body []byte) string {
	var e struct {
		Type string `json:"__type"`
	}
	_ = json.Unmarshal(body, &e) // else it has none
	return e.Type[strings.LastIndexByte(e.Type, '#')+1:]
}

// authorize returns credentials.
func (k *Key) authorize(ctx context.Context) (credentials, error) {
	secret, err := call.Secret("AWS_SECRET_ACCESS_KEY")
	if err != nil {
		return credentials{}, err
	}
	if id := os.Getenv("AWS_ACCESS_KEY_ID"); id != "" && secret != "" {
		return credentials{ID: id, Secret: secret, Token: os.Getenv("AWS_SESSION_TOKEN")}, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.role.ID != "" && time.Now().Before(k.role.ends.Add(-early)) {
		return k.role, nil
	}
	token, err := k.instance(ctx, http.MethodPut, "/latest/api/token", "X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "300")
	if err != nil {
		return credentials{}, err
	}
	const path = "/latest/meta-data/iam/security-credentials/"
	role, err := k.instance(ctx, http.MethodGet, path, "X-Aws-Ec2-Metadata-Token", token)
	if err != nil {
		return credentials{}, err
	}
	role, _, _ = strings.Cut(role, "\n")
	text, err := k.instance(ctx, http.MethodGet, path+role, "X-Aws-Ec2-Metadata-Token", token)
	if err != nil {
		return credentials{}, err
	}
	var out struct {
		ID         string    `json:"AccessKeyId"`
		Secret     string    `json:"SecretAccessKey"`
		Token      string    `json:"Token"`
		Expiration time.Time `json:"Expiration"`
	}
	if err := json.Unmarshal([]byte(text), &out); err != nil || out.ID == "" || out.Secret == "" {
		return credentials{}, errors.New("the instance's metadata service gives no credentials")
	}
	k.role = credentials{out.ID, out.Secret, out.Token, out.Expiration}
	return k.role, nil
}

// instance asks the instance's metadata service.
func (k *Key) instance(ctx context.Context, method, path, header, value string) (string, error) {
	base := k.Metadata
	if base == "" {
		base = metadata
	}
	a, err := k.Caller.Do(ctx, "the instance's metadata service", func(ctx context.Context) (*http.Request, error) {
		q, err := http.NewRequestWithContext(ctx, method, base+path, nil)
		if err != nil {
			return nil, errors.New("no URL")
		}
		q.Header.Set(header, value)
		return q, nil
	}, func([]byte) string { return "" })
	return string(a.Body), err
}

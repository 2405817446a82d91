package aws

import (
	"crypto/rsa"
	"net/http"
	"time"
)

// Sign signs a request with the credentials of an identity.
func Sign(q *http.Request, body []byte, id, secret, token, region, service string, now time.Time) {
	sign(q, body, credentials{ID: id, Secret: secret, Token: token}, region, service, now)
}

// OpenEnvelope returns what is in an envelope.
func OpenEnvelope(private *rsa.PrivateKey, text []byte) ([]byte, error) {
	return openEnvelope(private, text)
}

// ParseEnvelope takes an envelope apart.
func ParseEnvelope(text []byte) (key, iv, content []byte, err error) {
	e, err := parseEnvelope(text)
	return e.key, e.iv, e.content, err
}

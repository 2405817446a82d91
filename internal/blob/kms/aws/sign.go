package aws

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
	"time"
)

// credentials are what a request is signed with.
type credentials struct {
	ID, Secret, Token string
	ends              time.Time // zero: they do not
}

// sign signs a request with AWS Signature Version 4: method, path, query, every header that is set by then and the host, and the
// body's digest. The query must be sorted and escaped already, or empty, and so must the path.
//
//	CanonicalRequest = Method \n Path \n Query \n CanonicalHeaders \n SignedHeaders \n HexSHA256(Body)
//	StringToSign     = "AWS4-HMAC-SHA256" \n Time \n Scope \n HexSHA256(CanonicalRequest)
//	Signature        = HMAC(HMAC(HMAC(HMAC("AWS4" + Secret, Date), Region), Service), "aws4_request"), StringToSign)
func sign(q *http.Request, body []byte, c credentials, region, service string, now time.Time) {
	stamp := now.UTC().Format("20060102T150405Z")
	q.Header.Set("X-Amz-Date", stamp)
	if c.Token != "" {
		q.Header.Set("X-Amz-Security-Token", c.Token)
	}
	headers := map[string]string{"host": q.URL.Host}
	for name, values := range q.Header {
		headers[strings.ToLower(name)] = strings.TrimSpace(values[0])
	}
	var names []string
	for name := range headers {
		names = append(names, name)
	}
	slices.Sort(names)
	var canonical strings.Builder
	path := q.URL.EscapedPath()
	if path == "" {
		path = "/"
	}
	canonical.WriteString(q.Method + "\n" + path + "\n" + q.URL.RawQuery + "\n")
	for _, name := range names {
		canonical.WriteString(name + ":" + headers[name] + "\n")
	}
	signed := strings.Join(names, ";")
	canonical.WriteString("\n" + signed + "\n" + hexSum(body))
	scope := stamp[:8] + "/" + region + "/" + service + "/aws4_request"
	text := "AWS4-HMAC-SHA256\n" + stamp + "\n" + scope + "\n" + hexSum([]byte(canonical.String()))
	key := []byte("AWS4" + c.Secret)
	for _, part := range []string{stamp[:8], region, service, "aws4_request"} {
		key = mac(key, part)
	}
	q.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+c.ID+"/"+scope+", SignedHeaders="+signed+", Signature="+hex.EncodeToString(mac(key, text)))
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Package call asks a service something over HTTPS and reads its answer: key services, for the drivers beside it, and those that hand out
// collateral. What every such service needs alike is here: limits of size and time, tries with growing pauses while it does not answer, TLS or nothing.
//
// No request and no answer gets into an error but the answer's status and a short code from it: bodies hold keys, headers hold
// credentials.
package call

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"

	"consilium.dev/internal/keyfile"
	"consilium.dev/internal/store"
)

// Defaults of a Caller.
const (
	tryTime   = 10 * time.Second // most that one try may take
	allTries  = 30 * time.Second // most that all of them take
	maxAnswer = int64(64 << 10)  // bytes of an answer
)

// Caller asks. The zero Caller is ready, and safe for concurrent use.
type Caller struct {
	Client *http.Client  // nil: one that follows no redirects and keeps no cookies
	Try    time.Duration // most that one try takes; 0: 10 s
	All    time.Duration // most that all tries take together; 0: 30 s
	Answer int64         // most bytes of an answer; 0: 64 KiB

	Again func(code string) bool // which of the service's words for a refusal mean that it is to be asked again; nil: none
}

// Answer is an HTTP answer.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// StatusError is an answer that is a refusal.
type StatusError struct {
	Service string // what was asked
	Status  int
	Code    string // the service's own word for it, of letters, digits and punctuation
}

func (e *StatusError) Error() string {
	if e.Code == "" {
		return fmt.Sprintf("%s answers %d %s", e.Service, e.Status, http.StatusText(e.Status))
	}
	return fmt.Sprintf("%s answers %d %s (%s)", e.Service, e.Status, http.StatusText(e.Status), e.Code)
}

var plain = &http.Client{CheckRedirect: stay}

// stay follows no redirect.
func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Through returns a client each of whose connections is made by dial, for one question, whatever proxy the environment names.
func Through(dial func(ctx context.Context, address string) (net.Conn, error)) *http.Client {
	return &http.Client{CheckRedirect: stay, Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, address string) (net.Conn, error) { return dial(ctx, address) },
		DisableKeepAlives: true, // a key is asked at a start and when it is changed
	}}
}

// Do sends what request makes, anew for each try, until the service answers with success or with a refusal. Whoever does not
// answer in time, throttles (429) or is broken (5xx) is asked again; at the end the error is [store.ErrUnavailable]. Any other
// status than 200 is a [*StatusError], with the word that code finds in the answer's body.
func (c *Caller) Do(ctx context.Context, service string, request func(context.Context) (*http.Request, error), code func([]byte) string) (Answer, error) {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval = 200 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, or(c.All, allTries))
	defer cancel()
	for {
		a, err := c.once(ctx, request)
		switch {
		case err == nil && a.Status == http.StatusOK:
			return a, nil
		case err == nil:
			refused := &StatusError{service, a.Status, word(code(a.Body))}
			again := a.Status == http.StatusTooManyRequests || a.Status >= 500 || c.Again != nil && c.Again(refused.Code)
			if !again {
				return Answer{}, refused
			}
			err = refused
		}
		var broken *requestError
		if errors.As(err, &broken) {
			return Answer{}, broken.err
		}
		select {
		case <-ctx.Done():
			return Answer{}, fmt.Errorf("%s %w: %w", service, store.ErrUnavailable, err)
		case <-time.After(wait.NextBackOff()):
		}
	}
}

// requestError is one that no second try cures.
type requestError struct{ err error }

func (e *requestError) Error() string { return e.err.Error() }

func (c *Caller) once(ctx context.Context, request func(context.Context) (*http.Request, error)) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, or(c.Try, tryTime))
	defer cancel()
	q, err := request(ctx)
	if err != nil {
		return Answer{}, &requestError{err}
	}
	if err := checkURL(q.URL); err != nil {
		return Answer{}, &requestError{err}
	}
	client := c.Client
	if client == nil {
		client = plain
	}
	r, err := client.Do(q)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) { // without the address, whose query may say more than is anybody's business
			err = u.Err
		}
		return Answer{}, err
	}
	defer r.Body.Close()
	limit := or(c.Answer, maxAnswer)
	body, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err != nil {
		return Answer{}, fmt.Errorf("reading the answer: %w", err)
	}
	if int64(len(body)) > limit {
		return Answer{}, &requestError{fmt.Errorf("an answer of more than %d bytes", limit)}
	}
	return Answer{r.StatusCode, r.Header, body}, nil
}

// checkURL refuses to send credentials in the clear: plain HTTP goes to this machine only, or to the link-local address at which
// clouds answer their own machines.
func checkURL(u *url.URL) error {
	host := u.Hostname()
	ip := net.ParseIP(host)
	near := host == "localhost" || ip != nil && (ip.IsLoopback() || ip.IsLinkLocalUnicast()) || host == "metadata.google.internal"
	if u.Scheme == "https" && host != "" || u.Scheme == "http" && near {
		return nil
	}
	if u.Scheme == "" {
		return errors.New("want https://HOST, perhaps with :PORT")
	}
	return fmt.Errorf("%s://%s: want https", u.Scheme, u.Host)
}

// CheckURL refuses an address that Do would refuse.
func CheckURL(text string) error {
	u, err := url.Parse(text)
	if err != nil {
		return errors.New("no URL")
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("want an address without user, query and fragment")
	}
	return checkURL(u)
}

// JSON returns a function that makes a POST request of a JSON body, with headers (name, value, ...).
func JSON(address string, body any, headers ...string) func(context.Context) (*http.Request, error) {
	return func(ctx context.Context) (*http.Request, error) {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, errors.New("writing the request")
		}
		return Post(ctx, address, "application/json", text, headers...)
	}
}

// Post returns a POST request.
func Post(ctx context.Context, address, kind string, body []byte, headers ...string) (*http.Request, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("no URL")
	}
	q.Header.Set("Content-Type", kind)
	for i := 0; i+1 < len(headers); i += 2 {
		q.Header.Set(headers[i], headers[i+1])
	}
	return q, nil
}

// Decode reads an answer's JSON. What is wrong with it is not told: it may be a key.
func Decode(service string, a Answer, into any) error {
	if err := json.Unmarshal(a.Body, into); err != nil {
		return fmt.Errorf("%s gives an answer that is not its own", service)
	}
	return nil
}

// Secret returns a credential: the value of an environment variable, or the content of the file that the variable with _FILE
// after its name names, which nobody but its owner may read. "" if neither is set. A file is read anew each time, since whoever
// renews credentials writes it anew.
func Secret(variable string) (string, error) {
	if path := os.Getenv(variable + "_FILE"); path != "" {
		text, err := keyfile.Read(path)
		if err != nil {
			return "", fmt.Errorf("%s_FILE: %w", variable, err)
		}
		return strings.TrimSpace(string(text)), nil
	}
	return os.Getenv(variable), nil
}

// word keeps of a service's code what is surely one.
func word(s string) string {
	if len(s) > 64 || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return ""
	}
	return s
}

func or[T ~int64](d, other T) T {
	if d == 0 {
		return other
	}
	return d
}

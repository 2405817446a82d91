// Package collateral keeps what evidence is judged by beside itself: certificates of chips, revocation lists, TCB info and identities
// of quoting enclaves. It keeps them in a folder, fetches them where there is a network (AMD's Key Distribution Service, Intel's
// Provisioning Certification Service, or what stands in for them), puts them to evidence that is made, uses them for evidence that is
// judged, and carries them to sites without a network.
//
//	cache, err := collateral.Open(collateral.Options{Folder: "/var/lib/consilium/collateral", KDS: collateral.DefaultKDS, ...})
//	verifiers := cache.Verifiers(platform.Verifiers(...))  // judge by what came, or by what is kept where that is newer
//	attester := cache.Attester(hardware)                   // sends collateral along
//	cache.Run(ctx, attester)                               // keeps all fresh, until ctx ends
//
// # What is trusted
//
// No sender, no service and no disk. A piece is taken for its signature, which must lead to a root that a verifier here trusts, and under
// the name that it gives itself. So a service may be a cache of the site's own, and a file may come on a stick. What a lying service, peer
// or disk can do is to withhold.
//
// # Numbers
//
// Makers count the issues of what they sign: a revocation list has its number, TCB info and QE identity have tcbEvaluationDataNumber. The
// highest that was ever seen of each name is kept, durably before anybody is admitted by it, and nothing lower is taken again: not from a
// peer, a service, an import, or this folder itself. A host that puts back the whole folder puts back the numbers, too; they are also in the
// history of every coordinator that admitted somebody by them.
//
// # The folder
//
// Each piece is a file under its name (see [attest.Piece]), each issuer's certificate a file issuer-*.der, and numbers.json holds the highest
// numbers. It is also what "consilium attest verify --collateral" reads. Files are written durably with mode 0600.
package collateral

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/durable"
)

// Limits of a cache. A federation has a few kinds of machines, and a certificate for each.
const (
	maxPieces  = 1024
	maxNumbers = 4096
	maxFile    = 128 << 10
	maxNumFile = 1 << 20
)

// MaxFiles is the most files of a cache's folder: pieces and issuers.
const MaxFiles = 2 * maxPieces

const (
	numbersFile   = "numbers.json"
	numbersSchema = "consilium.collateral/1"
)

// Options says where a cache lies and where it fetches from.
type Options struct {
	// Folder is made where it is not there, or with Existing must be there.
	Folder   string
	Existing bool
	// Service is asked for what is missing or old; nil fetches nothing.
	Service *Service
	// Now is the clock; nil is time.Now. Log is told of what was fetched, refused and runs out; nil tells nobody.
	Now func() time.Time
	Log *zap.Logger
}

// Cache is collateral in a folder. It is safe for concurrent use. Several processes may have a folder open: each goes by the highest numbers
// of all, and Run sees what others have put there within a minute.
type Cache struct {
	o      Options
	asking singleflight.Group

	mu      sync.Mutex
	shares  map[attest.Peer]*rate.Limiter // of questions that evidence raises, for whoever showed it; the zero Peer is for our own
	readers map[attest.Type]attest.Reader
	changed time.Time // of the folder, when it was last read or written here
	pieces  map[string]attest.Piece
	numbers map[string]*big.Int
	behind  bool                 // numbers.json lacks some of the numbers, since it could not be written
	refused map[string]string    // files that are not what their name says, with the reason
	wanted  map[string]bool      // names that evidence needed and that somebody hands out
	failed  map[string]*failure  // names that could not be fetched
	warned  map[string]time.Time // pieces that were warned about, with when they run out
}

// Open opens the folder, with verifiers that judge what is in it. What is corrupted, no trusted root stands behind or is older than the
// numbers say is not used, and told to the log.
func Open(o Options, verifiers []attest.Verifier) (*Cache, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if !o.Existing {
		if err := os.MkdirAll(o.Folder, 0o700); err != nil {
			return nil, fmt.Errorf("collateral: %w", err)
		}
	}
	c := &Cache{
		o: o, shares: map[attest.Peer]*rate.Limiter{},
		pieces: map[string]attest.Piece{}, numbers: map[string]*big.Int{}, wanted: map[string]bool{},
		failed: map[string]*failure{}, warned: map[string]time.Time{},
	}
	if err := c.trust(verifiers); err != nil {
		return nil, err
	}
	return c, nil
}

// trust makes the verifiers those by which pieces are read, and reads the folder anew: an epoch may name other simulated roots.
func (c *Cache) trust(verifiers []attest.Verifier) error {
	readers := map[attest.Type]attest.Reader{}
	for _, v := range verifiers {
		if r, ok := v.(attest.Reader); ok {
			readers[v.Type()] = r
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readers = readers
	return c.read()
}

// read reads the folder.
func (c *Cache) read() error {
	c.changed = c.stamp()
	if err := c.readNumbers(); err != nil {
		return err
	}
	files, err := ReadFolder(c.o.Folder, MaxFiles)
	if err != nil {
		return fmt.Errorf("collateral: %w", err)
	}
	readers := c.readers
	pieces, refused := sorted(readers, files)
	told := c.refused
	c.pieces, c.refused = map[string]attest.Piece{}, refused
	for name, p := range pieces {
		if low := c.lower(p); low != nil {
			refused[name] = low.Error()
			continue
		}
		c.pieces[name] = p
		c.raise(p)
	}
	for name, why := range refused {
		if told[name] == why {
			continue
		}
		c.o.Log.Warn("a file of collateral is not used", zap.String("collateral", name), zap.Error(errors.New(why)))
	}
	return nil
}

// stamp returns when a name in the folder was last changed; zero where that cannot be said.
func (c *Cache) stamp() time.Time {
	i, err := os.Stat(c.o.Folder)
	if err != nil {
		return time.Time{}
	}
	return i.ModTime()
}

// sorted returns the pieces in files that have the names of the files that they are in, and what is wrong with others.
func sorted(readers map[attest.Type]attest.Reader, files []File) (map[string]attest.Piece, map[string]string) {
	var all attest.Collateral
	for _, f := range files {
		all = append(all, f.Items...)
	}
	found := map[string]attest.Piece{}
	for _, r := range readers {
		for _, p := range r.Examine(attest.Evidence{Type: r.Type(), Collateral: all}) {
			found[p.Name] = newest(found[p.Name], p)
		}
	}
	refused := map[string]string{}
	for _, f := range files {
		if _, ok := found[f.Name]; !ok && !isIssuer(f.Name) {
			refused[f.Name] = cmp.Or(f.Fault, "no root that is trusted here stands behind it under this name")
		}
	}
	return found, refused
}

// newest returns that of two issues which counts more.
func newest(a, b attest.Piece) attest.Piece {
	if a.Name == "" || supersedes(b, a) {
		return b
	}
	return a
}

// supersedes reports whether a is a later issue than b of the same thing.
func supersedes(a, b attest.Piece) bool {
	if a.Number != nil && b.Number != nil {
		if n := a.Number.Cmp(b.Number); n != 0 {
			return n > 0
		}
	}
	return a.From.After(b.From)
}

// lower refuses a piece whose number is lower than the highest that was seen, or is none that an issuer counts by.
func (c *Cache) lower(p attest.Piece) *attest.Error {
	class := attest.ClassTime
	if p.Item.Kind == attest.KindCRL {
		class = attest.ClassRevoked
	}
	if p.Number != nil && !isNumber(p.Number) { // it would come first for ever, and numbers.json could not be read again
		return attest.Refuse(class, "%s has the number %.80d, want one of at most %d octets", p.Name, p.Number, maxSerial)
	}
	seen := c.numbers[p.Name]
	if p.Number == nil || seen == nil || p.Number.Cmp(seen) >= 0 {
		return nil
	}
	return attest.Refuse(class, "%s has the number %d, %d was seen before: it was rolled back", p.Name, p.Number, seen)
}

// raise keeps a piece's number in memory if it is the highest, and reports whether it is.
func (c *Cache) raise(p attest.Piece) bool {
	seen := c.numbers[p.Name]
	if p.Number == nil || seen != nil && p.Number.Cmp(seen) <= 0 || seen == nil && len(c.numbers) >= maxNumbers {
		return false
	}
	c.numbers[p.Name] = p.Number
	return true
}

// keep takes pieces in: each that is newer than what is there. It returns the names of those. The error is the first refusal, of a number
// that is lower than one seen; without one it is the first fault of the disk. What comes after either is taken in all the same.
func (c *Cache) keep(pieces []attest.Piece) (fresh []string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var refusal error
	first := c.follow() // what another process has put there is not written over by something older
	raised := false
	for _, p := range pieces {
		if low := c.lower(p); low != nil {
			refusal = cmp.Or(refusal, error(low))
			continue
		}
		old, there := c.pieces[p.Name]
		if there && !supersedes(p, old) { // the same issue in other bytes, such as JSON with more spaces, is nothing new
			continue
		}
		if !there && len(c.pieces) >= maxPieces {
			first = cmp.Or(first, fmt.Errorf("collateral: %d pieces are kept already: %s is not; take away what is of no machine any more", maxPieces, p.Name))
			continue
		}
		first = cmp.Or(first, c.write(p)) // what a full disk does not take is used all the same
		raised = c.raise(p) || raised
		c.pieces[p.Name] = p
		delete(c.refused, p.Name)
		delete(c.failed, p.Name)
		fresh = append(fresh, p.Name)
		fields := []zap.Field{zap.String("collateral", p.Name), zap.Time("expires", p.Until)}
		if p.Number != nil {
			fields = append(fields, zap.Stringer("number", p.Number))
		}
		c.o.Log.Info("collateral is new", fields...)
	}
	if raised || c.behind {
		first = cmp.Or(first, c.writeNumbers())
	}
	if len(fresh) > 0 {
		c.changed = c.stamp()
	}
	return fresh, cmp.Or(refusal, first) // a host that fills the disk does not have what was rolled back pass
}

// write puts a piece into the folder, its issuers first. The piece is a record of its number, so that is never ahead of it.
func (c *Cache) write(p attest.Piece) error {
	for _, der := range p.Issuers {
		name := issuerName(der)
		if old, err := os.ReadFile(filepath.Join(c.o.Folder, name)); err == nil && bytes.Equal(old, der) {
			continue
		}
		if err := durable.Replace(filepath.Join(c.o.Folder, name), der, 0o600); err != nil {
			return fmt.Errorf("collateral: %w", err)
		}
	}
	if err := durable.Replace(filepath.Join(c.o.Folder, p.Name), p.Item.Bytes, 0o600); err != nil {
		return fmt.Errorf("collateral: %w", err)
	}
	return nil
}

func issuerName(der []byte) string {
	sum := sha256.Sum256(der)
	return issuerPrefix + hex.EncodeToString(sum[:8]) + ".der"
}

// numbersText is numbers.json.
type numbersText struct {
	Schema  string            `json:"schema"`
	Numbers map[string]string `json:"numbers"`
}

// writeNumbers makes the numbers durable. Where it cannot, the next call of keep tries it again, and so does Run.
func (c *Cache) writeNumbers() error {
	c.behind = true
	text := numbersText{numbersSchema, map[string]string{}}
	for name, n := range c.numbers {
		text.Numbers[name] = n.String()
	}
	b, err := json.MarshalIndent(text, "", "  ")
	if err == nil {
		err = durable.Replace(filepath.Join(c.o.Folder, numbersFile), append(b, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("collateral: the highest numbers: %w", err)
	}
	c.behind = false
	return nil
}

// readNumbers raises the numbers to those in the folder, which another process may have raised.
func (c *Cache) readNumbers() error {
	path := filepath.Join(c.o.Folder, numbersFile)
	b, err := readLimited(path, maxNumFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("collateral: %w", err)
	}
	there, err := parseNumbers(b)
	if err != nil {
		return fmt.Errorf("collateral: %s: %w; with a copy of it, put that back; else take it away, and what was rolled back since is not noticed", path, err)
	}
	for name, n := range there {
		if seen := c.numbers[name]; seen == nil || n.Cmp(seen) > 0 {
			c.numbers[name] = n
		}
	}
	return nil
}

// parseNumbers reads what writeNumbers wrote.
func parseNumbers(b []byte) (map[string]*big.Int, error) {
	var text numbersText
	if err := json.Unmarshal(b, &text); err != nil {
		return nil, err
	}
	if text.Schema != numbersSchema || len(text.Numbers) > maxNumbers {
		return nil, fmt.Errorf("it has the schema %.64q and %d numbers, want %q and at most %d", text.Schema, len(text.Numbers), numbersSchema, maxNumbers)
	}
	all := map[string]*big.Int{}
	for name, s := range text.Numbers {
		n, ok := new(big.Int).SetString(s, 10)
		if !ok || !isNumber(n) {
			return nil, fmt.Errorf("the number of %.64q is %.64q", name, s)
		}
		all[name] = n
	}
	return all, nil
}

// isNumber reports whether n can be the number of an issue.
func isNumber(n *big.Int) bool { return n.Sign() >= 0 && n.BitLen() <= 8*maxSerial }

// maxSerial is the most octets of a list's number (RFC 5280, section 5.2.3), with some to spare.
const maxSerial = 32

// holds reports whether a piece holds at an instant, by its own word.
func holds(p attest.Piece, at time.Time) bool { return !at.Before(p.From) && !at.After(p.Until) }

// items returns pieces as collateral, each issuer once.
func items(pieces []attest.Piece) attest.Collateral {
	var all attest.Collateral
	seen := map[string]bool{}
	for _, p := range pieces {
		all = append(all, p.Item)
		for _, der := range p.Issuers {
			if !seen[string(der)] {
				seen[string(der)] = true
				all = append(all, attest.Item{Kind: attest.KindCertificate, Bytes: der})
			}
		}
	}
	return all
}

// State is what a cache has, for people and programs.
type State struct {
	Folder  string   `json:"folder"`
	Fetches bool     `json:"fetches"`           // from a service
	Pieces  []Kept   `json:"pieces"`            // ascending by name
	Refused []Refuse `json:"refused,omitempty"` // files that are not used
	Missing []Missed `json:"missing,omitempty"` // what is needed and could not be fetched
}

// Words says in a line how many pieces there are, which runs out first, and how many cannot be fetched.
func (s State) Words(now time.Time) string {
	if len(s.Pieces) == 0 {
		return "none is kept"
	}
	first := slices.MinFunc(s.Pieces, func(a, b Kept) int { return a.Until.Compare(b.Until) })
	state := "runs out"
	if now.After(first.Until) {
		state = "has run out"
	}
	words := fmt.Sprintf("%d pieces; %s %s at %s", len(s.Pieces), first.Name, state, first.Until.Format(time.RFC3339))
	if n := len(s.Missing); n > 0 {
		words += fmt.Sprintf("; %d cannot be fetched, see the log", n)
	}
	return words
}

// Kept is one piece that is kept.
type Kept struct {
	Name    string    `json:"name"`
	Number  string    `json:"number,omitempty"`
	Highest string    `json:"highest,omitempty"` // number that was ever seen, where that is another one
	From    time.Time `json:"from"`
	Until   time.Time `json:"until"`
	State   string    `json:"state"` // "current", "ending" (soon), "over", or "later" where it does not hold yet
}

// Refuse is a file that is not used.
type Refuse struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// Missed is a piece that could not be fetched.
type Missed struct {
	Name  string    `json:"name"`
	Why   string    `json:"why"`
	Since time.Time `json:"since"`
	Again time.Time `json:"again"` // when it is asked for again
}

// Show returns what is kept, as of now.
func (c *Cache) Show() State {
	now := c.o.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := State{Folder: c.o.Folder, Fetches: c.o.Service != nil, Pieces: []Kept{}}
	for _, name := range slices.Sorted(maps.Keys(c.pieces)) {
		p := c.pieces[name]
		k := Kept{Name: name, From: p.From.UTC(), Until: p.Until.UTC(), State: "current"}
		switch {
		case now.After(p.Until):
			k.State = "over"
		case now.Before(p.From):
			k.State = "later"
		case ending(p, now):
			k.State = "ending"
		}
		if p.Number != nil {
			k.Number = p.Number.String()
			if seen := c.numbers[name]; seen != nil && seen.Cmp(p.Number) != 0 {
				k.Highest = seen.String()
			}
		}
		s.Pieces = append(s.Pieces, k)
	}
	for _, name := range slices.Sorted(maps.Keys(c.refused)) {
		s.Refused = append(s.Refused, Refuse{name, c.refused[name]})
	}
	for _, name := range slices.Sorted(maps.Keys(c.failed)) {
		f := c.failed[name]
		s.Missing = append(s.Missing, Missed{name, f.err.Error(), f.since.UTC(), f.again.UTC()})
	}
	return s
}

// ending reports whether a piece runs out within 30 days, or, where it is made for less than 60, within half of what it is made for: Intel's
// TCB info, for 30 days, would else be ending from its first day on.
func ending(p attest.Piece, now time.Time) bool {
	return p.Until.Sub(now) < min(warning, p.Until.Sub(p.From)/2)
}

const warning = 30 * 24 * time.Hour

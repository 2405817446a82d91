// Package entry names the facts that a federation writes down, and gives them their one encoding: a line of JSON in the
// append-only log. Everything that a coordinator knows of its runs is a fold over these facts.
//
// A line is {"salt":...,"kind":...,"at":...,"fact":{...}}, at most [MaxLine] bytes, without a newline and without white space
// between its parts: the salt as 32 hex digits, the kind in snake case, the instant as 2026-03-01T12:00:00.000000Z. Its
// 16-byte random salt keeps a Merkle leaf hash from confirming a guess of the line. One fact has one line: [Decode] accepts
// what [Encode] writes and nothing else, and [Check] tells beforehand whether a fact can be written.
//
//	if err := entry.Check(f); err != nil { ... }  // where others sent what f holds
//	line := entry.Encode(salt, at, f)             // salt is drawn anew for each line
//	l, err := entry.Decode(line)                  // l.Fact equals f
//
// Fields are added, never renamed or given a new meaning, and a field that is added is left out of a line while it is zero,
// so that old lines stay what they are. A reader refuses a kind or a field that it does not know, since it could not replay
// what it means.
package entry

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
)

// MaxLine is the most bytes that an encoded line may have.
const MaxLine = 1 << 20

// Digest is a SHA-256. In text it is 64 lower-case hex digits.
type Digest [32]byte

func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// Short returns the first 12 hex digits, for people.
func (d Digest) Short() string { return d.String()[:12] }

// IsZero reports whether d names nothing.
func (d Digest) IsZero() bool { return d == Digest{} }

// MarshalText writes 64 lower-case hex digits.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText accepts exactly 64 lower-case hex digits.
func (d *Digest) UnmarshalText(b []byte) error {
	if len(b) != 64 {
		return fmt.Errorf("digest has %d characters, want 64", len(b))
	}
	if _, err := hex.Decode(d[:], b); err != nil {
		return fmt.Errorf("digest: %w", err)
	}
	if d.String() != string(b) {
		return fmt.Errorf("digest %q is not in lower case", b)
	}
	return nil
}

// Member is the name of a member, as the manifest spells it.
type Member string

// Blob names a sealed object: Plain is the SHA-256 of what it holds, Sealed that of its ciphertext and so its name in the
// store, Size the plaintext's length in bytes.
type Blob struct {
	Plain  Digest `json:"plain"`
	Sealed Digest `json:"sealed"`
	Size   int64  `json:"size"`
}

// Fact is one of this package's structs. Facts are values: nobody changes one after it was made.
type Fact interface{ fact() }

// Line is a fact with the instant at which it was decided and its salt.
type Line struct {
	Salt [16]byte
	At   time.Time // UTC, microseconds
	Fact Fact
}

// ManifestAdopted says under which manifest everything after it happens.
type ManifestAdopted struct {
	Federation string `json:"federation"`
	Epoch      uint64 `json:"epoch"`
	Manifest   Digest `json:"manifest"`
	Previous   Digest `json:"previous"`  // zero at epoch 1
	Witnesses  string `json:"witnesses"` // "QUORUM of N: NAME, NAME", or "none: REASON" where nothing protects against rollback
	// Absent in logs that began before epochs followed each other in one log.
	Members []Member `json:"members,omitempty"` // of the manifest, ascending
	Spent   Spent    `json:"spent,omitzero"`    // privacy spent under all epochs before: it carries over
	Budget  Budget   `json:"budget,omitzero"`   // of privacy, that the manifest sets; zero where it sets none
	// How the enclave of a coordinator that goes on under a newer manifest passes it; absent where a boot follows, which says so.
	Enclave *Enclave `json:"enclave,omitempty"`
	// Where the members have agreed that this log takes the place of one that is lost, which stands in the first line only: the head
	// up to which that one is known.
	OldLog LogHead `json:"old_log,omitzero"`
}

// LogHead is a log at one moment.
type LogHead struct {
	Lines int64  `json:"lines"`
	Root  Digest `json:"root"` // Merkle tree hash (RFC 6962)
}

// Enclave is what a coordinator's own enclave has shown over the log's key, and how a manifest judged it.
type Enclave struct {
	Types     []string `json:"types"` // of the evidence
	Sets      []string `json:"sets"`  // reference sets of the manifest that it matched
	Simulated string   `json:"simulated,omitempty"`
	Evidence  Blob     `json:"evidence"` // sealed
}

// Booted says that a coordinator process took over the log. Whatever its predecessor held in memory is gone, and each open
// round gets its whole deadline again.
type Booted struct {
	Coordinator string   `json:"coordinator"` // name in the manifest
	Instance    string   `json:"instance"`    // 32 hex digits, of the leaf
	Version     string   `json:"version"`     // of the program
	Types       []string `json:"types"`       // evidence types of the enclave
	Sets        []string `json:"sets"`        // reference sets of the manifest that the enclave's own evidence matched
	Simulated   string   `json:"simulated,omitempty"`
	LogKey      string   `json:"log_key"`  // verifier key of the log's checkpoints (C2SP signed-note)
	Evidence    Blob     `json:"evidence"` // over the log key, sealed
	// When the process began to wait for the log's witnesses, and so to admit them; zero where there are none.
	Since time.Time `json:"since,omitzero"`
}

// HandedOver says that the witnesses of before the newest manifest which changed them have no word any more: a quorum of each set that
// decided, theirs and the new one, has cosigned a head with the adoption of that manifest in it.
type HandedOver struct {
	Epoch    uint64 `json:"epoch"`    // of the manifest that holds: its witnesses decide alone from here on
	Size     int64  `json:"size"`     // lines of the head
	Cosigned Blob   `json:"cosigned"` // the checkpoint with its cosignatures, as package witness encodes it, sealed
}

// Admitted says that a peer proved itself over the attested channel.
type Admitted struct {
	Office    string    `json:"office"`
	Name      string    `json:"name"`
	Instance  string    `json:"instance"`
	Types     []string  `json:"types"`
	Sets      []string  `json:"sets"`
	Any       []string  `json:"any,omitempty"` // reference fields that were not judged, with reasons
	Simulated string    `json:"simulated,omitempty"`
	Evidence  []Digest  `json:"evidence"`          // of the signed bodies
	Binding   Digest    `json:"binding"`           // SHA-256 of the report data
	Numbers   []Number  `json:"numbers,omitempty"` // signed numbers of the collateral that it was judged by, ascending by name; none in logs of before they were written down
	Kept      Blob      `json:"kept"`              // evidence, collateral, binding preimage and appraisal, sealed
	Issued    time.Time `json:"issued,omitzero"`   // when the evidence was judged; zero in logs of before it was written down
	Expires   time.Time `json:"expires"`
}

// Number is what a maker of processors counts the issues of something signed by: a revocation list's number, TCB info's and a QE
// identity's tcbEvaluationDataNumber. Of one name it never goes down.
type Number struct {
	Name   string `json:"name"`
	Number string `json:"number"` // decimal
}

// RunCreated begins a run.
type RunCreated struct {
	Run      string   `json:"run"`     // 16 hex digits, drawn by the loop
	Request  string   `json:"request"` // the lead's request id: the same one again starts nothing new
	Lead     string   `json:"lead"`
	Manifest Digest   `json:"manifest"`
	Members  []Member `json:"members"` // asked to take part, ascending
	Plan     Plan     `json:"plan"`
	Initial  *Blob    `json:"initial,omitempty"` // initial model, where it is known before a statistics round
	Model    Digest   `json:"model,omitzero"`    // digest of the initial model
}

// Consented says that a member takes part, with the number of records that it declares: its weight in every round.
type Consented struct {
	Run     string `json:"run"`
	Member  Member `json:"member"`
	Records int64  `json:"records"`
}

// Declined says that a member's own policy refused the run, and which of its rules did.
type Declined struct {
	Run    string `json:"run"`
	Member Member `json:"member"`
	Rule   string `json:"rule"`
}

// Left says that a member has withdrawn from a run, invited or taking part: nothing more is asked of it and nothing more is taken
// from it. What the open try had accepted of it before stays part of that try.
type Left struct {
	Run    string `json:"run"`
	Member Member `json:"member"`
	Reason string `json:"reason,omitempty"` // as its administrator worded it
}

// RoundKind is what a round is for.
type RoundKind string

// The kinds of rounds.
const (
	Statistics RoundKind = "statistics" // round 0: means and mean squares of the columns
	Training   RoundKind = "training"
)

// Share is a member's declared weight in a round.
type Share struct {
	Member Member `json:"member"`
	Weight int64  `json:"weight"`
}

// RoundOpened fixes who is asked and so the grid on which the round's updates are summed.
type RoundOpened struct {
	Run      string    `json:"run"`
	Round    int       `json:"round"`
	Try      int       `json:"try"` // from 1
	Kind     RoundKind `json:"kind"`
	Base     *Blob     `json:"base,omitempty"` // the model to train from; absent in a statistics round
	Model    Digest    `json:"model,omitzero"` // digest of the base model
	Selected []Share   `json:"selected"`       // ascending by member
	Bound    float64   `json:"bound"`          // most that any value of the float64 mean can be off, for the quorum's smallest weights
	Deadline time.Time `json:"deadline"`
	Clip     float64   `json:"clip,omitzero"`   // norm to which updates are clipped, where the plan asks for noise
	Early    Early     `json:"early,omitempty"` // Absent where invitations of absent members were not waited for
}

// UpdateAccepted says that a member's update, whole and checked, is part of the open try.
type UpdateAccepted struct {
	Run    string `json:"run"`
	Round  int    `json:"round"`
	Try    int    `json:"try"`
	Member Member `json:"member"`
	Update Digest `json:"update"` // SHA-256(salt, update), salt chosen by the participant
	Weight int64  `json:"weight"`
	Bytes  int64  `json:"bytes"`           // received on the wire for it, encoded
	Resent int64  `json:"resent,omitzero"` // sent more than once since links broke, decoded, as far as its sender and this boot know
	// How many rounds before this one that was whose base model it was trained from: more than 0 under asynchronous strategies only.
	Staleness int `json:"staleness,omitzero"`
}

// UpdateRefused says that an update was not added, and why (a reason of a closed list).
type UpdateRefused struct {
	Run    string `json:"run"`
	Round  int    `json:"round"`
	Try    int    `json:"try"`
	Member Member `json:"member"`
	Update Digest `json:"update"`
	Reason string `json:"reason"`
}

// MasksAgreed says between whom the updates of a try are masked: each of these members has handed every other one a share of what its
// masks are made of, and from here on updates of these are taken, and of nobody else. The masks lie in memory, so a boot ends the try.
type MasksAgreed struct {
	Run     string   `json:"run"`
	Round   int      `json:"round"`
	Try     int      `json:"try"`
	Members []Member `json:"members"` // ascending
}

// Unmasking says whose masked updates are in the sum, and that no other is taken any more. Only when that is history are the members asked
// for the shares by which the masks come off the sum: each shows, of each other member and in this try, one kind of share.
type Unmasking struct {
	Run     string   `json:"run"`
	Round   int      `json:"round"`
	Try     int      `json:"try"`
	Members []Member `json:"members"`         // ascending, of those in MasksAgreed
	Early   Early    `json:"early,omitempty"` // as RoundClosed will say it
}

// RoundFailed ends a try that did not reach its quorum.
type RoundFailed struct {
	Run    string `json:"run"`
	Round  int    `json:"round"`
	Try    int    `json:"try"`
	Reason string `json:"reason"`
	Spared bool   `json:"spared,omitempty"` // it costs none of the plan's tries: a new manifest ended it, or a boot that its masks have not outlived
	Unmade bool   `json:"unmade,omitempty"` // enough updates were there, and no model could be made of them, as who combines says
}

// Contribution is what a member gave to a closed round.
type Contribution struct {
	Member Member `json:"member"`
	Weight int64  `json:"weight"`
	Update Digest `json:"update"`
	Effect Effect `json:"effect,omitempty"` // what the plan's strategy did with it, where that is more than to add it
	// As in UpdateAccepted. What the update weighed in the sum follows from it and the plan's strategy.
	Staleness int `json:"staleness,omitzero"`
}

// Effect is what became of an update under a strategy other than the mean, in the words of package aggregate. "" is the usual: it has part in
// the model as it is.
type Effect string

// Spent is what all that the federation has ever released costs, a round's model included: an upper bound by Rényi divergences. It is zero
// where no plan asked for noise yet.
type Spent struct {
	Epsilon float64 `json:"epsilon"`
	Delta   float64 `json:"delta"`
	Unit    string  `json:"unit,omitempty"` // whom epsilon protects, as in Budget
}

// Budget is the most that all runs of a federation together may spend.
type Budget struct {
	Unit    string  `json:"unit"` // Participant or Record
	Epsilon float64 `json:"epsilon"`
	Delta   float64 `json:"delta"`
}

// The units of privacy: by what neighbours differ.
const (
	Participant = "participant" // a whole hospital: all that one of them gave, or gave nothing
	Record      = "record"      // one row of one hospital, a patient who has no other: it is there or is not
)

// RoundClosed is a round's one commit: model, optimiser's state, members and privacy spent come into being together.
type RoundClosed struct {
	Run     string         `json:"run"`
	Round   int            `json:"round"`
	Try     int            `json:"try"`
	Kind    RoundKind      `json:"kind"`
	Base    Digest         `json:"base,omitzero"` // digest of the model trained from
	Model   Digest         `json:"model"`         // digest of the new model: its version id
	Blob    Blob           `json:"blob"`          // where it lies (safetensors)
	State   *Blob          `json:"state,omitempty"`
	Members []Contribution `json:"members"` // ascending by member
	Spent   Spent          `json:"spent"`
	Clip    float64        `json:"clip,omitzero"` // clip norm of the next round, where it adapts
	Early   Early          `json:"early,omitempty"`
}

// Early is why somebody who was asked was not waited for though there was time; "" where everybody was.
type Early string

// The reasons not to wait.
const (
	ReportGoal Early = "report_goal" // the plan's report goal was reached, or its strategy's buffer is full
	Absent     Early = "absent"      // a quorum was there, and whoever was missing was absent or paused
)

// Metric is one figure of an evaluation.
type Metric struct {
	Set    string  `json:"set"`  // "train" or "test"
	Name   string  `json:"name"` // "loss", "accuracy"
	Value  float64 `json:"value"`
	Count  int64   `json:"count"`  // rows it was taken over
	Better string  `json:"better"` // "min" or "max"
}

// Evaluated holds a member's figures of a model version on its own rows.
type Evaluated struct {
	Run     string   `json:"run"`
	Round   int      `json:"round"`
	Member  Member   `json:"member"`
	Model   Digest   `json:"model"`
	Metrics []Metric `json:"metrics"`
}

// RunEnded is the last fact of a run.
type RunEnded struct {
	Run     string `json:"run"`
	Outcome string `json:"outcome"` // "completed", "failed" or "cancelled"
	Reason  string `json:"reason,omitempty"`
	Early   Early  `json:"early,omitempty"` // Absent where figures of absent members were not waited for
}

// TagMoved makes a tag name another model version.
type TagMoved struct {
	Tag   string `json:"tag"`
	From  Digest `json:"from,omitzero"`
	Model Digest `json:"model"`
	By    string `json:"by"`
}

// Dropped says that the coordinator keeps some blobs of a run that has ended no more: the models that rounds made, and the optimiser's
// states, are deleted from its store after this is history. Round 0 is the statistics round, or else the initial model.
type Dropped struct {
	Run    string   `json:"run"`
	Rounds []int    `json:"rounds"` // ascending; never the newest
	Kept   Duration `json:"kept"`   // how long after its end a run's blobs are kept, as the coordinator is configured
}

func (ManifestAdopted) fact() {}
func (HandedOver) fact()      {}
func (Booted) fact()          {}
func (Admitted) fact()        {}
func (RunCreated) fact()      {}
func (Consented) fact()       {}
func (Declined) fact()        {}
func (Left) fact()            {}
func (RoundOpened) fact()     {}
func (UpdateAccepted) fact()  {}
func (UpdateRefused) fact()   {}
func (MasksAgreed) fact()     {}
func (Unmasking) fact()       {}
func (RoundFailed) fact()     {}
func (RoundClosed) fact()     {}
func (Evaluated) fact()       {}
func (RunEnded) fact()        {}
func (TagMoved) fact()        {}
func (Dropped) fact()         {}

// Plan is what a run shall do, as its lead wrote it and its members consent to it.
type Plan struct {
	Name        string          `json:"name" yaml:"name"`
	Note        string          `json:"note,omitempty" yaml:"note"`
	Trainer     string          `json:"trainer" yaml:"trainer"` // "builtin/logistic"
	Strategy    Strategy        `json:"strategy" yaml:"strategy"`
	Rounds      int             `json:"rounds" yaml:"rounds"`                     // training rounds
	Quorum      int             `json:"quorum" yaml:"quorum"`                     // least number of updates that close a round
	ReportGoal  int             `json:"report_goal,omitempty" yaml:"report_goal"` // updates that close a round at once; 0: all that can come
	Members     []Member        `json:"members,omitempty" yaml:"members"`         // who is asked; empty: all
	Deadline    Duration        `json:"deadline" yaml:"deadline"`                 // of one try
	Grace       Duration        `json:"grace,omitempty" yaml:"grace"`             // how long an absent member is waited for beyond the quorum; 0: 2m
	MaxTime     Duration        `json:"max_time,omitempty" yaml:"max_time"`       // longest that the run may last; 0: no limit
	Tries       int             `json:"tries" yaml:"tries"`                       // most tries of one round
	MaxAbs      float64         `json:"max_abs" yaml:"max_abs"`                   // most that a value of an update may be
	Resolution  float64         `json:"resolution" yaml:"resolution"`             // most that the mean may be off; 0 means 2^-36 of max_abs
	Encoding    string          `json:"encoding,omitempty" yaml:"encoding"`       // codec.Lossy: how updates are made coarser; empty: not at all
	TopK        float64         `json:"top_k,omitempty" yaml:"top_k"`             // share of an update's values that is sent, above 0 to 1; with the encoding top-k alone
	Masks       bool            `json:"masks,omitempty" yaml:"masks"`             // updates are masked: the coordinator's memory holds sums of them only
	Seed        uint64          `json:"seed" yaml:"seed"`                         // at most 2^53-1
	Local       Local           `json:"local" yaml:"local"`
	Standardize *Standardize    `json:"standardize,omitempty" yaml:"standardize"`
	Privacy     *Privacy        `json:"privacy,omitempty" yaml:"privacy"` // noise; absent: none
	Schema      json.RawMessage `json:"schema" yaml:"-"`                  // dataset.Schema, as JSON; package dataset reads it
}

// Strategy names how updates become a new model. Parameters left out have the strategy's defaults; those that are there are numbers
// (float64), truth values or strings. Which there are, and what they may be, package aggregate says.
type Strategy struct {
	Name   string         `json:"name" yaml:"name"` // one of aggregate.Strategies, as "fedavg"
	Params map[string]any `json:"params,omitempty" yaml:"params"`
}

// Local is what each participant does between base and update.
type Local struct {
	Steps        int     `json:"steps" yaml:"steps"`                 // gradient steps a round; 0: as Epochs says
	Epochs       int     `json:"epochs,omitempty" yaml:"epochs"`     // passes over the own records a round; 0: as Steps says
	LearningRate float64 `json:"learning_rate" yaml:"learning_rate"` // of plain gradient descent
	Batch        int     `json:"batch" yaml:"batch"`                 // rows a step; 0: all of them
	L2           float64 `json:"l2,omitempty" yaml:"l2"`             // weight of half the squared norm of the weights, bias left out
}

// Standardize says what columns are standardised by: what round 0 finds, in which the federation learns each column's mean and standard
// deviation, or what the plan gives.
type Standardize struct {
	MaxAbs float64          `json:"max_abs" yaml:"max_abs"`       // most that a mean square may be; 0 where the plan gives
	Given  map[string]Scale `json:"given,omitempty" yaml:"given"` // by a feature's name; a feature that is left out stays as it is. Empty: round 0 finds them
}

// Scale is what a feature is standardised by, (x-mean)/scale: numbers that everybody knows, and that are not of the federation's records.
type Scale struct {
	Mean  float64 `json:"mean" yaml:"mean"`
	Scale float64 `json:"scale" yaml:"scale"` // above 0
}

// Measured reports whether a run of the plan begins with a round of statistics, round 0.
func (p Plan) Measured() bool { return p.Standardize != nil && len(p.Standardize.Given) == 0 }

// Privacy asks for noise on the sum of each round, and says what it is to hide. What it costs is that of noise_multiplier, whether the
// clip norm adapts or not.
type Privacy struct {
	Unit            string        `json:"unit" yaml:"unit"`                         // Participant or Record
	ClipNorm        float64       `json:"clip_norm" yaml:"clip_norm"`               // of an update, of the first round where it adapts; or of a record's gradient
	NoiseMultiplier float64       `json:"noise_multiplier" yaml:"noise_multiplier"` // standard deviation of the noise over the clip norm
	Delta           float64       `json:"delta" yaml:"delta"`                       // for which the run's own epsilon is shown
	Adaptive        *AdaptiveClip `json:"adaptive,omitempty" yaml:"adaptive"`
	// What follows goes with Record only.
	ExpectedRecords int64   `json:"expected_records,omitempty" yaml:"expected_records"` // about how many all members have: known to all, and what sums are divided by
	SamplingRate    float64 `json:"sampling_rate,omitempty" yaml:"sampling_rate"`       // with which each record is in a round, drawn in secret; 0: all are
}

// PerRecord reports whether the plan asks for privacy whose unit is a record: each round is one step along the sum of all records' gradients,
// each clipped.
func (p Plan) PerRecord() bool { return p.Privacy != nil && p.Privacy.Unit == Record }

// AdaptiveClip lets the clip norm follow a quantile of the updates' norms.
type AdaptiveClip struct {
	Quantile     float64 `json:"quantile" yaml:"quantile"`           // share of updates that are not to be clipped
	LearningRate float64 `json:"learning_rate" yaml:"learning_rate"` // of the clip norm
	CountStddev  float64 `json:"count_stddev" yaml:"count_stddev"`   // of the noise on the number of updates that were not clipped
}

// Duration is a time.Duration spelt as in Go ("90s", "2h") in JSON and YAML.
type Duration time.Duration

// MarshalText writes Go's spelling.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads Go's spelling.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("duration: %w", err)
	}
	*d = Duration(v)
	return nil
}

package main

import (
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/ear"
	"consilium.dev/internal/attest/platform"
	"consilium.dev/internal/daemon"
	"consilium.dev/internal/durable"
	"consilium.dev/internal/identity"
	"consilium.dev/internal/manifest"
)

const verifyLong = `Verify judges evidence in the two steps in which a coordinator or a participant does, offline, and says the outcome:

  genuine    its signature chain leads to a manufacturer's root (or to a simulated one that the policy's manifest names), all
             is valid at --at, and it carries --report-data
  admitted   it matches one reference set of --policy wholly; the set is named, with what it does not judge
  refused    with the class of the first check that failed, and the reason

Without --policy only the first question is asked. Without --report-data nobody asks for whom the evidence was made: it may be
a copy of anybody's. --platform takes a type as manifests spell it; without it, it is guessed. --collateral is a folder with
certificates and revocation lists (DER or PEM), Intel's tcb_info.json, qe_identity.json and issuer chains, a domain's event log as ccel.bin; nothing is fetched.

With --ear and --ear-key the outcome is written, for other tools, as an EAT Attestation Result (draft-ietf-rats-ear): a JSON Web
Token with AR4SI's trustworthiness vector, signed by the key (EdDSA). It says less than this command does. --policy and
--report-data are asked for then: who reads a token cannot see what was left out.`

// verifyOptions are the flags of attest verify.
type verifyOptions struct {
	platform, evidence, collateral, policy, reportData, at string
	ear, earKey                                            string
}

// verdict is what attest verify says.
type verdict struct {
	Platform   string         `json:"platform"`
	At         time.Time      `json:"at"`
	Verdict    string         `json:"verdict"` // genuine, admitted or refused
	Class      string         `json:"class,omitempty"`
	Reason     string         `json:"reason,omitempty"`
	Hint       string         `json:"hint,omitempty"`
	Bound      bool           `json:"bound"` // the report data was compared
	Collateral []string       `json:"collateral"`
	Cautions   []string       `json:"cautions,omitempty"`   // what genuine evidence does not say, or says against itself, where no policy judges it
	Sets       []string       `json:"sets,omitempty"`       // of the policy, that it matches
	NotJudged  []string       `json:"not_judged,omitempty"` // by them, each with its reason
	Claims     map[string]any `json:"claims,omitempty"`     // of evidence that is genuine
	EAR        string         `json:"ear,omitempty"`        // file of the attestation result
	claims     *attest.Claims
	appraisal  *attest.Appraisal
	refusal    *attest.Error
}

func attestVerify(a *app) *cobra.Command {
	var o verifyOptions
	cmd := &cobra.Command{
		Use:   "verify --evidence FILE",
		Short: "Judge a file of evidence: is it genuine, and does it match a manifest?",
		Long:  verifyLong,
		Example: "  consilium attest verify --platform sev-snp --evidence report.bin --collateral certs/ --policy manifest.yaml\n" +
			"  consilium attest verify --platform nitro --evidence document.cbor --at 2025-12-25T13:15:38Z -o json",
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, err := o.judge(cmd)
			if err != nil {
				return err
			}
			if err := a.emit("attest.verify", v, v.show); err != nil {
				return err
			}
			if v.Verdict == "refused" {
				return errSaid{kindRefused}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.platform, "platform", "", "type of evidence, as manifests spell it: sev-snp, nitro, tdx, sgx")
	f.StringVar(&o.evidence, "evidence", "", "file with the evidence, or an audit copy's kept/N.json")
	f.StringVar(&o.collateral, "collateral", "", "folder with certificates, revocation lists and the like")
	f.StringVar(&o.policy, "policy", "", "manifest with the reference sets: YAML, built or signed")
	f.StringVar(&o.reportData, "report-data", "", "bytes that the evidence must carry, in hex")
	f.StringVar(&o.at, "at", "", "instant to judge at, RFC 3339 (default: now)")
	f.StringVar(&o.ear, "ear", "", "file to write the outcome to as an EAT Attestation Result, for other tools")
	f.StringVar(&o.earKey, "ear-key", "", "key that signs it: a file that consilium init made")
	return cmd
}

// judge makes both steps. Its error is the command line's or a file's; a refusal is a verdict.
func (o *verifyOptions) judge(cmd *cobra.Command) (*verdict, error) {
	if o.evidence == "" {
		return nil, usageError("name the file with --evidence", "what should be judged?")
	}
	at := time.Now().UTC()
	if o.at != "" {
		var err error
		if at, err = time.Parse(time.RFC3339, o.at); err != nil {
			return nil, usageError("write it as 2026-03-01T12:00:00Z", "--at %q is no instant", o.at)
		}
	}
	if (o.ear == "") != (o.earKey == "") || o.ear != "" && (o.policy == "" || o.reportData == "") {
		return nil, usageError("name all four: --policy, --report-data, --ear, --ear-key",
			"an attestation result is of a policy and of evidence for one session, and is signed")
	}
	var reportData []byte
	if o.reportData != "" {
		var err error
		if reportData, err = hex.DecodeString(o.reportData); err != nil {
			return nil, usageError("write it in hex digits", "--report-data: %w", err)
		}
	}
	e, err := readEvidence(o.evidence, o.platform)
	if err != nil {
		return nil, err
	}
	policy, err := openPolicy(o.policy)
	if err != nil {
		return nil, err
	}
	v, all, err := verifierOf(e.Type, policy)
	if err != nil {
		return nil, err
	}
	c, taken, err := readCollateral(o.collateral, e, all)
	if err != nil {
		return nil, err
	}
	out := &verdict{Platform: e.Type.String(), At: at, Verdict: "genuine", Bound: reportData != nil, Collateral: append([]string{}, taken...)}
	claims, err := genuine(v, e, reportData, at, c)
	if err == nil {
		out.claims, out.Claims = &claims, jsonClaims(&claims)
		if policy != nil {
			err = out.match(policy)
		} else {
			out.Cautions = cautions(&claims)
		}
	}
	if err != nil {
		if err := out.refused(err); err != nil {
			return nil, err
		}
		out.Hint = o.hint(out, len(e.Collateral) > 0)
	}
	if o.ear == "" {
		return out, nil
	}
	return out, out.export(o, e, policy)
}

// hint says what may be done about a refusal that may be the command line's. brought is whether collateral came with the evidence.
func (o *verifyOptions) hint(v *verdict, brought bool) string {
	switch {
	case v.refusal.Class == attest.ClassTime && o.at == "":
		return "it was judged as of now: --at judges as of the instant when the evidence was made; newer collateral comes by consilium collateral fetch"
	case v.refusal.Class != attest.ClassChain:
		return ""
	case o.collateral == "" && !brought:
		return "certificates that did not come with the evidence are read from the folder that --collateral names; consilium collateral fetch fills one"
	case o.collateral != "" && len(v.Collateral) == 0:
		return "nothing in " + name(o.collateral) + " belongs to this evidence: is it the folder? consilium collateral show says what it has, collateral fetch fills it"
	case o.policy == "":
		return "if it is of a simulated machine: name the manifest that has its root with --policy"
	}
	return ""
}

// cautions are what whoever reads "genuine" alone would take for granted.
func cautions(c *attest.Claims) []string {
	var all []string
	var debug bool
	var tcb *attest.IntelTCB
	switch {
	case c.SNP != nil:
		debug = c.SNP.Debug
	case c.Nitro != nil:
		debug = c.Nitro.Debug
	case c.TDX != nil:
		debug, tcb = c.TDX.Debug, &c.TDX.Platform.TCB
	case c.SGX != nil:
		debug, tcb = c.SGX.Debug, &c.SGX.Platform.TCB
	}
	if debug {
		all = append(all, "DEBUG: its host can look into it; no manifest admits it")
	}
	switch {
	case tcb == nil:
	case !tcb.Checked:
		all = append(all, "its TCB was not checked: no TCB info of its kind of platform was at hand")
	case tcb.Status != "UpToDate":
		all = append(all, "its TCB is "+name(tcb.Status)+" by Intel's TCB info")
	}
	if !c.RevocationChecked {
		all = append(all, "revocation was not checked")
	}
	return all
}

// match holds claims against the policy's sets.
func (v *verdict) match(policy *manifest.Manifest) error {
	appraisal, err := policy.Match(*v.claims, v.At)
	if err != nil {
		return err
	}
	v.appraisal = &appraisal
	v.Verdict, v.Sets, v.NotJudged = "admitted", appraisal.Sets, appraisal.Any
	return nil
}

// export writes the outcome as an EAT Attestation Result.
func (v *verdict) export(o *verifyOptions, e attest.Evidence, policy *manifest.Manifest) error {
	key, err := identity.Open("file:" + o.earKey)
	if err != nil {
		return refusedError("it is a file that consilium init made", "opening the key of the attestation result: %w", err)
	}
	token, err := ear.Sign(ear.Result{
		Type: e.Type, Evidence: e.Body, Claims: v.claims, Appraisal: v.appraisal, Refusal: v.refusal, Policy: policy.Digest(),
		Issued: time.Now(), Build: "consilium " + daemon.Version, Verifier: "consilium.dev",
	}, key)
	if err != nil {
		return err
	}
	v.EAR = o.ear
	return unwritten("--ear", durable.Replace(o.ear, token, 0o644))
}

// verifierOf returns the verifier of a type, and all that there are, which trust the simulated roots that the policy names.
func verifierOf(t attest.Type, policy *manifest.Manifest) (attest.Verifier, []attest.Verifier, error) {
	all, err := verifiersUnder(policy)
	if err != nil {
		return nil, nil, err
	}
	var known []string
	for _, v := range all {
		if v.Type() == t {
			return v, all, nil
		}
		known = append(known, v.Type().String())
	}
	return nil, nil, usageError("this version judges "+strings.Join(known, ", "), "evidence of the type %s cannot be judged yet", t)
}

// verifiersUnder returns all verifiers, which trust the simulated roots that the policy, if there is one, names.
func verifiersUnder(policy *manifest.Manifest) ([]attest.Verifier, error) {
	var o platform.Options
	if policy != nil {
		o.SimulatedRoots = policy.SimulatedRoots()
	}
	all, err := platform.Verifiers(o)
	if err != nil {
		return nil, refusedError("look at the manifest's roots", "%w", err)
	}
	return all, nil
}

// refused makes a refusal the verdict; other errors it returns.
func (v *verdict) refused(err error) error {
	var refusal *attest.Error
	if !errors.As(err, &refusal) {
		return err
	}
	v.refusal = refusal
	v.Verdict, v.Class, v.Reason = "refused", refusal.Class.String(), refusal.Err.Error()
	return nil
}

func (v *verdict) show(w *page) {
	w.printf("verdict     %s", v.Verdict)
	if v.Class != "" {
		w.printf(", %s: %s", v.Class, name(v.Reason))
	}
	if v.Hint != "" {
		w.printf("\nhint        %s", v.Hint)
	}
	w.printf("\nplatform    %s\nat          %s\n", v.Platform, v.At.Format(time.RFC3339))
	if v.Bound {
		w.printf("bound       the report data was compared\n")
	} else {
		w.printf("bound       NOT ASKED: it may be a copy of evidence that was made for anybody\n")
	}
	if len(v.Collateral) > 0 {
		w.printf("collateral  %s\n", names(v.Collateral))
	}
	if v.claims != nil && v.claims.Simulated != "" {
		w.printf("enclave     SIMULATED, under the root %s\n", name(v.claims.Simulated))
	}
	for _, caution := range v.Cautions {
		w.printf("caution     %s\n", caution)
	}
	if len(v.Sets) > 0 {
		w.printf("matches     %s\n", names(v.Sets))
	}
	for _, reason := range slices.Sorted(slices.Values(v.NotJudged)) {
		w.printf("not judged  %s\n", name(reason))
	}
	if v.EAR != "" {
		w.printf("ear         %s\n", name(v.EAR))
	}
	if v.claims != nil {
		w.tables(claimsTable(v.claims))
	}
}

func attestShow(a *app) *cobra.Command {
	var typeName string
	cmd := &cobra.Command{
		Use:   "show FILE",
		Short: "Print what evidence says, field by field, without judging it",
		Long: "Show prints every field of a piece of evidence. Nothing is verified but its form: anybody can write a file that says\n" +
			"anything. consilium attest verify judges.",
		Args: oneArgument("file"),
		RunE: func(_ *cobra.Command, args []string) error {
			e, err := readEvidence(args[0], typeName)
			if err != nil {
				return err
			}
			claims, err := platform.OpenUnverified(e.Type, e.Body)
			if err != nil {
				return refusedError("is it evidence of another platform?", "%s: %w", args[0], err)
			}
			fields := jsonClaims(&claims)
			for _, judged := range []string{"simulated", "revocation_checked", "collateral_from"} { // what only judging could say
				delete(fields, judged)
			}
			data := struct {
				File     string         `json:"file"`
				Platform string         `json:"platform"`
				Verified bool           `json:"verified"`
				Says     map[string]any `json:"says"`
			}{args[0], e.Type.String(), false, fields}
			return a.emit("attest.show", data, func(w *page) {
				w.printf("%s\nplatform    %s; NOT VERIFIED\n", name(args[0]), e.Type)
				t := newTable("FIELD", "VALUE")
				for _, one := range claimsOf(&claims) {
					if _, shown := fields[strings.SplitN(one.path, ".", 2)[0]]; shown {
						t.AppendRow([]any{one.path, name(one.value)})
					}
				}
				w.tables(t)
			})
		},
	}
	cmd.Flags().StringVar(&typeName, "platform", "", "type of evidence, as manifests spell it (default: as it looks)")
	return cmd
}

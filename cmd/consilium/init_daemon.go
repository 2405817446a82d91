package main

import (
	"path/filepath"

	"github.com/spf13/cobra"
)

// daemonKind is one of the two programs that run for long.
type daemonKind struct {
	office string // and the kind of the JSON
	config string
	yaml   string
	short  string
	long   string
	entry  string // where its identity key goes in manifest.yaml
}

func initMember(a *app) *cobra.Command {
	return initDaemon(a, daemonKind{
		office: "member", config: "participant.yaml", yaml: participantYAML, entry: "members",
		short: "Make the identity key and the participant.yaml of a member",
		long: "Member makes what a member's participant needs: its identity key, the key-encryption key of its own disk, and a\n" +
			"participant.yaml in which the platform, the coordinator, the data and the owner's policy have to be filled in.",
	})
}

func initCoordinator(a *app) *cobra.Command {
	return initDaemon(a, daemonKind{
		office: "coordinator", config: "coordinator.yaml", yaml: coordinatorYAML, entry: "coordinators",
		short: "Make the identity key and the coordinator.yaml of a coordinator",
		long: "Coordinator makes what a coordinator needs: its identity key, the key-encryption key under which log and models\n" +
			"rest, and a coordinator.yaml in which the platform and the anchor have to be filled in. Keep a copy of kek.json in a\n" +
			"safe place: without it log and models are lost.",
	})
}

func initDaemon(a *app, k daemonKind) *cobra.Command {
	var called string
	cmd := &cobra.Command{
		Use:   k.office + " DIR --name NAME",
		Short: k.short,
		Long:  k.long,
		Args:  oneArgument("folder"),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := checkName(called); err != nil {
				return err
			}
			f, err := newFolder(args[0], identityFile, kekFile, k.config)
			if err != nil {
				return err
			}
			data, err := f.key(identityFile)
			if err == nil {
				err = f.kek()
			}
			if err == nil {
				err = f.text(k.config, fill(k.yaml, called))
			}
			if err != nil {
				return err
			}
			data.Name, data.Files = called, f.files
			return a.emitMade(k.office, data, data.Key,
				"next: standard output has the identity key of "+called+" for manifest.yaml, under "+k.entry,
				"then fill in "+filepath.Join(args[0], k.config))
		},
	}
	cmd.Flags().StringVar(&called, "name", "", "its name in the manifest")
	return cmd
}

const enclaveYAML = `name: NAME
manifest: manifest.dsse.json        # put the manifest that the members signed beside this file
anchor: ""                          # fill in: the manifest's digest, 64 hex digits, as manifest build printed it
identity: file:identity.key         # NAME's identity key
platform: simulated:machine.json    # the machine; consilium init simulated-machine makes this one. On hardware: auto, or sev-snp, tdx, sgx, nitro
store: dir:store                    # where it keeps what must outlive it, sealed
kek: file:kek.json                  # the key-encryption key that seals it; or a service's: vault: aws: gcp: azure: (docs/operating.md)
skew: 2m                            # most that the clocks of two sides may differ
swap: warn                          # if memory could be swapped to a disk: warn, or refuse to start
# collateral: {fetch: online}       # fetch certificates and revocation lists from AMD and Intel; without it, they come with evidence (docs/operating.md)
`

const participantYAML = `# A member's participant. Paths are relative to this file.
` + enclaveYAML + `coordinator:
  name: ""                          # fill in: its name in the manifest
  address: ""                       # fill in: host:port
data:                               # nothing of these files leaves this machine but updates and figures
  records: ""                       # fill in: CSV with the records; a plan's schema says how it is read
  split: ""                         # fill in: CSV with the columns line and set: which rows train, which test
policy:                             # what the data's owner allows; what is not listed is refused
  leads: []                         # fill in: people whose runs may use the data
  strategies: []                    # fill in: how updates may be combined, for example [fedavg]
  trainers: []                      # fill in: what may train on the data, for example [builtin/logistic]
  least_participants: 0             # fill in: fewest members whose updates may be combined, 2 or more
  least_records: 10                 # fewest rows to train on, and fewest rows of which figures are given away
  # masks: required                 # refuse runs whose updates come to the coordinator's enclave without masks
  schemas: []                       # digests of the schemas that may read the records; none here: any schema of a plan
`

const coordinatorYAML = `# The coordinator: control plane and aggregator. Paths are relative to this file.
` + enclaveYAML + `listen: 0.0.0.0:7443                # address at which members and people reach it
# limits:                           # what peers can make it spend; these are the defaults
#   uploads: 1073741824             # bytes of updates in memory at once
#   connections: 2048               # half of them at most with peers that have not proven their name
#   connections_per_address: 128    # of those, from one address
#   handshakes: 256                 # at once with peers that have not proven their name
#   handshakes_per_address: 8       # of those, from one address
#   handshakes_per_second: 200      # that begin
#   streams: 16                     # open calls on one connection
#   message: 2097152                # bytes of one message from a peer
#   progress: 1m                    # longest that an upload may stand still
#   connection_age: 1h              # longest life of a connection; what is under way goes on over the next
#   open_runs: 64                   # runs that have not ended
#   starts_per_day: 100             # runs that one lead starts in 24 hours
`

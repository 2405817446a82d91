#!/usr/bin/env bash
# Makes a history like the one in epochs/, as make.sh makes the one in history/: a manifest is published while a run trains, which
# goes on without the hospital that is gone, and another run ends for want of it. The copy is in epochs/ then.
set -euo pipefail
export CONSILIUM_CONFIG=demo/lead/consilium.yaml
rm -rf demo/*/store demo/manifest.epoch-2.dsse.json epochs
: >council.log
declare -A pid
trap 'kill -KILL "${pid[@]}" 2>/dev/null || true' EXIT

await() { # TEXT COUNT: until the coordinator has said it so many times
	for _ in $(seq 3000); do
		if [ "$(grep -c -- "$1" council.log || true)" -ge "$2" ]; then return; fi
		sleep 0.02
	done
	echo "the coordinator does not say: $1" >&2
	exit 1
}
plan() { # NAME QUORUM
	sed -e "s/^name: .*/name: $1/" -e "s/^rounds: .*/rounds: 3/" -e "s/^quorum: [0-9]*/quorum: $2/" -e "s/^tries: .*/tries: 1/" \
		-e '/^standardize:/,+1d' demo/plan.yaml >"$1.yaml"
}

sed -i 's/least_participants: .*/least_participants: 3/' demo/switzerland/participant.yaml
bin/coordinator --config demo/council/coordinator.yaml >>council.log 2>&1 & pid[council]=$!
await serving 1
for m in cleveland switzerland longbeach budapest; do
	bin/participant --config "demo/$m/participant.yaml" >"$m.log" 2>&1 & pid[$m]=$!
done
await '"office": "participant"' 4

plan goes-on 3
bin/consilium run start goes-on.yaml
await 'round closed' 1
kill -STOP "${pid[budapest]}"
plan ends 4
bin/consilium run start ends.yaml
await consented 7

sed -e '/name: longbeach, governance/d' -e 's/^epoch: .*/epoch: 2/' -e "s/^prev: .*/prev: \"$(bin/consilium manifest build demo/manifest.yaml --out one.json)\"/" \
	demo/manifest.yaml >two.yaml
bin/consilium manifest build two.yaml
rm -f two.dsse.json
bin/consilium manifest sign two.json --key demo/governance/budapest/governance.key --out two.dsse.json
bin/consilium manifest sign two.dsse.json --key demo/governance/cleveland/governance.key
bin/consilium manifest sign two.dsse.json --key demo/governance/switzerland/governance.key
bin/consilium manifest publish two.dsse.json
kill -CONT "${pid[budapest]}"
bin/consilium run watch goes-on --timeout 60s
bin/consilium audit export epochs

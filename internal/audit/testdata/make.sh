#!/usr/bin/env bash
# Makes a history like the one beside it, in a folder with the programs in bin/ and the federation that bin/hospitals left in demo/
# (make demo leaves both): bash make.sh. The copy is in history/ then.
set -euo pipefail
export CONSILIUM_CONFIG=demo/lead/consilium.yaml
rm -rf demo/*/store history
: >council.log
declare -A pid
trap 'kill -KILL "${pid[@]}" 2>/dev/null || true' EXIT

council() { bin/coordinator --config demo/council/coordinator.yaml >>council.log 2>&1 & pid[council]=$!; }
count() { grep -c -- "$1" council.log || true; }
await() { # TEXT COUNT: until the coordinator has said it so many times
	for _ in $(seq 3000); do
		if [ "$(count "$1")" -ge "$2" ]; then return; fi
		sleep 0.02
	done
	echo "the coordinator does not say: $1" >&2
	exit 1
}
plan() { # NAME ROUNDS QUORUM DEADLINE TRIES
	sed -e "s/^name: .*/name: $1/" -e "s/^rounds: .*/rounds: $2/" -e "s/^quorum: [0-9]*/quorum: $3/" -e "s/^deadline: .*/deadline: $4/" \
		-e "s/^tries: .*/tries: $5/" demo/plan.yaml >"$1.yaml"
}

sed -i 's/strategies: .*/strategies: [fedavg]/' demo/longbeach/participant.yaml
sed -i 's/least_participants: .*/least_participants: 3/' demo/switzerland/participant.yaml
council
await serving 1
for m in cleveland budapest switzerland longbeach; do
	bin/participant --config "demo/$m/participant.yaml" >"$m.log" 2>&1 & pid[$m]=$!
done
await '"office": "participant"' 4

# The coordinator is killed while three of the four updates of round 1 are there.
plan heart-disease 3 4 10m 3
bin/consilium run start heart-disease.yaml
await 'round closed' 1
kill -STOP "${pid[longbeach]}"
await 'update accepted' 7
kill -KILL "${pid[council]}"
wait "${pid[council]}" || true
kill -CONT "${pid[longbeach]}"
council
await serving 2
bin/consilium run watch heart-disease --timeout 60s

plan adam 2 3 10m 3
sed -i -e 's/name: fedavg/name: fedadam/' -e '/^standardize:/,+1d' -e '/^quorum/a members: [switzerland, cleveland, budapest]' adam.yaml
bin/consilium run start adam.yaml --watch --timeout 60s

plan declined 2 4 10m 3
sed -i 's/name: fedavg/name: fedadam/' declined.yaml
bin/consilium run start declined.yaml --watch --timeout 60s || true

plan late 9 4 2s 2
closed=$(count 'round closed')
bin/consilium run start late.yaml
await 'round closed' $((closed + 1))
kill -STOP "${pid[switzerland]}"
bin/consilium run watch late --timeout 60s || true
kill -CONT "${pid[switzerland]}"

bin/consilium audit export history

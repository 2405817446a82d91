# Every target but lint-more needs Go, make, git and the basic tools of a POSIX system, and nothing else.
.POSIX:
.PHONY: all build demo demo-robust test check generate fuzz bench soak simulate reliability lint-more clean

# The same sources give the same bytes, whatever folder and machine they are built on.
GOBUILD = CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags=-buildid=

all: build

# The three programs: bin/coordinator, bin/participant, bin/consilium.
build:
	$(GOBUILD) -o bin/ ./cmd/coordinator ./cmd/participant ./cmd/consilium

# Four hospitals train one model, in ./demo. See examples/hospitals.
demo: build
	$(GOBUILD) -o bin/hospitals ./examples/hospitals/demo
	bin/hospitals

# What each strategy makes of a hostile member, and what privacy of a patient costs, as tables of accuracies; some seconds, in one process.
# See examples/hospitals/robust.
demo-robust:
	$(GOBUILD) -o bin/robust ./examples/hospitals/robust
	bin/robust

# All tests, with the race detector where a C compiler is there. What needs more than Go skips and says why.
test:
	go build -buildvcs=false -o bin/testreport ./.ci/testreport
	bin/testreport ./... ./.ci/testreport ./.ci/bench

# All that a change must pass. Installs what it needs.
check:
	bash .ci/run

# The code made from proto/*.proto, and the assembly that adds updates. Both are committed; this gives the same bytes.
generate:
	go run -modfile=.ci/tools.mod ./.ci/protogen
	go run -modfile=.ci/tools.mod ./.ci/kernels

# Each fuzz target for a while: make fuzz FUZZTIME=10m
FUZZTIME = 30s
fuzz:
	sh .ci/fuzz $(FUZZTIME)

# What is held to the machine's limits, as ratios with their targets; exits 1 below any. Some minutes; best on a quiet machine.
# make bench ONLY=sum measures some rows, make bench KEEP=-keep writes what was reached to .ci/bench/baseline.txt.
ONLY =
KEEP =
bench:
	go run ./.ci/bench -only '$(ONLY)' $(KEEP)

# A federation whose members come and go for so many minutes, and what it leaves in the coordinator's memory: make soak MINUTES=60
MINUTES = 10
soak:
	go test ./cmd/coordinator -run '^TestSoak$$' -v -count=1 -timeout 0 -soak $(MINUTES)m

# Whole federations in virtual time, one from each of so many seeds from SEED on: make simulate SEEDS=100000 SEED=1
SEEDS = 1000
SEED = 1
simulate:
	go test -c -o bin/simulate ./internal/simulation
	bin/simulate -seeds $(SEEDS) -seed $(SEED)

# The table of docs/reliability.md, measured here; about an hour.
reliability:
	@sh .ci/reliability

# What is too slow, or needs too much, for every change: more linters, the proto style, known vulnerabilities.
lint-more:
	go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0 run --default=none \
		--enable=bodyclose,errorlint,exhaustive,nilerr,nolintlint,unparam ./...
	go run github.com/bufbuild/buf/cmd/buf@v1.75.0 lint proto
	go run golang.org/x/vuln/cmd/govulncheck@v1.9.0 ./...

clean:
	rm -rf bin demo

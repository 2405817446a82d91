package main

// rows are what is held to a target, in the order of the table. A row is one metric of one benchmark, which measures both sides of the
// ratio by turns; whoever adds one adds it here, and the benchmark is run.
var rows = []row{
	{what: "exact sum / copy, one core, plain Go", pkg: "./internal/aggregate", bench: "Add/kernel=loop/updates=4", metric: "of-copy", least: 0.20},
	{
		what: "exact sum / copy, one core, assembly", pkg: "./internal/aggregate", bench: "Add/kernel=assembly/updates=4", metric: "of-copy", least: 0.60,
		absent: "this processor has no AVX2",
	},
	{what: "the same, one update a pass", pkg: "./internal/aggregate", bench: "Add/kernel=assembly/updates=1", metric: "of-copy", absent: "this processor has no AVX2"},
	{what: "exact sum, two cores / one", pkg: "./internal/coordinator", bench: "AddAll", metric: "two-cores/one", least: 1.6, absent: "this machine has one core"},
	{what: "peak memory / (8P + uploads + 128 MiB), 2 participants", pkg: "./internal/coordinator", bench: "Peak/participants=2", metric: "of-bound", most: 1, absent: "measured on Linux"},
	{what: "peak memory / (8P + uploads + 128 MiB), 32 participants", pkg: "./internal/coordinator", bench: "Peak/participants=32", metric: "of-bound", most: 1, absent: "measured on Linux"},
	{what: "peak memory / 8P, 32 participants", pkg: "./internal/coordinator", bench: "Peak/participants=32", metric: "of-8P", absent: "measured on Linux"},
	{what: "peak memory / 4 GiB, model of 1 GiB, 32 participants", pkg: "./internal/coordinator", bench: "PeakLarge", metric: "of-4GiB", most: 1, absent: "measured on Linux"},
	{what: "one stream over the channel / TLS 1.3 alone", pkg: "./internal/transport", bench: "Stream", metric: "of-tls", least: 0.7},
	{what: "a whole round / TLS 1.3 alone, 4 participants, 100 MB", pkg: "./internal/coordinator", bench: "Round/participants=4", metric: "of-tls", most: 1.25, absent: "measured on Linux"},
	{what: "a whole round / TLS 1.3 alone, 16 participants, 10 MB", pkg: "./internal/coordinator", bench: "Round/participants=16", metric: "of-tls", most: 1.25, absent: "measured on Linux"},
	{what: "the processors' time of the same, 4 participants, 100 MB", pkg: "./internal/coordinator", bench: "Round/participants=4", metric: "cpu-of-tls", absent: "measured on Linux"},
	{what: "the processors' time of the same, 16 participants, 10 MB", pkg: "./internal/coordinator", bench: "Round/participants=16", metric: "cpu-of-tls", absent: "measured on Linux"},
	{what: "SEV-SNP evidence, ours / go-sev-guest", pkg: "./internal/attest/platform", bench: "Verify/sev-snp/ours", metric: "verifications/s", over: "Verify/sev-snp/go-sev-guest"},
	{what: "Nitro evidence, ours / nitrite", pkg: "./internal/attest/platform", bench: "Verify/nitro/ours", metric: "verifications/s", over: "Verify/nitro/nitrite"},
	{what: "TDX evidence, ours / go-tdx-guest", pkg: "./internal/attest/platform", bench: "Verify/tdx/ours", metric: "verifications/s", over: "Verify/tdx/go-tdx-guest"},
}

package audit

// Split is what reads log.jsonl.
var Split = split

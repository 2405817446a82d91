#!/usr/bin/env python3
"""Recomputes the golden transcript of the attested channel from what it begins from.

    python3 transcript.py [transcript.json]

Written from docs/protocol.md with Python's standard library only, so that it shares nothing with the channel's
own code. It names every value that differs and then exits with 1.
"""

import hashlib
import hmac
import json
import os
import struct
import sys

REPORT = b"consilium report_data v1"
PERSON = b"consilium person v1"
LOG_KEY = b"consilium log-key v1"
VERSION = 1
ACCEPT = 1
CLIENT, SERVER = 1, 2
EVENT_LOG, INITDATA = 7, 10


def lp(*parts):
    """Each part after its length, four bytes, most significant first."""
    return b"".join(struct.pack(">I", len(p)) + p for p in parts)


def u8(n):
    return struct.pack(">B", n)


def sha256(b):
    return hashlib.sha256(b).digest()


def hello(side, s, me, peer):
    types = bytes(p["type"] for p in me["evidence"])
    return lp(
        struct.pack(">H", VERSION), u8(side), u8(me["office"]), bytes.fromhex(me["nonce"]), s["federation"].encode(),
        bytes.fromhex(s["manifest"]), struct.pack(">Q", s["epoch"]), me["name"].encode(), peer["name"].encode(), types,
    )


def collateral(p):
    return [(i["kind"], bytes.fromhex(i["bytes"])) for i in p["collateral"] or []]


def evidence(me):
    out = b""
    for p in me["evidence"]:
        items = b"".join(lp(u8(kind), body) for kind, body in collateral(p))
        out += lp(u8(p["type"]), bytes.fromhex(p["body"]), items)
    return out


def device_bundle(me):
    devices = [lp(u8(p["type"]), bytes.fromhex(p["body"])) for p in me["evidence"] if 32 <= p["type"] <= 63]
    covered = [lp(u8(kind), body) for p in me["evidence"] for kind, body in collateral(p) if kind in (EVENT_LOG, INITDATA)]
    return b"".join(devices + covered)


def preimage(side, s, th, attester, verifier):
    ekm = bytes.fromhex(s["ekm_c"] if side == CLIENT else s["ekm_s"])
    return lp(
        REPORT, struct.pack(">BBQQ", side, attester["office"], s["epoch"], 0), ekm, th,
        sha256(bytes.fromhex(attester["spki"])), sha256(bytes.fromhex(verifier["spki"])),
        bytes.fromhex(verifier["nonce"]), bytes.fromhex(attester["nonce"]),
        s["federation"].encode(), attester["name"].encode(), verifier["name"].encode(), bytes.fromhex(s["manifest"]),
        hashlib.sha384(device_bundle(attester)).digest(),
    )


def finished(side, s, th, evidence_s, evidence_c):
    message = u8(side) + th + sha256(evidence_s) + sha256(evidence_c) + u8(ACCEPT)
    return hmac.new(bytes.fromhex(s["ekm_f"]), message, hashlib.sha256).digest()


def session(s):
    c, v = s["client"], s["server"]
    hello_c, hello_s = hello(CLIENT, s, c, v), hello(SERVER, s, v, c)
    th = sha256(lp(hello_c, hello_s))
    preimage_c, preimage_s = preimage(CLIENT, s, th, c, v), preimage(SERVER, s, th, v, c)
    b_c, b_s = hashlib.sha512(preimage_c).digest(), hashlib.sha512(preimage_s).digest()
    evidence_c, evidence_s = evidence(c), evidence(v)
    return {
        "hello_c": hello_c,
        "hello_s": hello_s,
        "th": th,
        "device_seed_c": lp(bytes.fromhex(s["ekm_c"]), bytes.fromhex(v["nonce"])),
        "device_seed_s": lp(bytes.fromhex(s["ekm_s"]), bytes.fromhex(c["nonce"])),
        "preimage_c": preimage_c,
        "preimage_s": preimage_s,
        "b_c": b_c,
        "b_s": b_s,
        "person_input_c": lp(PERSON, b_c),
        "evidence_c": evidence_c,
        "evidence_s": evidence_s,
        "finished_c": finished(CLIENT, s, th, evidence_s, evidence_c),
        "finished_s": finished(SERVER, s, th, evidence_s, evidence_c),
        "frame_hello_c": struct.pack(">BI", 1, len(hello_c)) + hello_c,
    }


def log_key(k):
    pre = lp(LOG_KEY, bytes.fromhex(k["spki"]), k["federation"].encode(), bytes.fromhex(k["manifest"]), bytes.fromhex(k["head"]))
    return {"preimage": pre, "b": hashlib.sha512(pre).digest()}


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "transcript.json")
    with open(path, encoding="utf-8") as f:
        golden = json.load(f)
    if golden["format"] != "consilium.transcript/1" or not golden["sessions"] or not golden["log_keys"]:
        sys.exit("%s is no transcript that this script knows" % path)
    checked, wrong = 0, 0
    pairs = [(s["name"], s["derived"], session(s)) for s in golden["sessions"]]
    for i, k in enumerate(golden["log_keys"]):
        pairs.append(("log key %d" % i, {name: k[name] for name in ("preimage", "b")}, log_key(k)))
    for where, want, got in pairs:
        if set(want) != set(got):
            sys.exit("%s: values %s, want %s" % (where, sorted(want), sorted(got)))
        for name, value in got.items():
            checked += 1
            if value.hex() != want[name]:
                wrong += 1
                print("%s: %s is %s, the file says %s" % (where, name, value.hex(), want[name]))
    print("%d values computed, %d differ" % (checked, wrong))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()

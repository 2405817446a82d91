"""Computes the root hash of a copy's lines (RFC 6962, section 2.1) and compares it with the copy's checkpoint."""
import base64, hashlib, pathlib, sys


def root(leaves):
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + root(leaves[:k]) + root(leaves[k:])).digest()


copy = pathlib.Path(sys.argv[1])
lines = (copy / "log.jsonl").read_bytes().split(b"\n")[:-1]
got = root([hashlib.sha256(b"\x00" + line).digest() for line in lines])
origin, size, want = (copy / "checkpoint").read_text(encoding="utf-8").split("\n")[:3]
print(f"{len(lines)} lines, root {got.hex()}")
if int(size) != len(lines) or base64.b64decode(want) != got:
    sys.exit("NOT what the checkpoint says")

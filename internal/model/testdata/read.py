"""Reads a safetensors file with nothing but Python's standard library.

Usage: read.py FILE. Prints a JSON object: the tensors with the bits of their values, and the SHA-256 of the file that this
script would write for them. It was written from the format's description, not from the Go code beside it.
"""

import hashlib
import json
import struct
import sys


def read(raw):
    """Returns [(name, shape, bits)] in the order of the data."""
    (length,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8 : 8 + length].decode("utf-8"))
    data = raw[8 + length :]
    if "__metadata__" in header:
        sys.exit("the file holds metadata")
    tensors, end = [], 0
    for name, info in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        if info["dtype"] != "F32":
            sys.exit(f"tensor {name} has type {info['dtype']}")
        begin, stop = info["data_offsets"]
        count = 1
        for dimension in info["shape"]:
            count *= dimension
        if begin != end or stop - begin != 4 * count:
            sys.exit(f"tensor {name} lies at {begin}..{stop}, want {end}..{end + 4 * count}")
        tensors.append((name, info["shape"], struct.unpack(f"<{count}I", data[begin:stop])))
        end = stop
    if end != len(data):
        sys.exit(f"the file has {len(data)} bytes of data, its tensors {end}")
    return tensors


def write(tensors):
    """Returns the canonical file: names ascending, no white space, header padded to eight bytes."""
    header, data = {}, b""
    for name, shape, bits in sorted(tensors, key=lambda tensor: tensor[0].encode("utf-8")):
        part = struct.pack(f"<{len(bits)}I", *bits)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


with open(sys.argv[1], "rb") as source:
    found = read(source.read())
json.dump(
    {
        "tensors": [{"name": name, "shape": shape, "bits": bits} for name, shape, bits in found],
        "again": hashlib.sha256(write(found)).hexdigest(),
    },
    sys.stdout,
)

#!/usr/bin/env python3
"""Prints formats.txt: what two implementations of package mask have to agree on, by example.

Written from the package's comments with Python's standard library only, so that it shares nothing with the code.
"""

import hashlib
import hmac
import struct

P = 2**255 - 19

def x25519(k, u=b"\x09" + bytes(31)):  # RFC 7748, section 5, with plain formulas
    n = int.from_bytes(k, "little") & ~7 & (2**254 - 1) | 2**254
    x1 = int.from_bytes(u, "little") & (2**255 - 1)
    x2, z2, x3, z3 = 1, 0, x1, 1
    for bit in reversed(range(255)):
        swap = n >> bit & 1
        if swap: x2, z2, x3, z3 = x3, z3, x2, z2
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        x3, z3 = (d * a + c * b) ** 2 % P, x1 * (d * a - c * b) ** 2 % P
        aa, bb = a * a % P, b * b % P
        x2, z2 = aa * bb % P, (aa - bb) * (aa + 121665 * (aa - bb)) % P
        if swap: x2, z2, x3, z3 = x3, z3, x2, z2
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")

def hkdf(secret, info):  # RFC 5869, no salt, 32 bytes
    key = hmac.digest(bytes(32), secret, "sha256")
    return hmac.digest(key, info + b"\x01", "sha256")

def times(a, b):  # GF(2^8), FIPS 197
    p = 0
    while b:
        if b & 1: p ^= a
        a = a << 1 ^ (0x11b if a & 0x80 else 0)
        b >>= 1
    return p

def box(v):  # FIPS 197, section 5.1.1: the inverse, then an affine map
    inverse = next((w for w in range(256) if times(v, w) == 1), 0)
    return 0x63 ^ inverse ^ rotate(inverse, 1) ^ rotate(inverse, 2) ^ rotate(inverse, 3) ^ rotate(inverse, 4)

def rotate(v, r): return (v << r | v >> (8 - r)) & 0xff

BOX = [box(v) for v in range(256)]

def aes(key, block):  # FIPS 197, 256-bit keys
    w, constant = [list(key[i:i + 4]) for i in range(0, 32, 4)], 1
    for i in range(8, 60):
        t = w[-1]
        if i % 8 == 0:
            t = [BOX[v] for v in t[1:] + t[:1]]
            t[0] ^= constant
            constant = times(constant, 2)
        elif i % 8 == 4:
            t = [BOX[v] for v in t]
        w.append([a ^ b for a, b in zip(w[-8], t)])
    keys = [sum(w[i:i + 4], []) for i in range(0, 60, 4)]
    s = [a ^ b for a, b in zip(block, keys[0])]
    for r in range(1, 15):
        s = [BOX[s[(i + 4 * (i % 4)) % 16]] for i in range(16)]
        if r < 14:
            s = [times(s[i], 2) ^ times(s[i // 4 * 4 + (i + 1) % 4], 3) ^ s[i // 4 * 4 + (i + 2) % 4] ^ s[i // 4 * 4 + (i + 3) % 4] for i in range(16)]
        s = [a ^ b for a, b in zip(s, keys[r])]
    return bytes(s)

def gcm(key, nonce, plain, data):  # NIST SP 800-38D
    h = int.from_bytes(aes(key, bytes(16)), "big")
    def product(x):
        z, v = 0, h
        for bit in reversed(range(128)):
            if x >> bit & 1: z ^= v
            v = v >> 1 ^ (0xe1 << 120 if v & 1 else 0)
        return z
    pad = lambda b: b + bytes(-len(b) % 16)
    blocks = range(0, len(plain), 16)
    stream = b"".join(aes(key, nonce + struct.pack(">I", 2 + i // 16)) for i in blocks)
    sealed = bytes(a ^ b for a, b in zip(plain, stream))
    y, hashed = 0, pad(data) + pad(sealed) + struct.pack(">QQ", 8 * len(data), 8 * len(sealed))
    for i in range(0, len(hashed), 16):
        y = product(y ^ int.from_bytes(hashed[i:i + 16], "big"))
    tag = y ^ int.from_bytes(aes(key, nonce + b"\0\0\0\1"), "big")
    return nonce + sealed + tag.to_bytes(16, "big")

def lp(*fields): return b"".join(struct.pack(">I", len(f)) + f for f in fields)

MANIFEST, RUN, ROUND, TRY = bytes([1, 2, 3]) + bytes(29), b"r-7", 3, 2

def bind(label): return lp(label, MANIFEST, RUN) + struct.pack(">QQ", ROUND, TRY)

def public(secret):
    return x25519(secret[:32]) + x25519(secret[32:64]) + hashlib.sha256(lp(b"consilium mask self v1", secret[64:])).digest()

a, b = bytes(range(1, 97)), bytes(range(101, 197))
A, B = public(a), public(b)
pair = bind(b"consilium mask pair v1") + lp(b"alpha", A[32:64], b"beta", B[32:64])
seal = bind(b"consilium mask seal v1") + lp(b"alpha", A[:32], b"beta", B[:32])
shares = b"\x09" + b"\x01" + bytes(31) + b"\x02" + bytes(31)
for name, value in (
    ("public keys", A),
    ("digest of an announcement", hashlib.sha256(bind(b"consilium mask announcement v1") + lp(b"alpha", A)).digest()),
    ("seed of a pair", hkdf(x25519(a[32:64], B[32:64]), pair)),
    ("sealed shares", gcm(hkdf(x25519(a[:32], B[:32]), seal), bytes(12), shares, seal)),
    ("seed of the graph", hashlib.sha256(bind(b"consilium mask graph v1")).digest()),
):
    print(f"{name}: {value.hex()}")
stream = b"".join(aes(a[:32], struct.pack(">QQ", 0, i)) for i in range(2))
print("first words of a mask:", *(f"{word:016x}" for word in struct.unpack("<4Q", stream)))

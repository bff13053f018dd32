#!/usr/bin/env python3
"""Second, independent implementation of the handshake and key schedule of proto::noise.

Written from the specification (design/NOISE-QUIC.md) and the Noise specification, sharing no code with the
Rust crate. Prints `profile.name = hex` lines; tests/noise_vectors.rs replays the same inputs through the
real sessions and compares every value, on the wire and off it.
"""
import hashlib
import hmac
import sys

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def sha256(data):
    return hashlib.sha256(data).digest()


def mac(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


def public(private):
    key = X25519PrivateKey.from_private_bytes(private)
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def dh(private, peer):
    key = X25519PrivateKey.from_private_bytes(private)
    return key.exchange(X25519PublicKey.from_public_bytes(peer))


# ---- Noise ----------------------------------------------------------------------------------


def noise_hkdf(ck, ikm, outputs):
    temp = mac(ck, ikm)
    out, last = [], b""
    for i in range(1, outputs + 1):
        last = mac(temp, last + bytes([i]))
        out.append(last)
    return out


class Symmetric:
    def __init__(self, name, prologue):
        self.h = name + bytes(32 - len(name)) if len(name) <= 32 else sha256(name)
        self.ck, self.k, self.n = self.h, None, 0
        self.mix_hash(prologue)

    def mix_hash(self, data):
        self.h = sha256(self.h + data)

    def mix_key(self, ikm):
        self.ck, self.k = noise_hkdf(self.ck, ikm, 2)
        self.n = 0

    def mix_key_and_hash(self, ikm):
        self.ck, temp, self.k = noise_hkdf(self.ck, ikm, 3)
        self.n = 0
        self.mix_hash(temp)

    def encrypt_and_hash(self, plain):
        if self.k is None:
            out = plain
        else:
            nonce = bytes(4) + self.n.to_bytes(8, "little")
            out = ChaCha20Poly1305(self.k).encrypt(nonce, plain, self.h)
            self.n += 1
        self.mix_hash(out)
        return out

    def split(self):
        return noise_hkdf(self.ck, b"", 2)


# (sender is initiator?, tokens); keys: i/r statics and ephemerals
XK = dict(name=b"Noise_XK_25519_ChaChaPoly_SHA256", pre_responder=True, psk=False,
          messages=[["e", "es"], ["e", "ee"], ["s", "se"]])
XXPSK0 = dict(name=b"Noise_XXpsk0_25519_ChaChaPoly_SHA256", pre_responder=False, psk=True,
              messages=[["psk", "e"], ["e", "ee", "s", "es"], ["s", "se"]])


def handshake(pattern, prologue, keys, psk, payloads):
    """Runs both roles at once; returns messages and the Symmetric state after each."""
    state = Symmetric(pattern["name"], prologue)
    if pattern["pre_responder"]:
        state.mix_hash(public(keys["rs"]))
    out, snapshots = [], []
    for index, tokens in enumerate(pattern["messages"]):
        side = "i" if index % 2 == 0 else "r"
        message = b""
        for token in tokens:
            if token == "psk":
                state.mix_key_and_hash(psk)
            elif token == "e":
                e = public(keys[side + "e"])
                message += e
                state.mix_hash(e)
                if pattern["psk"]:
                    state.mix_key(e)
            elif token == "s":
                message += state.encrypt_and_hash(public(keys[side + "s"]))
            else:  # first letter: initiator's key, second: responder's
                state.mix_key(dh(keys["i" + token[0]], public(keys["r" + token[1]])))
        message += state.encrypt_and_hash(payloads[index])
        out.append(message)
        snapshots.append((state.h, state.split()))
    return out, snapshots


# ---- mnq1 schedule ---------------------------------------------------------------------------


def expand(prk, info, length):
    out, last, i = b"", b"", 1
    while len(out) < length:
        last = mac(prk, last + info + bytes([i]))
        out, i = out + last, i + 1
    return out[:length]


def expand_label(secret, label, context, length):
    label = b"mnq1 " + label
    info = length.to_bytes(2, "big") + bytes([len(label)]) + label
    return expand(secret, info + bytes([len(context)]) + context, length)


def public_constants(version_name):
    return mac(b"mnq1 public constants", version_name)


def initial(version_name, dcid):
    salt = expand_label(public_constants(version_name), b"initial salt", b"", 32)
    prk = mac(salt, dcid)
    return expand_label(prk, b"client in", b"", 32), expand_label(prk, b"server in", b"", 32)


def level(snapshot, labels):
    h, (k1, k2) = snapshot
    prk = mac(h, k1 + k2)
    return [expand_label(prk, label, h, 32) for label in labels]


def packet(aes, secret, number, header, payload):
    """RFC 9001 packet protection; the packet number is the last two bytes of the header."""
    key = expand_label(secret, b"quic key", b"", 32)
    iv = expand_label(secret, b"quic iv", b"", 12)
    hp = expand_label(secret, b"quic hp", b"", 32)
    nonce = bytes(a ^ b for a, b in zip(iv, bytes(4) + number.to_bytes(8, "big")))
    body = (AESGCM if aes else ChaCha20Poly1305)(key).encrypt(nonce, payload, header)
    sample = body[2:18]  # 4 bytes after the start of the 2-byte packet number
    if aes:
        mask = Cipher(algorithms.AES(hp), modes.ECB()).encryptor().update(sample)[:5]
    else:
        mask = Cipher(algorithms.ChaCha20(hp, sample), None).encryptor().update(bytes(5))
    first = header[0] ^ (mask[0] & (0x0F if header[0] & 0x80 else 0x1F))
    number_bytes = bytes(a ^ b for a, b in zip(header[-2:], mask[1:]))
    return bytes([first]) + header[1:-2] + number_bytes + body


def retry_tag(version_name, odcid, retry):
    base = expand_label(public_constants(version_name), b"retry", b"", 32)
    key = expand_label(base, b"quic key", b"", 16)
    nonce = expand_label(base, b"quic iv", b"", 12)
    return AESGCM(key).encrypt(nonce, b"", bytes([len(odcid)]) + odcid + retry)


def export(exporter, label, context, length):
    digest = sha256(len(label).to_bytes(8, "big") + label + context)
    return expand_label(exporter, b"exporter", digest, length)


# ---- wire -------------------------------------------------------------------------------------


def field(tag, value):
    return bytes([tag]) + len(value).to_bytes(2, "big") + value


def frame(kind, body):
    return bytes([kind]) + len(body).to_bytes(3, "big") + body


def alpn(name):
    return field(2, bytes([len(name)]) + name)


def emit(profile, **values):
    for name, value in values.items():
        print(f"{profile}.{name} = {value.hex()}")


def vector(profile, version, pattern, aes, psk_id, psk):
    name = version.to_bytes(4, "big")
    keys = {k: bytes([i + 1]) * 32 for i, k in enumerate(["is", "ie", "rs", "re"])}
    context = b"vector context"
    prologue = b"mnq1 prologue" + name
    for part in (psk_id, context):
        prologue += len(part).to_bytes(2, "big") + part
    protocol = b"mesh/1"
    # Default transport parameters encode to nothing.
    payloads = [
        field(1, b"") + alpn(protocol),
        field(1, b"") + alpn(protocol) + field(3, b"server payload"),
        field(3, b"client payload"),
    ]
    messages, snapshots = handshake(pattern, prologue, keys, psk, payloads)
    c_hs, s_hs, s_fin = level(snapshots[1], [b"c hs", b"s hs", b"s fin"])
    c_ap, s_ap, exporter = level(snapshots[2], [b"c ap", b"s ap", b"exp"])
    dcid = bytes.fromhex("8394c8f03e515708")
    c_in, s_in = initial(name, dcid)
    emit(
        profile,
        m1=frame(1, psk_id + messages[0]),
        m2=frame(2, messages[1]),
        finished=frame(3, mac(s_fin, snapshots[1][0])),
        m3=frame(4, messages[2]),
        hash=snapshots[2][0],
        export=export(exporter, b"label", b"context", 48),
        client_initial_secret=c_in,
        server_initial_secret=s_in,
        client_handshake_packet=packet(aes, c_hs, 2, bytes.fromhex("e1") + name + b"\x00\x00\x40\x16" + b"\x00\x02", b"handshake payload"),
        server_handshake_packet=packet(aes, s_hs, 3, bytes.fromhex("e1") + name + b"\x00\x00\x40\x16" + b"\x00\x03", b"handshake payload"),
        client_packet=packet(aes, c_ap, 654, bytes.fromhex("41") + b"connection" + b"\x02\x8e", b"one rtt payload"),
        server_packet=packet(aes, s_ap, 655, bytes.fromhex("41") + b"connection" + b"\x02\x8f", b"one rtt payload"),
        client_packet_updated=packet_updated(aes, c_ap, 656),
        retry_tag=retry_tag(name, dcid, b"\xf0" + name + b"\x00\x08" + dcid + b"token"),
    )


def packet_updated(aes, secret, number):
    """After one key update: new packet keys, header protection unchanged."""
    updated = expand_label(secret, b"quic ku", b"", 32)
    key = expand_label(updated, b"quic key", b"", 32)
    iv = expand_label(updated, b"quic iv", b"", 12)
    nonce = bytes(a ^ b for a, b in zip(iv, bytes(4) + number.to_bytes(8, "big")))
    return (AESGCM if aes else ChaCha20Poly1305)(key).encrypt(nonce, b"updated payload", b"header")


def main():
    vector("hop", 0x4D4E4831, XK, True, b"", None)
    vector("e2e", 0x4D4E4531, XXPSK0, False, b"\x77" * 16, b"\x99" * 32)


if __name__ == "__main__":
    sys.exit(main())

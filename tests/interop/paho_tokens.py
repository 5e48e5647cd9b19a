"""paho-mqtt comes in with tokens that OpenSSL has signed: paho_tokens.py HOST PORT PREFIX DIR.

DIR has `secret`, `rsa.key`, `p256.key` and `ed25519.key`. Ends with status 0 when every good token lets its client in, every
bad one does not, and the client of one that ends is sent away.
"""

import base64
import hashlib
import hmac
import json
import os
import subprocess
import sys
import tempfile
import threading
import time

import paho.mqtt.client as mqtt

HOST, PORT, PREFIX, DIR = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
ARRIVES_S = 60


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def openssl(*args, data):
    with tempfile.NamedTemporaryFile(dir=DIR) as file:
        file.write(data)
        file.flush()
        command = ["openssl", *args, file.name] if args[0] == "dgst" else ["openssl", *args, "-in", file.name]
        return subprocess.run(command, check=True, capture_output=True).stdout


def raw_from_der(der, half):
    """The two numbers of an ECDSA signature, as JWS wants them (RFC 7518, 3.4)."""
    at = 2
    numbers = b""
    for _ in range(2):
        length = der[at + 1]
        numbers += der[at + 2 : at + 2 + length].lstrip(b"\0").rjust(half, b"\0")
        at += 2 + length
    return numbers


def sign(algorithm, message):
    key = lambda name: os.path.join(DIR, name)
    if algorithm == "HS256":
        with open(key("secret"), "rb") as file:
            return hmac.new(file.read(), message, hashlib.sha256).digest()
    if algorithm == "RS256":
        return openssl("dgst", "-sha256", "-sign", key("rsa.key"), data=message)
    if algorithm == "PS256":
        padding = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"]
        return openssl("dgst", "-sha256", *padding, "-sign", key("rsa.key"), data=message)
    if algorithm == "ES256":
        return raw_from_der(openssl("dgst", "-sha256", "-sign", key("p256.key"), data=message), 32)
    if algorithm == "EdDSA":
        return openssl("pkeyutl", "-sign", "-rawin", "-inkey", key("ed25519.key"), data=message)
    raise ValueError(algorithm)


def token(algorithm, claims, signed_as=None):
    head = b64(json.dumps({"alg": algorithm, "typ": "JWT"}).encode())
    message = f"{head}.{b64(json.dumps(claims).encode())}".encode()
    return f"{message.decode()}.{b64(sign(signed_as or algorithm, message))}"


class Client:
    def __init__(self, password, version=mqtt.MQTTv5):
        self.connected, self.gone = threading.Event(), threading.Event()
        self.code = self.end = None
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, f"{PREFIX}{time.monotonic_ns()}", protocol=version)
        self.client.username_pw_set("whoever", password)
        self.client.on_connect = self.on_connect
        self.client.on_disconnect = self.on_disconnect
        self.client.connect(HOST, PORT)
        self.client.loop_start()
        assert self.connected.wait(ARRIVES_S), "no CONNACK"

    def on_connect(self, client, userdata, flags, reason, properties):
        self.code = reason.value
        self.connected.set()

    def on_disconnect(self, client, userdata, flags, reason, properties):
        self.end = reason.value
        self.gone.set()
        # It is not to come again.
        client.disconnect()

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


def code(password, version=mqtt.MQTTv5):
    client = Client(password, version)
    client.close()
    return client.code


def main():
    hour = int(time.time()) + 3600
    claims = {"sub": "al", "exp": hour}
    for algorithm in ["HS256", "RS256", "PS256", "ES256", "EdDSA"]:
        good = token(algorithm, claims)
        assert code(good) == 0, algorithm
        # Version 3.1.1 says the same to who is let in.
        assert code(good, mqtt.MQTTv311) == 0, algorithm
        message, tag = good.rsplit(".", 1)
        flipped = ("A" if tag[5] != "A" else "B").join([tag[:5], tag[6:]])
        assert code(f"{message}.{flipped}") == 0x87, f"{algorithm}: another signature"
        assert code(token(algorithm, {"sub": "al", "exp": hour - 7200})) == 0x87, f"{algorithm}: expired"
    # A public key is no secret, and no signature is none.
    assert code(token("HS256", claims, signed_as="RS256")) == 0x87
    none = b64(b'{"alg":"none"}') + "." + b64(json.dumps(claims).encode()) + "."
    assert code(none) == 0x87

    # The broker takes ten seconds' difference of the clocks for nothing.
    short = Client(token("ES256", {"sub": "al", "exp": int(time.time()) - 8}))
    assert short.code == 0
    assert short.gone.wait(ARRIVES_S), "the token has ended and the client is still there"
    assert short.end == 0xA0, short.end
    short.close()


main()

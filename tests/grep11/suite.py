"""The shared part of the tests of the GREP11 server.

tests/grep11.rs starts the servers and sets the environment: KEYWARD_ADDRESS, KEYWARD_CA, KEYWARD_DIALECT,
KEYWARD_OTHER_ADDRESS (a second server with the same master key), KEYWARD_NEXT_ADDRESS (a server with the
next master key of the first), KEYWARD_STRICT_ADDRESS and KEYWARD_TLS_ADDRESS (servers with the same master key and
other control points) and KEYWARD_TOKEN.
"""

import functools
import os
import unittest

import grpc
from cryptography.hazmat.primitives import hashes, serialization

import client as api
from client import Refused, standard

MESSAGE = b"signed by the unit, verified by another library"


@functools.cache
def connect(variable):
    with open(os.environ["KEYWARD_CA"], "rb") as ca:
        credentials = grpc.ssl_channel_credentials(ca.read())
    return api.Client(os.environ[variable], credentials, os.environ["KEYWARD_DIALECT"])


def c():
    """The server under test."""
    return connect("KEYWARD_ADDRESS")


def other():
    """Another server with the same master key."""
    return connect("KEYWARD_OTHER_ADDRESS")


def strict():
    """A server with the same master key, and the control points strict."""
    return connect("KEYWARD_STRICT_ADDRESS")


def tls():
    """A server with the same master key, and the control points tls."""
    return connect("KEYWARD_TLS_ADDRESS")


def after():
    """A server with the next master key."""
    return connect("KEYWARD_NEXT_ADDRESS")


class Suite(unittest.TestCase):
    maxDiff = None

    def refused(self, code, function, *arguments, **keywords):
        """Expects a call to fail with the number of a name, and returns the message."""
        with self.assertRaises(Refused) as caught:
            function(*arguments, **keywords)
        name = caught.exception.message.split(":")[0]
        self.assertEqual(name, code, caught.exception.message)
        return caught.exception.message


def public(blob):
    return serialization.load_der_public_key(standard(blob))


HASHES = {
    "SHA_1": hashes.SHA1,
    "SHA224": hashes.SHA224,
    "SHA256": hashes.SHA256,
    "SHA384": hashes.SHA384,
    "SHA512": hashes.SHA512,
    "SHA512_224": hashes.SHA512_224,
    "SHA512_256": hashes.SHA512_256,
    "IBM_SHA512_224": hashes.SHA512_224,
    "IBM_SHA512_256": hashes.SHA512_256,
    "IBM_SHA3_224": hashes.SHA3_224,
    "IBM_SHA3_256": hashes.SHA3_256,
    "IBM_SHA3_384": hashes.SHA3_384,
    "IBM_SHA3_512": hashes.SHA3_512,
}


def digest(name, data):
    hashing = hashes.Hash(HASHES[name]())
    hashing.update(data)
    return hashing.finalize()


def splits(data, block=16):
    """Ways to cut data into parts: at every place around the blocks, and byte by byte."""
    yield [data]
    for at in range(0, len(data) + 1):
        if at % block in (0, 1, block - 1):
            yield [data[:at], data[at:]]
    yield [data[at : at + 7] for at in range(0, len(data), 7)]
    yield [data[at : at + 1] for at in range(0, min(len(data), 40))] + [data[40:]]

"""ECDSA, Ed25519 and key agreement."""

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF

import client as api
import grep11_pb2 as pb
from client import OIDS, mech, number, standard
from suite import MESSAGE, Suite, c, public


CURVES = {
    "P-256": (ec.SECP256R1, 32),
    "P-384": (ec.SECP384R1, 48),
    "P-521": (ec.SECP521R1, 66),
    "secp256k1": (ec.SECP256K1, 32),
}

ECDSA = {
    "CKM_ECDSA_SHA1": hashes.SHA1,
    "CKM_ECDSA_SHA224": hashes.SHA224,
    "CKM_ECDSA_SHA256": hashes.SHA256,
    "CKM_ECDSA_SHA384": hashes.SHA384,
    "CKM_ECDSA_SHA512": hashes.SHA512,
    "CKM_IBM_ECDSA_SHA224": hashes.SHA224,
    "CKM_IBM_ECDSA_SHA256": hashes.SHA256,
    "CKM_IBM_ECDSA_SHA384": hashes.SHA384,
    "CKM_IBM_ECDSA_SHA512": hashes.SHA512,
}


def dss(signature):
    half = len(signature) // 2
    return encode_dss_signature(
        int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
    )


class Ecdsa(Suite):
    def test_hashed(self):
        for curve, (_, length) in CURVES.items():
            private, public_key = c().ec(OIDS[curve], CKA_SIGN=True)
            self.assertEqual(public(public_key).curve.name, CURVES[curve][0].name)
            for name, hash_type in ECDSA.items():
                with self.subTest(f"{curve} {name}"):
                    signature = c().sign(name, private, MESSAGE)
                    self.assertEqual(len(signature), 2 * length)
                    public(public_key).verify(dss(signature), MESSAGE, ec.ECDSA(hash_type()))
                    c().verify(name, public_key, MESSAGE, signature)
                    c().verify(name, standard(public_key), MESSAGE, signature)
                    state = c().call("SignInit", Mech=mech(name), PrivKey=private).State
                    for part in (MESSAGE[:5], MESSAGE[5:]):
                        state = c().call("SignUpdate", State=state, Data=part).State
                    signature = c().call("SignFinal", State=state).Signature
                    public(public_key).verify(dss(signature), MESSAGE, ec.ECDSA(hash_type()))
                    state = c().call("VerifyInit", Mech=mech(name), PubKey=public_key).State
                    for part in (MESSAGE[:11], MESSAGE[11:]):
                        state = c().call("VerifyUpdate", State=state, Data=part).State
                    c().call("VerifyFinal", State=state, Signature=signature)
                    self.refused("CKR_SIGNATURE_INVALID", c().verify, name, public_key, b"another", signature)
                    self.refused(
                        "CKR_SIGNATURE_LEN_RANGE", c().verify, name, public_key, MESSAGE, dss(signature)
                    )

    def test_digests_of_any_length(self):
        for curve in CURVES:
            private, public_key = c().ec(OIDS[curve], CKA_SIGN=True)
            for length in (1, 19, 20, 28, 31, 32, 33, 48, 64):
                with self.subTest(f"{curve} {length}"):
                    for value in (bytes(range(1, length + 1)), b"\xff" * length):
                        signature = c().sign("CKM_ECDSA", private, value)
                        verifies_number(public(public_key), value, signature)
                        c().verify("CKM_ECDSA", public_key, value, signature)
                        self.refused(
                            "CKR_SIGNATURE_INVALID",
                            c().verify,
                            "CKM_ECDSA",
                            public_key,
                            bytes([value[0] ^ 1]) + value[1:],
                            signature,
                        )
            self.refused("CKR_DATA_LEN_RANGE", c().sign, "CKM_ECDSA", private, b"")
        for curve in ("P-256", "P-384", "secp256k1"):
            private, public_key = c().ec(OIDS[curve], CKA_SIGN=True)
            value = bytes(range(200))
            verifies_number(public(public_key), value, c().sign("CKM_ECDSA", private, value))

    def test_long_digests_on_p521(self):
        # The order of P-521 has 521 bits: the last seven bits of 66 bytes do not count.
        private, public_key = c().ec(OIDS["P-521"], CKA_SIGN=True)
        for length in (65, 66, 67, 200):
            value = bytes([0x85]) + bytes(range(1, length))
            signature = c().sign("CKM_ECDSA", private, value)
            self.assertEqual(len(signature), 132)
            self.assertTrue(verifies_on_p521(public(public_key), value, signature))
            c().verify("CKM_ECDSA", public_key, value, signature)
            counted = value[:64] + bytes([value[64] ^ 1]) + value[65:]
            self.assertFalse(verifies_on_p521(public(public_key), counted, signature))
            self.refused("CKR_SIGNATURE_INVALID", c().verify, "CKM_ECDSA", public_key, counted, signature)
            if length >= 66:
                c().verify("CKM_ECDSA", public_key, value[:65] + bytes([value[65] ^ 0x7F]) + b"more", signature)

    def test_raw_takes_one_piece_only(self):
        private, public_key = c().ec(OIDS["P-256"], CKA_SIGN=True)
        state = c().call("SignInit", Mech=mech("CKM_ECDSA"), PrivKey=private).State
        self.refused("CKR_FUNCTION_NOT_SUPPORTED", c().call, "SignUpdate", State=state, Data=bytes(32))
        signature = c().call("Sign", State=state, Data=bytes(32)).Signature
        state = c().call("VerifyInit", Mech=mech("CKM_ECDSA"), PubKey=public_key).State
        c().call("Verify", State=state, Data=bytes(32), Signature=signature)

    def test_known_signatures_are_accepted(self):
        # RFC 6979, A.2.5: P-256, SHA-256, message "sample".
        point = bytes.fromhex(
            "0460fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6"
            "7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299"
        )
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
        spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        signature = bytes.fromhex(
            "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716"
            "f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8"
        )
        c().verify("CKM_ECDSA_SHA256", spki, b"sample", signature)
        self.refused("CKR_SIGNATURE_INVALID", c().verify, "CKM_ECDSA_SHA256", spki, b"Sample", signature)


def verifies_on_p521(key, value, signature):
    """Verifies by the definition (FIPS 186-5, 6.4.2), because no available library takes more than 64 bytes."""
    p, order = 2**521 - 1, ORDERS["secp521r1"]

    def add(first, second):
        if first is None or second is None:
            return first or second
        (x1, y1), (x2, y2) = first, second
        if x1 == x2 and (y1 + y2) % p == 0:
            return None
        if first == second:
            slope = 3 * (x1 * x1 - 1) * pow(2 * y1, -1, p)
        else:
            slope = (y2 - y1) * pow(x2 - x1, -1, p)
        x = (slope * slope - x1 - x2) % p
        return x, (slope * (x1 - x) - y1) % p

    def times(number, point):
        result = None
        for bit in bin(number)[2:]:
            result = add(result, result)
            if bit == "1":
                result = add(result, point)
        return result

    r, s = int.from_bytes(signature[:66], "big"), int.from_bytes(signature[66:], "big")
    assert 0 < r < order and 0 < s < order
    e = int.from_bytes(value, "big") >> max(0, 8 * len(value) - 521)
    inverse = pow(s, -1, order)
    base = ec.derive_private_key(1, ec.SECP521R1()).public_key().public_numbers()
    public_numbers = key.public_numbers()
    point = add(
        times(e * inverse % order, (base.x, base.y)),
        times(r * inverse % order, (public_numbers.x, public_numbers.y)),
    )
    return point is not None and point[0] % order == r


def verifies_number(key, value, signature):
    """Verifies by the definition (FIPS 186-5, 6.4.2), because the library takes digests of fixed lengths only."""
    curve = key.curve
    order = ORDERS[curve.name]
    bits = order.bit_length()
    e = int.from_bytes(value, "big") >> max(0, 8 * len(value) - bits)
    # A digest of the length that the library requires, with the same number.
    fitted = e.to_bytes((bits + 7) // 8, "big")
    if len(fitted) == 66:
        # P-521: longer digests have their own test.
        assert fitted[:2] == b"\0\0"
        fitted = fitted[2:]
    hash_type = {32: hashes.SHA256, 48: hashes.SHA384, 64: hashes.SHA512}[len(fitted)]
    key.verify(dss(signature), fitted, ec.ECDSA(Prehashed(hash_type())))


ORDERS = {
    "secp256r1": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "secp384r1": int(
        "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16
    ),
    "secp521r1": int(
        "1fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffa51868783bf2f966b7fcc0148f709a5d0"
        "3bb5c9b8899c47aebb6fb71e91386409",
        16,
    ),
    "secp256k1": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141,
}


class Ed25519(Suite):
    def test_signs(self):
        private, public_key = c().ec(OIDS["Ed25519"], CKA_SIGN=True)
        self.assertTrue(public_key.startswith(api.ED25519_EP11))
        signature = c().sign("CKM_IBM_ED25519_SHA512", private, MESSAGE)
        public(public_key).verify(signature, MESSAGE)
        for form in (public_key, api.first_element(public_key), standard(public_key)):
            c().verify("CKM_IBM_ED25519_SHA512", form, MESSAGE, signature)
        self.refused("CKR_SIGNATURE_INVALID", c().verify, "CKM_IBM_ED25519_SHA512", public_key, b"", signature)
        self.refused(
            "CKR_SIGNATURE_LEN_RANGE", c().verify, "CKM_IBM_ED25519_SHA512", public_key, b"", signature[1:]
        )
        self.refused("CKR_KEY_TYPE_INCONSISTENT", c().sign, "CKM_ECDSA", private, bytes(32))

    def test_known_answer(self):
        # RFC 8032, 7.1, test 3.
        seed = bytes.fromhex("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7")
        pkcs8 = bytes.fromhex("302e020100300506032b657004220420") + seed
        key, check_sum = c().take_in(pkcs8, "CKK_EC", CKA_SIGN=True)
        self.assertEqual(
            c().sign("CKM_IBM_ED25519_SHA512", key, bytes.fromhex("af82")).hex(),
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
            "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        )
        self.assertEqual(check_sum[-4:].hex(), "000000ff")
        self.assertEqual(
            standard(check_sum)[-32:].hex(), "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025"
        )


class Agreement(Suite):
    def agreed(self, mechanism, private, **template):
        kek = c().kek()
        template = dict(CKA_EXTRACTABLE=True, **template)
        response = c().call("DeriveKey", Mech=mechanism, BaseKey=private, Template=template)
        cbc = mech("CKM_AES_CBC_PAD", iv=bytes(16))
        wrapped = c().call("WrapKey", Mech=cbc, Key=response.NewKeyBytes, KeK=kek).Wrapped
        value = c().decrypt(cbc, kek, wrapped)
        self.assertEqual(int.from_bytes(response.CheckSum[-4:], "big"), 8 * len(value))
        return value

    def test_ecdh_with_another_library(self):
        for curve in ("P-256", "P-384", "P-521"):
            private, public_key = c().ec(OIDS[curve], CKA_DERIVE=True)
            peer = ec.generate_private_key(CURVES[curve][0]())
            shared = peer.exchange(ec.ECDH(), public(public_key))
            point = peer.public_key().public_bytes(
                serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
            )
            octets = bytes([4, len(point)] if len(point) < 128 else [4, 0x81, len(point)]) + point
            with self.subTest(curve):
                spki = peer.public_key().public_bytes(
                    serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
                )
                for sent in (point, octets, spki):
                    value = self.agreed(mech("CKM_ECDH1_DERIVE", iv=sent), private)
                    self.assertEqual(value, shared)
                null = pb.ECDH1DeriveParm(Kdf=1, PublicData=point)
                aes = self.agreed(
                    mech("CKM_ECDH1_DERIVE", ECDH1DeriveParameter=null),
                    private,
                    CKA_KEY_TYPE=number("CKK_AES"),
                    CKA_VALUE_LEN=16,
                )
                self.assertEqual(aes, shared[-16:])
                default = self.agreed(
                    mech("CKM_ECDH1_DERIVE", ECDH1DeriveParameter=null),
                    private,
                    CKA_KEY_TYPE=number("CKK_AES"),
                    CKA_VALUE_LEN=0,
                )
                self.assertEqual(default, shared[-32:])
                self.x963(private, point, shared)
                self.refused(
                    "CKR_PUBLIC_KEY_INVALID",
                    self.agreed,
                    mech("CKM_ECDH1_DERIVE", iv=point[:-1] + bytes([point[-1] ^ 1])),
                    private,
                )
                unused = pb.ECDH1DeriveParm(Kdf=1, PublicData=point, SharedData=b"unused")
                self.refused(
                    "CKR_MECHANISM_PARAM_INVALID",
                    self.agreed,
                    mech("CKM_ECDH1_DERIVE", ECDH1DeriveParameter=unused),
                    private,
                )
                self.refused(
                    "CKR_KEY_SIZE_RANGE",
                    self.agreed,
                    mech("CKM_ECDH1_DERIVE", iv=point),
                    private,
                    CKA_VALUE_LEN=67,
                )

    def test_points_that_look_like_something_else(self):
        # Each point begins like an OCTET STRING of its own length.
        for curve, second in (("P-256", 0x3F), ("P-384", 0x5F)):
            private, public_key = c().ec(OIDS[curve], CKA_DERIVE=True)
            point = b"\x04"
            while point[1:2] != bytes([second]):
                peer = ec.generate_private_key(CURVES[curve][0]())
                point = peer.public_key().public_bytes(
                    serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
                )
            shared = peer.exchange(ec.ECDH(), public(public_key))
            for sent in (point, bytes([4, len(point)]) + point):
                self.assertEqual(self.agreed(mech("CKM_ECDH1_DERIVE", iv=sent), private), shared)
        private = bytes(range(32))
        key, _ = c().take_in(
            bytes.fromhex("302e020100300506032b656e04220420") + private, "CKK_EC", CKA_DERIVE=True
        )
        point = bytes([4, 30]) + bytes(range(30))
        shared = x25519.X25519PrivateKey.from_private_bytes(private).exchange(
            x25519.X25519PublicKey.from_public_bytes(point)
        )
        for sent in (point, bytes([4, 32]) + point):
            self.assertEqual(self.agreed(mech("CKM_IBM_EC_X25519", iv=sent), key), shared)

    def x963(self, private, point, shared):
        for kdf, hash_type in (
            (2, hashes.SHA1),
            (5, hashes.SHA224),
            (6, hashes.SHA256),
            (7, hashes.SHA384),
            (8, hashes.SHA512),
        ):
            for length in (16, 100):
                parameter = pb.ECDH1DeriveParm(Kdf=kdf, SharedData=b"both know it", PublicData=point)
                value = self.agreed(
                    mech("CKM_ECDH1_DERIVE", ECDH1DeriveParameter=parameter), private, CKA_VALUE_LEN=length
                )
                expected = X963KDF(hash_type(), length, b"both know it").derive(shared)
                self.assertEqual(value, expected)

    def test_x25519(self):
        private, public_key = c().ec(OIDS["X25519"], CKA_DERIVE=True)
        peer = x25519.X25519PrivateKey.generate()
        raw = peer.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        shared = peer.exchange(public(public_key))
        spki = peer.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        for name in ("CKM_IBM_EC_X25519", "CKM_ECDH1_DERIVE"):
            for sent in (raw, spki):
                self.assertEqual(self.agreed(mech(name, iv=sent), private), shared)
        # In the form of public keys from a unit.
        theirs, sealed = c().ec(OIDS["X25519"], CKA_DERIVE=True)
        mine = self.agreed(mech("CKM_IBM_EC_X25519", iv=sealed), private)
        self.assertEqual(self.agreed(mech("CKM_IBM_EC_X25519", iv=public_key), theirs), mine)
        for wrong in (standard(c().ec(OIDS["P-256"])[1]), standard(c().ec(OIDS["Ed25519"])[1]), spki[:-1]):
            self.refused(
                "CKR_PUBLIC_KEY_INVALID", self.agreed, mech("CKM_IBM_EC_X25519", iv=wrong), private
            )
        self.refused("CKR_PUBLIC_KEY_INVALID", self.agreed, mech("CKM_IBM_EC_X25519", iv=bytes(32)), private)
        self.refused("CKR_PUBLIC_KEY_INVALID", self.agreed, mech("CKM_IBM_EC_X25519", iv=raw[1:]), private)
        edwards, _ = c().ec(OIDS["Ed25519"], CKA_DERIVE=True)
        self.refused("CKR_KEY_TYPE_INCONSISTENT", self.agreed, mech("CKM_IBM_EC_X25519", iv=raw), edwards)

    def test_known_answer(self):
        # RFC 7748, 6.1: Alice's key and Bob's public key.
        seed = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
        bob = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
        pkcs8 = bytes.fromhex("302e020100300506032b656e04220420") + seed
        key, check_sum = c().take_in(pkcs8, "CKK_EC", CKA_DERIVE=True, CKA_EXTRACTABLE=True)
        self.assertEqual(
            standard(check_sum)[-32:].hex(),
            "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
        )
        value = self.agreed(mech("CKM_IBM_EC_X25519", iv=bob), key)
        self.assertEqual(value.hex(), "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")

    def test_permission_and_curve(self):
        private, _ = c().ec(OIDS["P-256"])
        peer = ec.generate_private_key(ec.SECP256R1()).public_key()
        point = peer.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
        self.refused(
            "CKR_KEY_FUNCTION_NOT_PERMITTED", self.agreed, mech("CKM_ECDH1_DERIVE", iv=point), private
        )
        koblitz, _ = c().ec(OIDS["secp256k1"], CKA_DERIVE=True)
        self.refused("CKR_CURVE_NOT_SUPPORTED", self.agreed, mech("CKM_ECDH1_DERIVE", iv=point), koblitz)
        self.refused(
            "CKR_KEY_TYPE_INCONSISTENT", self.agreed, mech("CKM_ECDH1_DERIVE", iv=point), c().aes(CKA_DERIVE=True)
        )

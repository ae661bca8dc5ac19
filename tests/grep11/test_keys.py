"""Keys: generating, wrapping, unwrapping, reading and changing attributes; altered blobs and states."""

import itertools
import subprocess

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

import grep11_pb2 as pb
from client import OIDS, first_element, mech, number, oaep, standard
from suite import MESSAGE, Suite, after, c, digest, other, public

CBC = mech("CKM_AES_CBC_PAD", iv=bytes(range(16)))
ECB = mech("CKM_AES_ECB")


def bits(blob):
    return int.from_bytes(blob[48:56], "big")


def openssl_rsa(bits, primes):
    """An RSA private key as PKCS#8, of a kind that the other library does not make."""
    command = ["openssl", "genpkey", "-algorithm", "RSA"]
    options = [f"rsa_keygen_bits:{bits}", f"rsa_keygen_primes:{primes}"]
    command += [word for option in options for word in ("-pkeyopt", option)]
    pem = subprocess.run(command, check=True, capture_output=True).stdout
    command = ["openssl", "pkcs8", "-topk8", "-nocrypt", "-outform", "DER"]
    return subprocess.run(command, check=True, capture_output=True, input=pem).stdout


class Generate(Suite):
    def test_the_layout_of_blobs(self):
        private, public_key = c().ec(OIDS["P-256"], CKA_SIGN=True, CKA_EXTRACTABLE=False)
        self.assertEqual(private[:32], bytes(32))
        self.assertEqual(bits(private), 0x400126)
        self.assertEqual(private[64:66], b"\x12\x34")
        self.assertEqual((len(private) - 112) % 16, 0)
        extractable, _ = c().ec(OIDS["P-256"], CKA_SIGN=True, CKA_EXTRACTABLE=True)
        self.assertEqual(bits(extractable), 0x400125)
        derive, _ = c().ec(OIDS["P-256"], CKA_SIGN=True, CKA_DERIVE=True)
        self.assertEqual(bits(derive), 0x401126)
        # Only newer firmware of EP11 sets the bit of protected keys.
        secret = c().aes(16)
        self.assertEqual(bits(secret) & ~0x400000, 0x8D25)
        # WKID, session, salt, mode, attributes and MAC follow the public key.
        rest, parts = public_key[len(first_element(public_key)) :], []
        while rest:
            self.assertEqual(rest[0], 4)
            parts.append(rest[2 : 2 + rest[1]])
            rest = rest[2 + rest[1] :]
        self.assertEqual([len(part) for part in parts], [16, 32, 8, 8, 20, 32])
        self.assertEqual(parts[0], private[32:48])
        self.assertEqual(parts[4].hex(), "1001000000008024000080248001000a00000001")

    def test_secret_keys_and_check_sums(self):
        for length in (16, 24, 32):
            key, check_sum = c().generate_key("CKM_AES_KEY_GEN", CKA_VALUE_LEN=length)
            zeros = c().encrypt(ECB, key, bytes(16))
            self.assertEqual(check_sum, zeros[:3] + (8 * length).to_bytes(4, "big"))
        for length in (1, 7, 8, 20, 4096):
            _, check_sum = c().generate_key("CKM_GENERIC_SECRET_KEY_GEN", CKA_VALUE_LEN=length)
            self.assertEqual(check_sum[3:], (8 * length).to_bytes(4, "big"))
            if length < 8:
                self.assertEqual(check_sum[:3], bytes(3))
        _, check_sum = c().take_in(b"secret value", "CKK_GENERIC_SECRET")
        self.assertEqual(check_sum[:3], digest("SHA_1", b"secret value")[:3])

    def test_sizes_that_do_not_exist(self):
        for length in (1, 15, 17, 33, 1 << 40):
            self.refused("CKR_KEY_SIZE_RANGE", c().generate_key, "CKM_AES_KEY_GEN", CKA_VALUE_LEN=length)
        self.refused(
            "CKR_KEY_SIZE_RANGE", c().generate_key, "CKM_GENERIC_SECRET_KEY_GEN", CKA_VALUE_LEN=4097
        )
        self.refused("CKR_TEMPLATE_INCOMPLETE", c().generate_key, "CKM_AES_KEY_GEN")
        self.refused("CKR_TEMPLATE_INCOMPLETE", c().generate_key, "CKM_AES_KEY_GEN", CKA_VALUE_LEN=0)
        for size in (0, 512, 1024, 2047, 2049, 8192, 1 << 40):
            self.refused("CKR_KEY_SIZE_RANGE", c().rsa, size)
        self.refused("CKR_TEMPLATE_INCOMPLETE", c().pair, "CKM_RSA_PKCS_KEY_PAIR_GEN", {}, {})
        self.refused("CKR_TEMPLATE_INCOMPLETE", c().pair, "CKM_EC_KEY_PAIR_GEN", {}, {})
        self.refused("CKR_TEMPLATE_INCOMPLETE", c().pair, "CKM_IBM_ML_DSA_KEY_PAIR_GEN", {}, {})

    def test_curves(self):
        for name in ("P-256", "P-384", "P-521"):
            _, public_key = c().ec(name.encode())
            self.assertIn(OIDS[name], first_element(public_key))
        for unknown in (bytes.fromhex("06092b2403030208010107"), b"BP-256R", bytes.fromhex("06032b656f")):
            self.refused("CKR_CURVE_NOT_SUPPORTED", c().ec, unknown)
        for garbage in (b"\x06\xff", b"\x00", bytes(100)):
            self.refused("CKR_DOMAIN_PARAMS_INVALID", c().ec, garbage)

    def test_templates_are_validated(self):
        def aes(**template):
            return c().generate_key("CKM_AES_KEY_GEN", CKA_VALUE_LEN=32, **template)

        harmless = dict(CKA_TOKEN=True, CKA_PRIVATE=True, CKA_SENSITIVE=True, CKA_LABEL=b"name", CKA_ID=b"1")
        aes(**harmless, CKA_CLASS=number("CKO_SECRET_KEY"), CKA_KEY_TYPE=number("CKK_AES"))
        self.refused("CKR_TEMPLATE_INCONSISTENT", aes, CKA_CLASS=number("CKO_PRIVATE_KEY"))
        self.refused("CKR_TEMPLATE_INCONSISTENT", aes, CKA_KEY_TYPE=number("CKK_RSA"))
        self.refused("CKR_ATTRIBUTE_TYPE_INVALID", aes, CKA_VALUE=bytes(32))
        self.refused("CKR_ATTRIBUTE_VALUE_INVALID", aes, CKA_SIGN=b"yes")
        self.refused("CKR_ATTRIBUTE_VALUE_INVALID", aes, CKA_IBM_ATTRBOUND=True)
        self.refused("CKR_ATTRIBUTE_READ_ONLY", aes, CKA_LOCAL=False)
        self.refused("CKR_ATTRIBUTE_READ_ONLY", aes, CKA_TRUSTED=True)
        self.refused("CKR_ATTRIBUTE_READ_ONLY", aes, CKA_NEVER_EXTRACTABLE=False)
        self.refused("CKR_ATTRIBUTE_READ_ONLY", aes, CKA_NEVER_EXTRACTABLE=True, CKA_EXTRACTABLE=True)
        # The template may have them if their values are right.
        aes(CKA_LOCAL=True, CKA_NEVER_EXTRACTABLE=True, CKA_TRUSTED=False)
        self.refused("CKR_ATTRIBUTE_READ_ONLY", c().take_in, bytes(16), "CKK_AES", CKA_LOCAL=True)
        c().take_in(bytes(16), "CKK_AES", CKA_LOCAL=False)
        self.refused("CKR_CURVE_NOT_SUPPORTED", c().ec, b"x" * 64)
        self.assertNotIn("xxx", self.refused("CKR_DOMAIN_PARAMS_INVALID", c().ec, b"x" * 65))
        too_many = {number("CKA_SIGN") if i == 0 else 0x9000_0000 + i: True for i in range(100)}
        self.refused(
            "CKR_TEMPLATE_INCONSISTENT",
            c().call,
            "GenerateKey",
            Mech=mech("CKM_AES_KEY_GEN"),
            Template=too_many,
        )

    def test_attributes_without_a_value_are_tolerated(self):
        request = pb.GenerateKeyRequest(Mech=mech("CKM_AES_KEY_GEN"))
        request.Template[number("CKA_VALUE_LEN")].AttributeI = 16
        request.Template[number("CKA_SIGN")].SetInParent()
        request.Template[number("CKA_LABEL")].SetInParent()
        c().send("GenerateKey", request)

    def test_the_older_exponent(self):
        # Bytes in the newer dialect.
        request = pb.GenerateKeyPairRequest(Mech=mech("CKM_RSA_PKCS_KEY_PAIR_GEN"))
        request.PubKeyTemplate[number("CKA_MODULUS_BITS")].AttributeI = 2048
        request.PubKeyTemplate[number("CKA_PUBLIC_EXPONENT")].AttributeB = b"\x01\x00\x01"
        response = c().send("GenerateKeyPair", request)
        self.assertEqual(public(response.PubKeyBytes).public_numbers().e, 65537)


class Wrapping(Suite):
    def test_secret_keys_round_trip(self):
        private, public_key = c().rsa(CKA_UNWRAP=True)
        kek = c().kek()
        for mechanism, wrapper, unwrapper in (
            (CBC, kek, kek),
            (mech("CKM_AES_CBC", iv=bytes(16)), kek, kek),
            (ECB, kek, kek),
            (mech("CKM_RSA_PKCS"), public_key, private),
            (oaep("SHA256"), public_key, private),
        ):
            for length in (16, 24, 32):
                key = c().aes(length)
                wrapped = c().call("WrapKey", Mech=mechanism, Key=key, KeK=wrapper).Wrapped
                template = dict(
                    CKA_CLASS=number("CKO_SECRET_KEY"),
                    CKA_KEY_TYPE=number("CKK_AES"),
                    CKA_VALUE_LEN=length,
                    CKA_ENCRYPT=True,
                    CKA_EXTRACTABLE=True,
                )
                response = c().call(
                    "UnwrapKey", Mech=mechanism, KeK=unwrapper, Wrapped=wrapped, Template=template
                )
                again = response.UnwrappedBytes
                self.assertEqual(c().encrypt(ECB, again, bytes(16)), c().encrypt(ECB, key, bytes(16)))
                self.assertEqual(response.CheckSum[:3], c().encrypt(ECB, key, bytes(16))[:3])
                self.assertEqual(bits(again), 0x805)

    def test_a_wrapped_key_is_what_other_libraries_make_of_it(self):
        value = bytes(range(32))
        kek, _ = c().take_in(value, "CKK_AES", CKA_WRAP=True)
        key, _ = c().take_in(b"known secret", "CKK_GENERIC_SECRET", CKA_EXTRACTABLE=True)
        wrapped = c().call("WrapKey", Mech=CBC, Key=key, KeK=kek).Wrapped
        decryptor = Cipher(algorithms.AES(value), modes.CBC(bytes(range(16)))).decryptor()
        self.assertEqual(decryptor.update(wrapped), b"known secret" + bytes([4] * 4))
        private, _ = c().ec(OIDS["P-384"], CKA_EXTRACTABLE=True)
        wrapped = c().call("WrapKey", Mech=CBC, Key=private, KeK=kek).Wrapped
        decryptor = Cipher(algorithms.AES(value), modes.CBC(bytes(range(16)))).decryptor()
        plain = decryptor.update(wrapped)
        key = serialization.load_der_private_key(plain[: -plain[-1]], None)
        self.assertEqual(key.curve.name, "secp384r1")

    def test_private_keys_round_trip(self):
        kek = c().kek()
        makers = [
            lambda: c().rsa(2048, CKA_EXTRACTABLE=True, CKA_SIGN=True),
            *(
                lambda curve=curve: c().ec(OIDS[curve], CKA_EXTRACTABLE=True, CKA_SIGN=True, CKA_DERIVE=True)
                for curve in OIDS
            ),
            lambda: c().pair(
                "CKM_IBM_ML_DSA_KEY_PAIR_GEN", dict(CKA_IBM_PARAMETER_SET=2), dict(CKA_EXTRACTABLE=True)
            ),
        ]
        for make in makers:
            private, public_key = make()
            wrapped = c().call("WrapKey", Mech=CBC, Key=private, KeK=kek).Wrapped
            key_type = c().attributes(private, "CKA_KEY_TYPE")["CKA_KEY_TYPE"]
            key_type = int.from_bytes(key_type, "big") if c().old else key_type
            template = dict(CKA_KEY_TYPE=key_type, CKA_SIGN=True, CKA_EXTRACTABLE=False)
            response = c().call("UnwrapKey", Mech=CBC, KeK=kek, Wrapped=wrapped, Template=template)
            self.assertEqual(standard(response.CheckSum), standard(public_key))
            self.assertEqual(bits(response.UnwrappedBytes), 0x104)
            for mechanism in (ECB, mech("CKM_AES_CBC", iv=bytes(16))):
                self.refused("CKR_KEY_NOT_WRAPPABLE", c().call, "WrapKey", Mech=mechanism, Key=private, KeK=kek)

    def test_keys_of_other_libraries_are_taken_in(self):
        def pkcs8(key):
            return key.private_bytes(
                serialization.Encoding.DER,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )

        theirs = ec.generate_private_key(ec.SECP256K1())
        key, check_sum = c().take_in(pkcs8(theirs), "CKK_EC", CKA_SIGN=True)
        signature = c().sign("CKM_ECDSA_SHA256", key, MESSAGE)
        spki = theirs.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.assertEqual(standard(check_sum), spki)
        c().verify("CKM_ECDSA_SHA256", spki, MESSAGE, signature)
        theirs = rsa.generate_private_key(65537, 2048)
        key, _ = c().take_in(pkcs8(theirs), "CKK_RSA", CKA_SIGN=True)
        signature = c().sign("CKM_SHA256_RSA_PKCS", key, MESSAGE)
        theirs.public_key().verify(signature, MESSAGE, padding.PKCS1v15(), hashes.SHA256())
        self.refused("CKR_TEMPLATE_INCONSISTENT", c().take_in, pkcs8(theirs), "CKK_EC", CKA_SIGN=True)
        small = rsa.generate_private_key(65537, 1024)
        self.refused("CKR_KEY_SIZE_RANGE", c().take_in, pkcs8(small), "CKK_RSA", CKA_SIGN=True)
        self.refused("CKR_KEY_SIZE_RANGE", c().take_in, openssl_rsa(8192, 5), "CKK_RSA", CKA_SIGN=True)
        three = self.refused("CKR_KEY_TYPE_INCONSISTENT", c().take_in, openssl_rsa(2048, 3), "CKK_RSA")
        self.assertIn("more than two primes", three)

    def test_what_is_unwrapped_must_be_a_key(self):
        self.refused("CKR_WRAPPED_KEY_LEN_RANGE", c().take_in, bytes(20), "CKK_AES")
        self.refused("CKR_WRAPPED_KEY_LEN_RANGE", c().take_in, bytes(32), "CKK_AES", CKA_VALUE_LEN=33)
        self.refused("CKR_WRAPPED_KEY_LEN_RANGE", c().take_in, b"\x01" * 32, "CKK_AES", CKA_VALUE_LEN=24)
        for garbage in (b"", b"\x30", b"\x30\x80", bytes(100), b"\x30\x03\x02\x01\x00"):
            for key_type in ("CKK_RSA", "CKK_EC", "CKK_IBM_ML_DSA", "CKK_DSA"):
                self.refused("CKR_WRAPPED_KEY_INVALID", c().take_in, garbage, key_type)
        kek = c().kek()
        wrapped = c().call("WrapKey", Mech=CBC, Key=c().aes(), KeK=kek).Wrapped
        fields = dict(Mech=CBC, KeK=kek, Wrapped=wrapped)
        self.refused("CKR_TEMPLATE_INCOMPLETE", c().call, "UnwrapKey", Template={}, **fields)
        aes = dict(CKA_KEY_TYPE=number("CKK_AES"))
        self.refused(
            "CKR_WRAPPED_KEY_LEN_RANGE",
            c().call,
            "UnwrapKey",
            **{**fields, "Wrapped": wrapped[:-1]},
            Template=aes,
        )
        wrong = wrapped[:-17] + bytes([wrapped[-17] ^ 255]) + wrapped[-16:]
        self.refused(
            "CKR_WRAPPED_KEY_INVALID", c().call, "UnwrapKey", **{**fields, "Wrapped": wrong}, Template=aes
        )
        self.refused(
            "CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT",
            c().call,
            "UnwrapKey",
            **{**fields, "KeK": c().generic()},
            Template=aes,
        )

    def test_permissions(self):
        kek, key = c().kek(), c().aes()
        kept = c().aes(CKA_EXTRACTABLE=False)
        self.refused("CKR_KEY_UNEXTRACTABLE", c().call, "WrapKey", Mech=CBC, Key=kept, KeK=kek)
        plain = c().aes()
        self.refused("CKR_KEY_FUNCTION_NOT_PERMITTED", c().call, "WrapKey", Mech=CBC, Key=key, KeK=plain)
        wrapped = c().call("WrapKey", Mech=CBC, Key=key, KeK=kek).Wrapped
        template = dict(CKA_KEY_TYPE=number("CKK_AES"))
        self.refused(
            "CKR_KEY_FUNCTION_NOT_PERMITTED",
            c().call,
            "UnwrapKey",
            Mech=CBC,
            KeK=plain,
            Wrapped=wrapped,
            Template=template,
        )
        trusted_only = c().aes(CKA_WRAP_WITH_TRUSTED=True)
        self.refused("CKR_KEY_NOT_WRAPPABLE", c().call, "WrapKey", Mech=CBC, Key=trusted_only, KeK=kek)
        self.refused(
            "CKR_WRAPPING_KEY_TYPE_INCONSISTENT", c().call, "WrapKey", Mech=CBC, Key=key, KeK=c().generic(CKA_WRAP=True)
        )
        _, public_key = c().rsa()
        long = c().generic(300, CKA_EXTRACTABLE=True)
        self.refused(
            "CKR_KEY_SIZE_RANGE", c().call, "WrapKey", Mech=mech("CKM_RSA_PKCS"), Key=long, KeK=public_key
        )


class Attributes(Suite):
    def test_attributes_of_keys(self):
        key = c().aes(24, CKA_WRAP=True)
        values = c().attributes(
            key, "CKA_CLASS", "CKA_KEY_TYPE", "CKA_VALUE_LEN", "CKA_WRAP", "CKA_UNWRAP", "CKA_LOCAL", "CKA_SENSITIVE"
        )
        expected = [4, number("CKK_AES"), 24, True, False, True, True]
        if c().old:
            expected = [
                bytes([value]) if isinstance(value, bool) else value.to_bytes(8, "big") for value in expected
            ]
        self.assertEqual(list(values.values()), expected)
        self.assertEqual(
            c().attributes(key, "CKA_CHECK_VALUE")["CKA_CHECK_VALUE"], c().encrypt(ECB, key, bytes(16))[:3]
        )
        self.refused("CKR_ATTRIBUTE_SENSITIVE", c().attributes, key, "CKA_VALUE")
        self.refused("CKR_ATTRIBUTE_TYPE_INVALID", c().attributes, key, "CKA_MODULUS")
        self.refused("CKR_ATTRIBUTE_TYPE_INVALID", c().attributes, key, "CKA_LABEL")

    def test_what_pairs_tell(self):
        private, public_key = c().rsa()
        numbers = public(public_key).public_numbers()
        for blob in (private, public_key):
            values = c().attributes(blob, "CKA_MODULUS", "CKA_PUBLIC_EXPONENT", "CKA_PUBLIC_KEY_INFO")
            self.assertEqual(int.from_bytes(values["CKA_MODULUS"], "big"), numbers.n)
            self.assertEqual(int.from_bytes(values["CKA_PUBLIC_EXPONENT"], "big"), 65537)
            self.assertEqual(values["CKA_PUBLIC_KEY_INFO"], standard(public_key))
        self.refused("CKR_ATTRIBUTE_SENSITIVE", c().attributes, private, "CKA_PRIVATE_EXPONENT")
        for curve, oid in OIDS.items():
            private, public_key = c().ec(oid)
            for blob in (private, public_key):
                values = c().attributes(blob, "CKA_EC_PARAMS", "CKA_EC_POINT", "CKA_IBM_MACED_PUBLIC_KEY_INFO")
                self.assertEqual(values["CKA_EC_PARAMS"], oid)
                self.assertTrue(standard(public_key).endswith(values["CKA_EC_POINT"]))
                self.assertEqual(first_element(values["CKA_IBM_MACED_PUBLIC_KEY_INFO"]), first_element(public_key))
        self.refused("CKR_OBJECT_HANDLE_INVALID", c().attributes, standard(public_key), "CKA_CLASS")

    def changed(self, blob, **attributes):
        return c().call("SetAttributeValue", Object=blob, Attributes=attributes).Object

    def test_what_can_be_changed(self):
        key = c().aes()
        deaf = self.changed(key, CKA_ENCRYPT=False)
        self.refused("CKR_KEY_FUNCTION_NOT_PERMITTED", c().encrypt, ECB, deaf, bytes(16))
        again = self.changed(deaf, CKA_ENCRYPT=True)
        self.assertEqual(c().encrypt(ECB, again, bytes(16)), c().encrypt(ECB, key, bytes(16)))
        kept = self.changed(key, CKA_EXTRACTABLE=False)
        self.refused("CKR_KEY_UNEXTRACTABLE", c().call, "WrapKey", Mech=CBC, Key=kept, KeK=c().kek())
        self.refused("CKR_ATTRIBUTE_READ_ONLY", self.changed, kept, CKA_EXTRACTABLE=True)
        self.refused("CKR_ATTRIBUTE_READ_ONLY", self.changed, key, CKA_LOCAL=False)
        self.refused("CKR_ATTRIBUTE_READ_ONLY", self.changed, key, CKA_TRUSTED=True)
        self.refused("CKR_ATTRIBUTE_READ_ONLY", self.changed, key, CKA_VALUE_LEN=16)
        for name, value in (("CKA_SENSITIVE", False), ("CKA_TOKEN", True), ("CKA_LABEL", b"name")):
            self.refused("CKR_ATTRIBUTE_READ_ONLY", self.changed, key, **{name: value})
        fixed = self.changed(key, CKA_MODIFIABLE=False)
        self.refused("CKR_ATTRIBUTE_READ_ONLY", self.changed, fixed, CKA_ENCRYPT=False)
        self.refused("CKR_ATTRIBUTE_READ_ONLY", self.changed, fixed, CKA_MODIFIABLE=True)
        narrowing = c().aes(CKA_MODIFIABLE=False, CKA_IBM_RESTRICTABLE=True)
        narrower = self.changed(narrowing, CKA_DECRYPT=False)
        self.refused("CKR_ATTRIBUTE_READ_ONLY", self.changed, narrower, CKA_DECRYPT=True)
        bound = self.changed(key, CKA_WRAP_WITH_TRUSTED=True)
        self.refused("CKR_ATTRIBUTE_READ_ONLY", self.changed, bound, CKA_WRAP_WITH_TRUSTED=False)

    def test_public_keys_change_too(self):
        private, public_key = c().ec(OIDS["P-256"], CKA_SIGN=True)
        signature = c().sign("CKM_ECDSA_SHA256", private, MESSAGE)
        blind = self.changed(public_key, CKA_VERIFY=False)
        self.refused("CKR_KEY_FUNCTION_NOT_PERMITTED", c().verify, "CKM_ECDSA_SHA256", blind, MESSAGE, signature)
        c().verify("CKM_ECDSA_SHA256", self.changed(blind, CKA_VERIFY=True), MESSAGE, signature)
        self.refused("CKR_OBJECT_HANDLE_INVALID", self.changed, standard(public_key), CKA_VERIFY=False)


def damaged(blob):
    """The blob with each byte changed in turn, cut off, and lengthened."""
    for at in range(len(blob)):
        yield at, blob[:at] + bytes([blob[at] ^ 0x40]) + blob[at + 1 :]
    for length in (1, 31, 32, 79, 80, 111, 112, len(blob) - 16, len(blob) - 1):
        yield None, blob[:length]
    yield None, blob + b"\0"
    yield None, blob + bytes(16)
    yield None, bytes(len(blob))
    yield None, b"x" * 100_000


class Damage(Suite):
    def test_blobs(self):
        key = c().aes(16)
        for at, wrong in damaged(key):
            expected = "CKR_IBM_WKID_MISMATCH" if at is not None and 32 <= at < 48 else "CKR_IBM_BLOB_ERROR"
            if wrong == bytes(len(key)):
                expected = "CKR_IBM_BLOB_ERROR"
            self.refused(expected, c().encrypt, ECB, wrong, bytes(16))
        self.refused("CKR_ARGUMENTS_BAD", c().encrypt, ECB, b"", bytes(16))

    def test_every_call_that_takes_a_blob(self):
        private, public_key = c().rsa()
        wrong = private[:-1] + bytes([private[-1] ^ 1])
        kek, sha = c().kek(), mech("CKM_SHA256_RSA_PKCS")
        state = c().call("DigestInit", Mech=mech("CKM_SHA256")).State
        for rpc, fields in (
            ("SignSingle", dict(Mech=sha, PrivKey=wrong)),
            ("SignInit", dict(Mech=sha, PrivKey=wrong)),
            ("VerifySingle", dict(Mech=mech("CKM_SHA256_HMAC"), PubKey=wrong)),
            ("VerifyInit", dict(Mech=mech("CKM_SHA256_HMAC"), PubKey=wrong)),
            ("EncryptSingle", dict(Mech=CBC, Key=wrong)),
            ("EncryptInit", dict(Mech=CBC, Key=wrong)),
            ("DecryptSingle", dict(Mech=CBC, Key=wrong)),
            ("DecryptInit", dict(Mech=CBC, Key=wrong)),
            ("DigestKey", dict(State=state, Key=wrong)),
            ("WrapKey", dict(Mech=CBC, Key=wrong, KeK=kek)),
            ("WrapKey", dict(Mech=CBC, Key=c().aes(), KeK=wrong)),
            ("UnwrapKey", dict(Mech=CBC, Wrapped=bytes(32), KeK=wrong, Template=dict(CKA_KEY_TYPE=0x1F))),
            ("DeriveKey", dict(Mech=mech("CKM_ECDH1_DERIVE", iv=bytes(65)), BaseKey=wrong)),
            ("GetAttributeValue", dict(Object=wrong)),
            ("SetAttributeValue", dict(Object=wrong)),
            ("RewrapKeyBlob", dict(WrappedKey=wrong)),
            ("ReencryptSingle", dict(DecMech=CBC, DecKey=wrong, EncMech=CBC, EncKey=kek, Ciphered=bytes(16))),
        ):
            with self.subTest(rpc):
                self.refused("CKR_IBM_BLOB_ERROR", c().call, rpc, **fields)

    def test_public_keys(self):
        private, public_key = c().ec(OIDS["P-256"], CKA_SIGN=True)
        signature = c().sign("CKM_ECDSA_SHA256", private, MESSAGE)
        spki = len(first_element(public_key))
        seen = set()
        for at in range(len(public_key)):
            wrong = public_key[:at] + bytes([public_key[at] ^ 0x40]) + public_key[at + 1 :]
            with self.assertRaises(Exception) as caught:
                c().verify("CKM_ECDSA_SHA256", wrong, MESSAGE, signature)
            code = str(caught.exception).split(": ")[1]
            seen.add(code)
            if at >= spki + 2 and at < spki + 18:
                self.assertEqual(code, "CKR_IBM_WKID_MISMATCH")
            else:
                self.assertIn(code, ("CKR_IBM_BLOB_ERROR", "CKR_PUBLIC_KEY_INVALID"), at)
        self.assertIn("CKR_IBM_BLOB_ERROR", seen)
        for length in itertools.chain(range(1, spki), range(spki + 1, len(public_key))):
            with self.assertRaises(Exception):
                c().verify("CKM_ECDSA_SHA256", public_key[:length], MESSAGE, signature)
        self.refused(
            "CKR_PUBLIC_KEY_INVALID", c().verify, "CKM_ECDSA_SHA256", b"\x30" * 100_000, MESSAGE, signature
        )

    def test_states(self):
        key = c().aes(CKA_SIGN=True, CKA_VERIFY=True)
        state = c().call("SignInit", Mech=mech("CKM_SHA256_HMAC"), PrivKey=key).State
        state = c().call("SignUpdate", State=state, Data=b"x").State
        for at, wrong in damaged(state):
            inside = at is not None and 32 <= at < 48
            expected = "CKR_IBM_WKID_MISMATCH" if inside else "CKR_SAVED_STATE_INVALID"
            self.refused(expected, c().call, "SignFinal", State=wrong)
        # A blob does not pass for a state, and a state does not pass for a blob or for the state of
        # another operation.
        self.refused("CKR_SAVED_STATE_INVALID", c().call, "SignFinal", State=key)
        self.refused("CKR_IBM_BLOB_ERROR", c().sign, "CKM_SHA256_HMAC", state, b"")
        for rpc in ("DigestFinal", "VerifyFinal", "EncryptFinal", "DecryptFinal", "Encrypt", "Decrypt", "Digest", "Verify"):
            self.refused("CKR_OPERATION_NOT_INITIALIZED", c().call, rpc, State=state)
            self.refused("CKR_OPERATION_NOT_INITIALIZED", c().call, rpc)
        for rpc in ("DigestUpdate", "DigestKey", "VerifyUpdate", "EncryptUpdate", "DecryptUpdate", "Sign", "SignUpdate", "SignFinal"):
            self.refused("CKR_OPERATION_NOT_INITIALIZED", c().call, rpc)


class Servers(Suite):
    def test_another_server_with_the_same_master_key_goes_on(self):
        key = c().generic(32)
        mechanism = mech("CKM_SHA512_HMAC")
        state = c().call("SignInit", Mech=mechanism, PrivKey=key).State
        state = other().call("SignUpdate", State=state, Data=b"one ").State
        state = c().call("SignUpdate", State=state, Data=b"two").State
        self.assertEqual(
            other().call("SignFinal", State=state).Signature, c().sign(mechanism, key, b"one two")
        )

    def test_another_master_key(self):
        private, public_key = c().ec(OIDS["P-256"], CKA_SIGN=True)
        message = self.refused("CKR_IBM_WKID_MISMATCH", after().sign, "CKM_ECDSA_SHA256", private, MESSAGE)
        self.assertIn(private[32:48].hex(), message)
        signature = c().sign("CKM_ECDSA_SHA256", private, MESSAGE)
        self.refused(
            "CKR_IBM_WKID_MISMATCH", after().verify, "CKM_ECDSA_SHA256", public_key, MESSAGE, signature
        )
        after().verify("CKM_ECDSA_SHA256", standard(public_key), MESSAGE, signature)
        state = c().call("SignInit", Mech=mech("CKM_ECDSA_SHA256"), PrivKey=private).State
        self.refused("CKR_IBM_WKID_MISMATCH", after().call, "SignFinal", State=state)

    def test_rewrap_for_the_next_master_key(self):
        private, public_key = c().ec(OIDS["P-256"], CKA_SIGN=True)
        blob = c().call("RewrapKeyBlob", WrappedKey=private).RewrappedKeyBytes
        self.assertEqual(bits(blob), bits(private))
        self.refused("CKR_IBM_WKID_MISMATCH", c().sign, "CKM_ECDSA_SHA256", blob, MESSAGE)
        signature = after().sign("CKM_ECDSA_SHA256", blob, MESSAGE)
        c().verify("CKM_ECDSA_SHA256", public_key, MESSAGE, signature)
        self.refused("CKR_IBM_WK_NOT_INITIALIZED", after().call, "RewrapKeyBlob", WrappedKey=blob)

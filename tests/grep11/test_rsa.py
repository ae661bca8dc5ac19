"""RSA: signatures and encryption."""

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from client import mech, number, oaep, pss, standard
from suite import MESSAGE, HASHES, Suite, c, digest, public

DIGEST_INFO = {
    "SHA_1": bytes.fromhex("3021300906052b0e03021a05000414"),
    "SHA224": bytes.fromhex("302d300d06096086480165030402040500041c"),
    "SHA256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "SHA384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "SHA512": bytes.fromhex("3051300d060960864801650304020305000440"),
}


def hashed(name):
    return "CKM_SHA1_RSA_PKCS" if name == "SHA_1" else f"CKM_{name}_RSA_PKCS"


def der(tag, content):
    length = len(content)
    if length < 128:
        return bytes([tag, length]) + content
    return bytes([tag, 0x82]) + length.to_bytes(2, "big") + content


def spki(n, e):
    """An RSA SubjectPublicKeyInfo with numbers that no library takes."""
    numbers = b"".join(der(2, number.to_bytes(number.bit_length() // 8 + 1, "big")) for number in (n, e))
    algorithm = bytes.fromhex("300d06092a864886f70d0101010500")
    return der(0x30, algorithm + der(3, b"\0" + der(0x30, numbers)))


PSS_HASHES = {
    "SHA256": bytes.fromhex("300d06096086480165030402010500"),
    "SHA384": bytes.fromhex("300d06096086480165030402020500"),
    "SHA512": bytes.fromhex("300d06096086480165030402030500"),
}


def bound_to_pss(key, name):
    """The SubjectPublicKeyInfo of a key bound to RSASSA-PSS, with one hash or any (RFC 4055, 1.2 and 3.1)."""
    numbers = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
    algorithm = bytes.fromhex("06092a864886f70d01010a")
    if name is not None:
        hash_algorithm = PSS_HASHES[name]
        mask = der(0x30, bytes.fromhex("06092a864886f70d010108") + hash_algorithm)
        salt = der(2, bytes([HASHES[name].digest_size]))
        algorithm += der(0x30, der(0xA0, hash_algorithm) + der(0xA1, mask) + der(0xA2, salt))
    return der(0x30, der(0x30, algorithm) + der(3, b"\0" + numbers))


class Signatures(Suite):
    @classmethod
    def setUpClass(cls):
        cls.keys = [c().rsa(bits, CKA_SIGN=True) for bits in (2048, 3072, 4096)]

    def test_pkcs1(self):
        for private, key in self.keys:
            for name in DIGEST_INFO:
                mechanism = mech(hashed(name))
                with self.subTest(f"{public(key).key_size} {name}"):
                    signature = c().sign(mechanism, private, MESSAGE)
                    public(key).verify(signature, MESSAGE, padding.PKCS1v15(), HASHES[name]())
                    self.assertEqual(c().sign(mechanism, private, MESSAGE), signature)
                    # The same message in parts, and the mechanism without a hash over a DigestInfo.
                    state = c().call("SignInit", Mech=mechanism, PrivKey=private).State
                    self.assertEqual(c().call("Sign", State=state, Data=MESSAGE).Signature, signature)
                    for part in (MESSAGE[:1], b"", MESSAGE[1:]):
                        state = c().call("SignUpdate", State=state, Data=part).State
                    self.assertEqual(c().call("SignFinal", State=state).Signature, signature)
                    info = DIGEST_INFO[name] + digest(name, MESSAGE)
                    self.assertEqual(c().sign("CKM_RSA_PKCS", private, info), signature)
                    c().verify("CKM_RSA_PKCS", key, info, signature)
                    self.verified(mechanism, key, signature)

    def test_pss(self):
        for private, key in self.keys[:2]:
            for name in DIGEST_INFO:
                length = len(digest(name, b""))
                for salt in (0, 1, length):
                    with self.subTest(f"{name} {salt}"):
                        mechanism = pss(hashed(name) + "_PSS", name, salt)
                        signature = c().sign(mechanism, private, MESSAGE)
                        scheme = padding.PSS(padding.MGF1(HASHES[name]()), salt)
                        public(key).verify(signature, MESSAGE, scheme, HASHES[name]())
                        bare = pss("CKM_RSA_PKCS_PSS", name, salt)
                        by_digest = c().sign(bare, private, digest(name, MESSAGE))
                        public(key).verify(by_digest, MESSAGE, scheme, HASHES[name]())
                        c().verify(bare, key, digest(name, MESSAGE), signature)
                        self.verified(mechanism, key, signature)
                        # Another length of salt does not verify.
                        more = pss(hashed(name) + "_PSS", name, salt ^ 1 if salt != length else 2)
                        self.refused("CKR_SIGNATURE_INVALID", c().verify, more, key, MESSAGE, signature)
        private, key = self.keys[0]
        default = pss("CKM_SHA256_RSA_PKCS_PSS", "SHA256", 0xFFFFFFFF)
        c().verify(
            pss("CKM_SHA256_RSA_PKCS_PSS", "SHA256", 32), key, MESSAGE, c().sign(default, private, MESSAGE)
        )
        bare = pss("CKM_RSA_PKCS_PSS", "SHA256", 32)
        self.refused("CKR_DATA_LEN_RANGE", c().sign, bare, private, bytes(31))
        state = c().call("SignInit", Mech=bare, PrivKey=private).State
        self.refused("CKR_FUNCTION_NOT_SUPPORTED", c().call, "SignUpdate", State=state, Data=bytes(32))

    def test_pss_with_another_mask(self):
        private, key = self.keys[0]
        for name, mask in (("SHA256", "SHA_1"), ("SHA_1", "SHA512"), ("SHA512", "SHA224")):
            mechanism = pss(hashed(name) + "_PSS", name, 20, mask)
            signature = c().sign(mechanism, private, MESSAGE)
            scheme = padding.PSS(padding.MGF1(HASHES[mask]()), 20)
            public(key).verify(signature, MESSAGE, scheme, HASHES[name]())
            self.verified(mechanism, key, signature)

    def test_data_that_the_caller_prepared(self):
        for private, key in self.keys:
            longest = public(key).key_size // 8 - 11
            # TLS 1.0 and 1.1 sign MD5 and SHA-1 side by side: 36 bytes.
            for data in (b"", b"x", bytes(36), bytes(range(200)), b"\xff" * longest):
                signature = c().sign("CKM_RSA_PKCS", private, data)
                recovered = public(key).recover_data_from_signature(signature, padding.PKCS1v15(), None)
                self.assertEqual(recovered, data)
                c().verify("CKM_RSA_PKCS", key, data, signature)
                self.refused("CKR_SIGNATURE_INVALID", c().verify, "CKM_RSA_PKCS", key, data[1:] + b"y", signature)
            self.refused("CKR_DATA_LEN_RANGE", c().sign, "CKM_RSA_PKCS", private, bytes(longest + 1))

    def test_other_exponents(self):
        # The last one is the largest prime of 32 bits: a number with many factors suits few primes.
        for exponent in (17, 257, 0xFFFFFFFB):
            private, key = c().rsa(exponent=exponent, CKA_SIGN=True, CKA_DECRYPT=True)
            self.assertEqual(public(key).public_numbers().e, exponent)
            for name in ("SHA256", "SHA_1"):
                signature = c().sign(hashed(name), private, MESSAGE)
                public(key).verify(signature, MESSAGE, padding.PKCS1v15(), HASHES[name]())
                c().verify(hashed(name), key, MESSAGE, signature)
            theirs = public(key).encrypt(b"plain", padding.PKCS1v15())
            self.assertEqual(c().decrypt("CKM_RSA_PKCS", private, theirs), b"plain")
        for exponent in (0, 1, 2, 3, 15, 16, 65536, 1 << 32, (1 << 32) + 1):
            self.refused("CKR_ATTRIBUTE_VALUE_INVALID", c().rsa, exponent=exponent)

    def verified(self, mechanism, key, signature):
        c().verify(mechanism, key, MESSAGE, signature)
        c().verify(mechanism, standard(key), MESSAGE, signature)
        state = c().call("VerifyInit", Mech=mechanism, PubKey=key).State
        c().call("Verify", State=state, Data=MESSAGE, Signature=signature)
        for part in (MESSAGE[:7], MESSAGE[7:]):
            state = c().call("VerifyUpdate", State=state, Data=part).State
        c().call("VerifyFinal", State=state, Signature=signature)
        wrong = bytes([signature[0] ^ 1]) + signature[1:]
        self.refused("CKR_SIGNATURE_INVALID", c().verify, mechanism, key, MESSAGE, wrong)
        self.refused("CKR_SIGNATURE_INVALID", c().call, "VerifyFinal", State=state, Signature=wrong)
        self.refused("CKR_SIGNATURE_INVALID", c().verify, mechanism, key, b"another", signature)
        self.refused("CKR_SIGNATURE_LEN_RANGE", c().verify, mechanism, key, MESSAGE, signature[1:])

    def test_old_signatures_are_verified(self):
        for bits in (512, 1024, 1536):
            private = rsa.generate_private_key(65537, bits)
            key = private.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            signature = private.sign(MESSAGE, padding.PKCS1v15(), hashes.SHA256())
            info = DIGEST_INFO["SHA256"] + digest("SHA256", MESSAGE)
            c().verify("CKM_RSA_PKCS", key, info, signature)
            self.refused("CKR_SIGNATURE_INVALID", c().verify, "CKM_RSA_PKCS", key, info, bytes(bits // 8))
            self.refused("CKR_KEY_SIZE_RANGE", c().verify, "CKM_SHA256_RSA_PKCS", key, MESSAGE, signature)
            self.refused("CKR_KEY_SIZE_RANGE", c().call, "UnwrapKey", Mech=mech("CKM_IBM_TRANSPORTKEY"), Wrapped=key)

    def test_public_keys_that_are_none(self):
        modulus = rsa.generate_private_key(65537, 2048).public_key().public_numbers().n
        for n, e in ((modulus + 1, 65537), (modulus, 65536), (modulus, 1)):
            self.refused("CKR_PUBLIC_KEY_INVALID", c().verify, "CKM_RSA_PKCS", spki(n, e), b"x", bytes(256))

    def test_sizes_that_are_not_offered(self):
        for bits in (248, 504, 4104, 8192):
            key = spki((1 << bits) - 1, 65537)
            self.refused("CKR_KEY_SIZE_RANGE", c().verify, "CKM_RSA_PKCS", key, b"x", bytes(bits // 8))
            self.refused("CKR_KEY_SIZE_RANGE", c().call, "UnwrapKey", Mech=mech("CKM_IBM_TRANSPORTKEY"), Wrapped=key)
            self.refused("CKR_KEY_SIZE_RANGE", c().rsa, bits)

    def test_public_keys_bound_to_pss(self):
        theirs = rsa.generate_private_key(65537, 2048)
        for name, hash_type in (("SHA256", hashes.SHA256), ("SHA512", hashes.SHA512)):
            length = hash_type.digest_size
            scheme = padding.PSS(padding.MGF1(hash_type()), length)
            signature = theirs.sign(MESSAGE, scheme, hash_type())
            for bond in (None, name):
                key = bound_to_pss(theirs.public_key(), bond)
                c().verify(pss(f"CKM_{name}_RSA_PKCS_PSS", name, length), key, MESSAGE, signature)
                self.refused("CKR_SIGNATURE_INVALID", c().verify, pss(f"CKM_{name}_RSA_PKCS_PSS", name, length), key, b"another", signature)
                self.refused("CKR_KEY_TYPE_INCONSISTENT", c().verify, "CKM_SHA256_RSA_PKCS", key, MESSAGE, signature)
                self.refused(
                    "CKR_KEY_TYPE_INCONSISTENT", c().call, "UnwrapKey", Mech=mech("CKM_IBM_TRANSPORTKEY"), Wrapped=key
                )
            other = bound_to_pss(theirs.public_key(), "SHA384")
            self.refused("CKR_MECHANISM_PARAM_INVALID", c().verify, pss(f"CKM_{name}_RSA_PKCS_PSS", name, length), other, MESSAGE, signature)
        short = theirs.sign(MESSAGE, padding.PSS(padding.MGF1(hashes.SHA256()), 8), hashes.SHA256())
        c().verify(pss("CKM_SHA256_RSA_PKCS_PSS", "SHA256", 8), bound_to_pss(theirs.public_key(), None), MESSAGE, short)
        self.refused(
            "CKR_MECHANISM_PARAM_INVALID",
            c().verify,
            pss("CKM_SHA256_RSA_PKCS_PSS", "SHA256", 8),
            bound_to_pss(theirs.public_key(), "SHA256"),
            MESSAGE,
            short,
        )

    def test_permission_and_type(self):
        private, key = c().rsa(CKA_SIGN=False)
        mechanism = mech("CKM_SHA256_RSA_PKCS")
        self.refused("CKR_KEY_FUNCTION_NOT_PERMITTED", c().sign, mechanism, private, MESSAGE)
        self.refused(
            "CKR_KEY_FUNCTION_NOT_PERMITTED", c().call, "SignInit", Mech=mechanism, PrivKey=private
        )
        self.refused("CKR_KEY_TYPE_INCONSISTENT", c().sign, "CKM_ECDSA", self.keys[0][0], bytes(32))
        self.refused("CKR_KEY_TYPE_INCONSISTENT", c().verify, "CKM_ECDSA", self.keys[0][1], bytes(32), b"")
        self.refused("CKR_KEY_TYPE_INCONSISTENT", c().sign, mechanism, c().aes(), MESSAGE)


class Encryption(Suite):
    @classmethod
    def setUpClass(cls):
        cls.private, cls.key = c().rsa(2048, CKA_DECRYPT=True)

    def test_pkcs1(self):
        for length in (0, 1, 245):
            plain = bytes(range(256))[:length]
            ours = c().encrypt("CKM_RSA_PKCS", self.key, plain)
            theirs = public(self.key).encrypt(plain, padding.PKCS1v15())
            for ciphertext in (ours, theirs):
                self.assertEqual(c().decrypt("CKM_RSA_PKCS", self.private, ciphertext), plain)
            self.assertNotEqual(ours, c().encrypt("CKM_RSA_PKCS", self.key, plain))
        self.refused("CKR_DATA_LEN_RANGE", c().encrypt, "CKM_RSA_PKCS", self.key, bytes(246))

    def test_oaep(self):
        for name in ("SHA_1", "SHA256", "SHA384", "SHA512"):
            for label in (None, b"", b"a label"):
                with self.subTest(f"{name} {label}"):
                    mechanism = oaep(name, label=label)
                    longest = 256 - 2 * len(digest(name, b"")) - 2
                    plain = bytes(longest)
                    scheme = padding.OAEP(padding.MGF1(HASHES[name]()), HASHES[name](), label)
                    theirs = public(self.key).encrypt(plain, scheme)
                    self.assertEqual(c().decrypt(mechanism, self.private, theirs), plain)
                    ours = c().encrypt(mechanism, self.key, plain)
                    self.assertEqual(c().decrypt(mechanism, self.private, ours), plain)
                    self.refused("CKR_DATA_LEN_RANGE", c().encrypt, mechanism, self.key, bytes(longest + 1))
                    self.refused(
                        "CKR_ENCRYPTED_DATA_INVALID",
                        c().decrypt,
                        oaep(name, label=b"another label"),
                        self.private,
                        ours,
                    )
        self.refused("CKR_MECHANISM_PARAM_INVALID", c().encrypt, oaep("SHA256", "SHA_1"), self.key, b"")
        self.refused("CKR_MECHANISM_PARAM_INVALID", c().encrypt, "CKM_RSA_PKCS_OAEP", self.key, b"")

    def test_init_and_one_shot(self):
        state = c().call("EncryptInit", Mech=mech("CKM_RSA_PKCS"), Key=self.key).State
        self.refused("CKR_FUNCTION_NOT_SUPPORTED", c().call, "EncryptUpdate", State=state, Plain=b"x")
        ciphertext = c().call("Encrypt", State=state, Plain=b"plain").Ciphered
        state = c().call("DecryptInit", Mech=mech("CKM_RSA_PKCS"), Key=self.private).State
        self.assertEqual(c().call("Decrypt", State=state, Ciphered=ciphertext).Plain, b"plain")
        self.refused("CKR_FUNCTION_NOT_SUPPORTED", c().call, "DecryptUpdate", State=state, Ciphered=b"x")

    def test_bad_ciphertexts(self):
        ciphertext = c().encrypt("CKM_RSA_PKCS", self.key, b"plain")
        for length in (0, 255, 257, 10000):
            self.refused(
                "CKR_ENCRYPTED_DATA_LEN_RANGE",
                c().decrypt,
                "CKM_RSA_PKCS",
                self.private,
                ciphertext[:length] if length < 256 else bytes(length),
            )
        wrong = ciphertext[:100] + bytes([ciphertext[100] ^ 1]) + ciphertext[101:]
        # A wrong padding is no error: the plaintext is made up, and always the same.
        made_up = [c().decrypt("CKM_RSA_PKCS", self.private, wrong) for _ in range(2)]
        self.assertEqual(made_up[0], made_up[1])
        self.assertNotEqual(made_up[0], b"plain")
        above = b"\xff" * 256
        self.refused("CKR_ENCRYPTED_DATA_INVALID", c().decrypt, "CKM_RSA_PKCS", self.private, above)
        self.refused("CKR_ENCRYPTED_DATA_INVALID", c().decrypt, oaep("SHA256"), self.private, ciphertext)

    def test_permission_type_and_origin(self):
        private, key = c().rsa(CKA_DECRYPT=False)
        ciphertext = c().encrypt("CKM_RSA_PKCS", key, b"plain")
        self.refused("CKR_KEY_FUNCTION_NOT_PERMITTED", c().decrypt, "CKM_RSA_PKCS", private, ciphertext)
        template = dict(CKA_MODULUS_BITS=2048, CKA_ENCRYPT=False, CKA_VERIFY=False)
        _, silent = c().pair("CKM_RSA_PKCS_KEY_PAIR_GEN", template, {})
        self.refused("CKR_KEY_FUNCTION_NOT_PERMITTED", c().encrypt, "CKM_RSA_PKCS", silent, b"plain")
        self.refused("CKR_KEY_FUNCTION_NOT_PERMITTED", c().verify, "CKM_SHA256_RSA_PKCS", silent, b"", bytes(256))
        # A bare public key verifies, but has no MAC that proves a key to encrypt for.
        self.refused("CKR_PUBLIC_KEY_INVALID", c().encrypt, "CKM_RSA_PKCS", standard(key), b"plain")
        self.refused("CKR_KEY_TYPE_INCONSISTENT", c().encrypt, mech("CKM_AES_CBC", iv=bytes(16)), private, b"")
        self.refused("CKR_KEY_TYPE_INCONSISTENT", c().decrypt, "CKM_RSA_PKCS", c().aes(), bytes(256))

    def test_a_foreign_public_key_is_taken_in(self):
        theirs = rsa.generate_private_key(65537, 2048)
        spki = theirs.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        template = dict(CKA_CLASS=number("CKO_PUBLIC_KEY"), CKA_KEY_TYPE=number("CKK_RSA"))
        response = c().call(
            "UnwrapKey",
            Mech=mech("CKM_IBM_TRANSPORTKEY"),
            Wrapped=spki,
            KeK=c().aes(),
            Template={**template, "CKA_ENCRYPT": True, "CKA_VERIFY": True},
        )
        self.assertEqual(standard(response.UnwrappedBytes), spki)
        ciphertext = c().encrypt(oaep("SHA256"), response.UnwrappedBytes, b"plain")
        scheme = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
        self.assertEqual(theirs.decrypt(ciphertext, scheme), b"plain")
        signature = theirs.sign(MESSAGE, padding.PKCS1v15(), hashes.SHA256())
        c().verify("CKM_SHA256_RSA_PKCS", response.UnwrappedBytes, MESSAGE, signature)
        self.refused(
            "CKR_PUBLIC_KEY_INVALID",
            c().call,
            "UnwrapKey",
            Mech=mech("CKM_IBM_TRANSPORTKEY"),
            Wrapped=spki[:-1],
            Template=template,
        )

"""Digests and HMAC."""

from cryptography.hazmat.primitives.hmac import HMAC

from client import OIDS, mech
from suite import HASHES, Suite, c, digest, splits


class Digests(Suite):
    def test_single_part_and_every_split(self):
        data = bytes(range(256)) * 2
        for name in HASHES:
            with self.subTest(name):
                expected = digest(name, data)
                mechanism = mech("CKM_" + name)
                self.assertEqual(c().call("DigestSingle", Mech=mechanism, Data=data).Digest, expected)
                init = c().call("DigestInit", Mech=mechanism).State
                self.assertEqual(c().call("Digest", State=init, Data=data).Digest, expected)
                for parts in splits(data[:150], 64):
                    state = init
                    for part in filter(None, parts):
                        state = c().call("DigestUpdate", State=state, Data=part).State
                    final = c().call("DigestFinal", State=state).Digest
                    self.assertEqual(final, digest(name, data[:150]))

    def test_a_state_can_be_used_again(self):
        init = c().call("DigestInit", Mech=mech("CKM_SHA256")).State
        state = c().call("DigestUpdate", State=init, Data=b"a").State
        for _ in range(2):
            self.assertEqual(c().call("DigestFinal", State=state).Digest, digest("SHA256", b"a"))
            self.assertEqual(c().call("Digest", State=init, Data=b"b").Digest, digest("SHA256", b"b"))
        self.refused("CKR_OPERATION_ACTIVE", c().call, "Digest", State=state, Data=b"b")
        self.assertEqual(c().call("DigestFinal", State=init).Digest, digest("SHA256", b""))

    def test_the_value_of_a_key(self):
        key, _ = c().take_in(b"secret value", "CKK_GENERIC_SECRET", CKA_IBM_USE_AS_DATA=True)
        state = c().call("DigestInit", Mech=mech("CKM_SHA512")).State
        state = c().call("DigestUpdate", State=state, Data=b"before ").State
        state = c().call("DigestKey", State=state, Key=key).State
        self.assertEqual(c().call("DigestFinal", State=state).Digest, digest("SHA512", b"before secret value"))
        kept, _ = c().take_in(b"secret value", "CKK_GENERIC_SECRET")
        private, _ = c().ec(OIDS["P-256"], CKA_IBM_USE_AS_DATA=True)
        for key in (kept, private):
            self.refused("CKR_KEY_INDIGESTIBLE", c().call, "DigestKey", State=state, Key=key)

    def test_nothing_is_digested_too(self):
        of_nothing = digest("SHA256", b"")
        self.assertEqual(c().call("DigestSingle", Mech=mech("CKM_SHA256"), Data=b"").Digest, of_nothing)
        init = c().call("DigestInit", Mech=mech("CKM_SHA256")).State
        state = c().call("DigestUpdate", State=init, Data=b"").State
        self.assertEqual(c().call("DigestFinal", State=state).Digest, of_nothing)
        # After an update with no bytes, a call in one piece still works.
        self.assertEqual(c().call("Digest", State=state, Data=b"a").Digest, digest("SHA256", b"a"))

    def test_known_answers(self):
        # FIPS 180-4 and FIPS 202 examples: the message "abc".
        known = {
            "SHA_1": "a9993e364706816aba3e25717850c26c9cd0d89d",
            "SHA224": "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7",
            "SHA256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "SHA384": "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed"
            "8086072ba1e7cc2358baeca134c825a7",
            "SHA512": "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
            "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
            "SHA512_224": "4634270f707b6a54daae7530460842e20e37ed265ceee9a43e8924aa",
            "SHA512_256": "53048e2681941ef99b2e29b76b4c7dabe4c2d0c634fc6d46e0e2f13107e7af23",
            "IBM_SHA3_224": "e642824c3f8cf24ad09234ee7d3c766fc9a3a5168d0c94ad73b46fdf",
            "IBM_SHA3_256": "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532",
            "IBM_SHA3_384": "ec01498288516fc926459f58e2c6ad8df9b473cb0fc08c2596da7cf0e49be4b2"
            "98d88cea927ac7f539f1edf228376d25",
            "IBM_SHA3_512": "b751850b1a57168a5693cd924b6b096e08f621827444f70d884f5d0240d2712e"
            "10e116e9192af3c91a7ec57647e3934057340b4cf408d5a56592f8274eec53f0",
        }
        for name, expected in known.items():
            answer = c().call("DigestSingle", Mech=mech("CKM_" + name), Data=b"abc").Digest
            self.assertEqual(answer.hex(), expected, name)


def hmac_mech(name):
    return "CKM_SHA_1_HMAC" if name == "SHA_1" else f"CKM_{name}_HMAC"


class Hmac(Suite):
    def test_every_hash_key_and_split(self):
        for name in HASHES:
            with self.subTest(name):
                for length in (1, 32, 64, 65, 200):
                    value = bytes(range(length))
                    key, _ = c().take_in(value, "CKK_GENERIC_SECRET", CKA_SIGN=True, CKA_VERIFY=True)
                    self.check(name, key, value)

    def test_aes_keys_are_accepted(self):
        for length in (16, 24, 32):
            value = bytes(range(length))
            key, _ = c().take_in(value, "CKK_AES", CKA_SIGN=True, CKA_VERIFY=True)
            self.check("SHA256", key, value)

    def check(self, name, key, value):
        mechanism = mech(hmac_mech(name))
        data = bytes(range(150))
        expected = HMAC(value, HASHES[name]())
        expected.update(data)
        expected = expected.finalize()
        self.assertEqual(c().sign(mechanism, key, data), expected)
        init = c().call("SignInit", Mech=mechanism, PrivKey=key).State
        self.assertEqual(c().call("Sign", State=init, Data=data).Signature, expected)
        check = c().call("VerifyInit", Mech=mechanism, PubKey=key).State
        c().call("Verify", State=check, Data=data, Signature=expected)
        if len(value) == 65 or name == "SHA256":
            for parts in splits(data, 64):
                signing, verifying = init, check
                for part in parts:
                    signing = c().call("SignUpdate", State=signing, Data=part).State
                    verifying = c().call("VerifyUpdate", State=verifying, Data=part).State
                self.assertEqual(c().call("SignFinal", State=signing).Signature, expected)
                c().call("VerifyFinal", State=verifying, Signature=expected)
        c().verify(mechanism, key, data, expected)
        wrong = expected[:-1] + bytes([expected[-1] ^ 1])
        self.refused("CKR_SIGNATURE_INVALID", c().verify, mechanism, key, data, wrong)
        self.refused("CKR_SIGNATURE_LEN_RANGE", c().verify, mechanism, key, data, expected[:-1])

    def test_known_answers(self):
        # RFC 4231, test case 2, and RFC 2202, test case 2.
        key, _ = c().take_in(b"Jefe", "CKK_GENERIC_SECRET", CKA_SIGN=True)
        data = b"what do ya want for nothing?"
        for name, expected in {
            "CKM_SHA_1_HMAC": "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79",
            "CKM_SHA224_HMAC": "a30e01098bc6dbbf45690f3a7e9e6d0f8bbea2a39e6148008fd05e44",
            "CKM_SHA256_HMAC": "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            "CKM_SHA384_HMAC": "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e"
            "8e2240ca5e69e2c78b3239ecfab21649",
            "CKM_SHA512_HMAC": "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554"
            "9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
        }.items():
            self.assertEqual(c().sign(name, key, data).hex(), expected, name)

    def test_private_keys_are_refused(self):
        private, public_key = c().ec(OIDS["P-256"])
        self.refused("CKR_KEY_TYPE_INCONSISTENT", c().sign, "CKM_SHA256_HMAC", private, b"")
        self.refused("CKR_KEY_TYPE_INCONSISTENT", c().verify, "CKM_SHA256_HMAC", private, b"", b"")

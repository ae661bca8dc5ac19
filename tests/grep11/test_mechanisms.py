"""Mechanisms that are offered, and mechanisms that are not."""

import grep11_pb2 as pb
from client import OIDS, mech, number, pss
from suite import Suite, c


class Mechanisms(Suite):
    def test_the_list_begins_with_rsa_and_tells_the_truth(self):
        offered = list(c().call("GetMechanismList").Mechs)
        self.assertEqual(offered[0], number("CKM_RSA_PKCS"))
        self.assertEqual(len(offered), len(set(offered)))
        for mechanism in offered:
            info = c().call("GetMechanismInfo", Mech=mechanism).MechInfo
            self.assertNotEqual(info.Flags, 0)
            self.assertLessEqual(info.MinKeySize, info.MaxKeySize)
        info = c().call("GetMechanismInfo", Mech=number("CKM_AES_KEY_GEN")).MechInfo
        self.assertEqual((info.MinKeySize, info.MaxKeySize, info.Flags), (16, 32, 32768))
        # Clients compare these two values with those of IBM's server.
        info = c().call("GetMechanismInfo", Mech=number("CKM_RSA_PKCS")).MechInfo
        self.assertEqual((info.MinKeySize, info.MaxKeySize), (512, 4096))
        self.assertEqual(c().call("GetMechanismList").Mechs[0], number("CKM_RSA_PKCS"))

    def test_what_is_not_offered_is_absent_and_refused(self):
        offered = set(c().call("GetMechanismList").Mechs)
        for name in (
            "CKM_DES3_KEY_GEN",
            "CKM_DES3_CBC",
            "CKM_DSA",
            "CKM_DSA_KEY_PAIR_GEN",
            "CKM_DH_PKCS_KEY_PAIR_GEN",
            "CKM_IBM_ECDSA_OTHER",
            "CKM_IBM_BTC_DERIVE",
            "CKM_IBM_ATTRIBUTEBOUND_WRAP",
            "CKM_IBM_DILITHIUM",
            "CKM_IBM_KYBER",
            "CKM_AES_GCM",
            "CKM_RSA_X9_31",
        ):
            self.assertNotIn(number(name), offered)
            message = self.refused(
                "CKR_MECHANISM_INVALID", c().call, "GetMechanismInfo", Mech=number(name)
            )
            self.assertIn(name, message)
        key = c().aes()
        for rpc, fields in (
            ("GenerateKey", dict(Mech=mech("CKM_DES3_KEY_GEN"))),
            ("GenerateKeyPair", dict(Mech=mech("CKM_DSA_KEY_PAIR_GEN"))),
            ("SignSingle", dict(Mech=mech("CKM_IBM_ECDSA_OTHER"), PrivKey=key)),
            ("VerifySingle", dict(Mech=mech("CKM_DSA"), PubKey=key)),
            ("EncryptSingle", dict(Mech=mech("CKM_DES3_CBC", iv=bytes(8)), Key=key)),
            ("DeriveKey", dict(Mech=mech("CKM_IBM_BTC_DERIVE"), BaseKey=key)),
            ("WrapKey", dict(Mech=mech("CKM_IBM_ATTRIBUTEBOUND_WRAP"), Key=key, KeK=key)),
            ("UnwrapKey", dict(Mech=mech("CKM_IBM_ATTRIBUTEBOUND_WRAP"), KeK=key)),
            ("DigestInit", dict(Mech=mech(0x1234_5678))),
        ):
            self.refused("CKR_MECHANISM_INVALID", c().call, rpc, **fields)

    def test_a_mechanism_does_only_what_its_flags_say(self):
        key = c().aes()
        self.refused("CKR_MECHANISM_INVALID", c().sign, mech("CKM_AES_CBC", iv=bytes(16)), key, b"")
        self.refused("CKR_MECHANISM_INVALID", c().encrypt, "CKM_SHA256_HMAC", key, b"")
        self.refused("CKR_MECHANISM_INVALID", c().call, "DigestSingle", Mech=mech("CKM_ECDSA"), Data=b"x")
        self.refused("CKR_ARGUMENTS_BAD", c().call, "SignSingle", PrivKey=key, Data=b"x")

    def test_numbers_whose_sign_was_extended(self):
        """Clients in Java send the numbers of vendors so, which are negative there."""

        def extended(name):
            return number(name) | 0xFFFFFFFF_00000000

        def info(mechanism):
            return c().call("GetMechanismInfo", Mech=mechanism).MechInfo

        private, key = c().pair(
            "CKM_EC_KEY_PAIR_GEN",
            {"CKA_EC_PARAMS": OIDS["Ed25519"], "CKA_VERIFY": True},
            {"CKA_SIGN": True, extended("CKA_IBM_RESTRICTABLE"): True},
        )
        plain = mech("CKM_IBM_ED25519_SHA512")
        sent = pb.Mechanism(Mechanism=extended("CKM_IBM_ED25519_SHA512"))
        self.assertEqual(info(sent.Mechanism), info(plain.Mechanism))
        signature = c().call("SignSingle", Mech=sent, PrivKey=private, Data=b"message").Signature
        c().call("VerifySingle", Mech=plain, PubKey=key, Data=b"message", Signature=signature)
        state = c().call("SignInit", Mech=sent, PrivKey=private).State
        self.assertEqual(c().call("Sign", State=state, Data=b"message").Signature, signature)
        asked = extended("CKA_IBM_RESTRICTABLE")
        told = c().call("GetAttributeValue", Object=private, Attributes={asked: None})
        told = told.AttributesBytes[asked] == b"\x01" if c().old else told.Attributes[asked].AttributeTF
        self.assertTrue(told)
        key_type = number("CKK_IBM_ML_DSA") - (1 << 32)
        key_type = key_type.to_bytes(8, "big", signed=True) if c().old else key_type
        template = {extended("CKA_IBM_PARAMETER_SET"): 1, "CKA_KEY_TYPE": key_type}
        generate = pb.Mechanism(Mechanism=extended("CKM_IBM_ML_DSA_KEY_PAIR_GEN"))
        c().call("GenerateKeyPair", Mech=generate, PubKeyTemplate=template, PrivKeyTemplate={})
        for wrong in (number("CKM_IBM_ED25519_SHA512") | 1 << 32, extended("CKM_ECDSA")):
            self.refused("CKR_MECHANISM_INVALID", info, wrong)

    def test_parameters_are_checked(self):
        key = c().aes()
        for iv in (None, b"", bytes(15), bytes(17), bytes(1000)):
            self.refused("CKR_MECHANISM_PARAM_INVALID", c().encrypt, mech("CKM_AES_CBC", iv=iv), key, b"")
        self.refused("CKR_MECHANISM_PARAM_INVALID", c().encrypt, mech("CKM_AES_ECB", iv=bytes(16)), key, b"")
        private, _ = c().rsa(CKA_SIGN=True)
        self.refused("CKR_MECHANISM_PARAM_INVALID", c().sign, "CKM_SHA256_RSA_PKCS_PSS", private, b"")
        self.refused(
            "CKR_MECHANISM_PARAM_INVALID",
            c().sign,
            pss("CKM_SHA256_RSA_PKCS_PSS", "SHA384", 32),
            private,
            b"",
        )
        self.refused(
            "CKR_MECHANISM_PARAM_INVALID",
            c().sign,
            pss("CKM_SHA256_RSA_PKCS_PSS", "SHA256", 1 << 40),
            private,
            b"",
        )

    def test_sessions_are_refused(self):
        self.refused("CKR_FUNCTION_NOT_SUPPORTED", c().call, "Login", Pin=b"12345678")
        self.refused("CKR_FUNCTION_NOT_SUPPORTED", c().call, "Logout")


class Random(Suite):
    def test_random(self):
        for length in (1, 32, 1_000_000):
            self.assertEqual(len(c().call("GenerateRandom", Len=length).Rnd), length)
        self.assertNotEqual(c().call("GenerateRandom", Len=16).Rnd, c().call("GenerateRandom", Len=16).Rnd)

    def test_bounds(self):
        for length in (0, 1_000_001, 1 << 63, (1 << 64) - 1):
            self.refused("CKR_ARGUMENTS_BAD", c().call, "GenerateRandom", Len=length)

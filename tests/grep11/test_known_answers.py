"""Published answers: see vectors.txt."""

import os

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

import grep11_pb2 as pb
from client import mech, number, oaep, pss, standard
from suite import Suite, c, digest

VECTORS = {}
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "vectors.txt")) as lines:
    for line in lines:
        if not line.startswith("#"):
            kind, *fields = line.split()
            VECTORS.setdefault(kind, []).append(dict(field.split("=") for field in fields))


def octets(text):
    return b"" if text == "-" else bytes.fromhex(text)


def rsa_key(name, **template):
    (vector,) = [vector for vector in VECTORS["rsa_key"] if vector["name"] == name]
    return c().take_in(octets(vector["pkcs8"]), "CKK_RSA", **template)[0]


class KnownAnswers(Suite):
    def vectors(self, kind, count):
        self.assertEqual(len(VECTORS[kind]), count)
        return VECTORS[kind]

    def test_pkcs1_signatures(self):
        for vector in self.vectors("pkcs1_sign", 5):
            key = rsa_key(vector["key"], CKA_SIGN=True)
            name = "CKM_SHA1_RSA_PKCS" if vector["hash"] == "SHA_1" else f"CKM_{vector['hash']}_RSA_PKCS"
            self.assertEqual(c().sign(name, key, octets(vector["msg"])).hex(), vector["sig"])

    def test_pss_signatures(self):
        for vector in self.vectors("pss_verify", 6):
            salt, message = int(vector["salt"]), octets(vector["msg"])
            spki, signature = octets(vector["spki"]), octets(vector["sig"])
            hashed = vector["hash"].replace("_", "")
            for mechanism, data in (
                (f"CKM_{hashed}_RSA_PKCS_PSS", message),
                ("CKM_RSA_PKCS_PSS", digest(vector["hash"], message)),
            ):
                mechanism = pss(mechanism, vector["hash"], salt, vector["mask"])
                c().verify(mechanism, spki, data, signature)
                wrong = data[:-1] + bytes([data[-1] ^ 1])
                self.refused("CKR_SIGNATURE_INVALID", c().verify, mechanism, spki, wrong, signature)

    def test_rsa_decryption(self):
        for vector in self.vectors("oaep_decrypt", 4):
            key = rsa_key(vector["key"], CKA_DECRYPT=True)
            mechanism = oaep(vector["hash"], label=octets(vector["label"]))
            self.assertEqual(c().decrypt(mechanism, key, octets(vector["ct"])).hex(), vector["msg"])
        for vector in self.vectors("pkcs1_decrypt", 1):
            key = rsa_key(vector["key"], CKA_DECRYPT=True)
            self.assertEqual(c().decrypt("CKM_RSA_PKCS", key, octets(vector["ct"])).hex(), vector["msg"])

    def test_ecdh(self):
        curves = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1, "P-521": ec.SECP521R1}
        kek = c().kek()
        for vector in self.vectors("ecdh", 3):
            private = ec.derive_private_key(int(vector["private"], 16), curves[vector["curve"]]())
            pkcs8 = private.private_bytes(
                serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            key, _ = c().take_in(pkcs8, "CKK_EC", CKA_DERIVE=True)
            parameter = pb.ECDH1DeriveParm(Kdf=1, PublicData=octets(vector["point"]))
            derived = c().call(
                "DeriveKey",
                Mech=mech("CKM_ECDH1_DERIVE", ECDH1DeriveParameter=parameter),
                BaseKey=key,
                Template=dict(CKA_EXTRACTABLE=True),
            )
            cbc = mech("CKM_AES_CBC_PAD", iv=bytes(16))
            wrapped = c().call("WrapKey", Mech=cbc, Key=derived.NewKeyBytes, KeK=kek).Wrapped
            self.assertEqual(c().decrypt(cbc, kek, wrapped).hex(), vector["shared"])

    def test_ecdsa(self):
        for vector in self.vectors("ecdsa_verify", 7):
            spki, message, signature = (octets(vector[name]) for name in ("spki", "msg", "sig"))
            hashed = f"CKM_ECDSA_{vector['hash']}"
            for mechanism, data in (
                (hashed, message),
                (hashed.replace("CKM_", "CKM_IBM_"), message),
                ("CKM_ECDSA", digest(vector["hash"], message)),
            ):
                c().verify(mechanism, spki, data, signature)
                wrong = bytes([data[0] ^ 1]) + data[1:]
                self.refused("CKR_SIGNATURE_INVALID", c().verify, mechanism, spki, wrong, signature)

    def test_hmac(self):
        for vector in self.vectors("hmac", 11):
            key, _ = c().take_in(octets(vector["key"]), "CKK_GENERIC_SECRET", CKA_SIGN=True)
            names = [f"CKM_{vector['hash']}_HMAC", f"CKM_IBM_{vector['hash']}_HMAC"]
            offered = c().call("GetMechanismList").Mechs
            used = 0
            for name in names:
                try:
                    known = number(name)
                except KeyError:
                    continue
                if known in offered:
                    self.assertEqual(c().sign(name, key, octets(vector["msg"])).hex(), vector["tag"])
                    used += 1
            self.assertGreater(used, 0)

    def test_aes(self):
        for vector in self.vectors("aes_cbc_pad", 3):
            key, _ = c().take_in(octets(vector["key"]), "CKK_AES", CKA_ENCRYPT=True, CKA_DECRYPT=True)
            mechanism = mech("CKM_AES_CBC_PAD", iv=octets(vector["iv"]))
            self.assertEqual(c().encrypt(mechanism, key, octets(vector["msg"])).hex(), vector["ct"])
            self.assertEqual(c().decrypt(mechanism, key, octets(vector["ct"])).hex(), vector["msg"])

    def test_ml_dsa(self):
        for vector in self.vectors("ml_dsa", 3):
            key, check_sum = c().take_in(octets(vector["pkcs8"]), "CKK_IBM_ML_DSA", CKA_SIGN=True)
            spki = standard(check_sum)
            self.assertEqual(spki[22:].hex(), vector["public"])
            message = octets(vector["msg"])
            c().verify("CKM_IBM_ML_DSA", spki, message, octets(vector["sig"]))
            self.refused(
                "CKR_SIGNATURE_INVALID", c().verify, "CKM_IBM_ML_DSA", spki, b"x", octets(vector["sig"])
            )
            # Our own signature differs, because it is randomised.
            c().verify("CKM_IBM_ML_DSA", spki, message, c().sign("CKM_IBM_ML_DSA", key, message))

"""Control points: clients of servers with one master key and the profiles open, strict and tls."""

from client import OIDS, mech, number
from suite import Suite, c, strict, tls

IV = bytes(range(16))
CBC = dict(iv=IV)


def wrapped_secret():
    """A wrapping key that may only wrap and unwrap, a key that it has wrapped, and the ciphertexts."""
    uses = dict(CKA_ENCRYPT=False, CKA_DECRYPT=False, CKA_SIGN=False, CKA_VERIFY=False)
    kek = c().aes(CKA_WRAP=True, CKA_UNWRAP=True, CKA_EXTRACTABLE=False, **uses)
    secret = c().aes()
    wrap = lambda name: c().call("WrapKey", Mech=mech(name, **CBC), KeK=kek, Key=secret).Wrapped
    return kek, secret, {name: wrap(name) for name in ("CKM_AES_CBC", "CKM_AES_CBC_PAD")}


def unwrap(client, name, kek, wrapped, key_type="CKK_AES", **template):
    template = dict(CKA_KEY_TYPE=number(key_type), **template)
    return client.call("UnwrapKey", Mech=mech(name, **CBC), KeK=kek, Wrapped=wrapped, Template=template).UnwrappedBytes


class ControlPoints(Suite):
    def test_three_calls_get_a_wrapped_key_out_under_open_only(self):
        kek, secret, wrapped = wrapped_secret()
        own = c().aes(CKA_WRAP=True)
        ciphertext = c().encrypt(mech("CKM_AES_ECB"), secret, bytes(16))
        for name, value in wrapped.items():
            out = unwrap(c(), name, kek, value, CKA_EXTRACTABLE=True)
            again = c().call("WrapKey", Mech=mech("CKM_AES_CBC", **CBC), KeK=own, Key=out).Wrapped
            plain = c().decrypt(mech("CKM_AES_CBC", **CBC), own, again)
            self.assertEqual(c().encrypt(mech("CKM_AES_ECB"), c().take_in(plain, "CKK_AES", CKA_ENCRYPT=True)[0], bytes(16)), ciphertext)
            for guarded in (strict(), tls()):
                code = "CKR_MECHANISM_INVALID" if name == "CKM_AES_CBC" else "CKR_TEMPLATE_INCONSISTENT"
                self.refused(code, unwrap, guarded, name, kek, value, CKA_EXTRACTABLE=True)
                for call in ("CKM_AES_CBC", "CKM_AES_ECB", "CKM_RSA_PKCS_OAEP"):
                    self.refused("CKR_MECHANISM_INVALID", guarded.call, "WrapKey", Mech=mech(call, **CBC), KeK=own, Key=out)

    def test_short_secrets_are_made_under_open_only(self):
        base, _ = c().ec(OIDS["P-256"], CKA_DERIVE=True)
        _, peer = c().ec(OIDS["P-256"])
        point = c().attributes(peer, "CKA_EC_POINT")["CKA_EC_POINT"]
        derive = lambda client, length: client.call(
            "DeriveKey",
            Mech=mech("CKM_ECDH1_DERIVE", iv=point),
            BaseKey=base,
            Template=dict(CKA_KEY_TYPE=number("CKK_GENERIC_SECRET"), CKA_VALUE_LEN=length),
        )
        derive(c(), 1)
        derive(strict(), 16)
        for length in (1, 8, 15):
            self.refused("CKR_KEY_SIZE_RANGE", derive, strict(), length)
            self.refused("CKR_KEY_SIZE_RANGE", strict().generic, length)
        self.refused("CKR_MECHANISM_INVALID", derive, tls(), 32)

    def test_a_key_is_modifiable_only_if_the_client_asks(self):
        for client, default in ((c(), True), (strict(), False), (tls(), False)):
            private, public = client.rsa()
            for blob in (private, public):
                self.assertEqual(bool(client.attributes(blob, "CKA_MODIFIABLE")["CKA_MODIFIABLE"] not in (False, b"\0")), default)

    def test_lists_of_mechanisms_are_true(self):
        listed = {client: set(client.call("GetMechanismList").Mechs) for client in (c(), strict(), tls())}
        self.assertEqual(listed[c()], listed[strict()])
        self.assertLess(len(listed[tls()]), len(listed[c()]) / 2)
        for mechanism in listed[c()] - listed[tls()]:
            self.refused("CKR_MECHANISM_INVALID", tls().call, "GetMechanismInfo", Mech=mechanism)
        for name, flags in (("CKM_RSA_PKCS", 0x60000), ("CKM_AES_CBC", 0x60000), ("CKM_AES_CBC_PAD", 0x20000)):
            flags_of = lambda client: client.call("GetMechanismInfo", Mech=number(name)).MechInfo.Flags
            self.assertEqual(flags_of(c()) & flags, flags)
            self.assertEqual(flags_of(strict()) & flags, 0, name)
        # Clients make an AES key to learn the name of the master key; it has no use.
        tls().generate_key("CKM_AES_KEY_GEN", CKA_VALUE_LEN=32)
        self.refused("CKR_TEMPLATE_INCONSISTENT", tls().aes, CKA_EXTRACTABLE=False)
        message = self.refused("CKR_MECHANISM_INVALID", tls().generic)
        self.assertIn("keyward unit control-points", message)

    def test_keys_for_tls_are_made_and_used_under_every_profile(self):
        for client in (c(), strict(), tls()):
            private, public = client.ec(OIDS["P-256"])
            client.verify("CKM_ECDSA_SHA256", public, b"data", client.sign("CKM_ECDSA_SHA256", private, b"data"))
            private, public = client.rsa()
            ciphertext = c().encrypt("CKM_RSA_PKCS", public, b"premaster")
            self.assertEqual(client.decrypt("CKM_RSA_PKCS", private, ciphertext), b"premaster")

"""AES."""

from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from client import OIDS, mech, oaep
from suite import Suite, c, splits

IV = bytes(range(100, 116))


def aes(length):
    value = bytes(range(length))
    uses = dict(CKA_ENCRYPT=True, CKA_DECRYPT=True)
    return value, c().take_in(value, "CKK_AES", **uses)[0]


def expected(name, value, data):
    mode = modes.ECB() if name == "CKM_AES_ECB" else modes.CBC(IV)
    if name == "CKM_AES_CBC_PAD":
        padder = padding.PKCS7(128).padder()
        data = padder.update(data) + padder.finalize()
    encryptor = Cipher(algorithms.AES(value), mode).encryptor()
    return encryptor.update(data) + encryptor.finalize()


def as_mechanism(name):
    return mech(name) if name == "CKM_AES_ECB" else mech(name, iv=IV)


class Aes(Suite):
    def test_every_key_mode_and_split(self):
        for length in (16, 24, 32):
            value, key = aes(length)
            for name in ("CKM_AES_ECB", "CKM_AES_CBC", "CKM_AES_CBC_PAD"):
                lengths = (0, 1, 15, 16, 17, 31, 32, 33, 100) if name.endswith("PAD") else (0, 16, 32, 96)
                for size in lengths:
                    with self.subTest(f"{length} {name} {size}"):
                        self.check(name, value, key, bytes(range(size)), size in (33, 32, 96))

    def check(self, name, value, key, plain, all_splits):
        mechanism = as_mechanism(name)
        ciphertext = expected(name, value, plain)
        self.assertEqual(c().encrypt(mechanism, key, plain), ciphertext)
        self.assertEqual(c().decrypt(mechanism, key, ciphertext), plain)
        begin = c().call("EncryptInit", Mech=mechanism, Key=key).State
        end = c().call("DecryptInit", Mech=mechanism, Key=key).State
        self.assertEqual(c().call("Encrypt", State=begin, Plain=plain).Ciphered, ciphertext)
        self.assertEqual(c().call("Decrypt", State=end, Ciphered=ciphertext).Plain, plain)
        for parts in splits(plain) if all_splits else [[plain]]:
            state, out = begin, b""
            for part in parts:
                response = c().call("EncryptUpdate", State=state, Plain=part)
                state, out = response.State, out + response.Ciphered
            out += c().call("EncryptFinal", State=state).Ciphered
            self.assertEqual(out, ciphertext)
        for parts in splits(ciphertext) if all_splits else [[ciphertext]]:
            state, out = end, b""
            for part in parts:
                response = c().call("DecryptUpdate", State=state, Ciphered=part)
                state, out = response.State, out + response.Plain
            out += c().call("DecryptFinal", State=state).Plain
            self.assertEqual(out, plain)

    def test_known_answers(self):
        # NIST SP 800-38A, F.1.1, F.1.5, F.2.1, F.2.3 and F.2.5: the first two blocks.
        plain = bytes.fromhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51")
        iv = bytes(range(16))
        keys = {
            16: "2b7e151628aed2a6abf7158809cf4f3c",
            24: "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b",
            32: "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
        }
        for length, mechanism, answer in (
            (16, mech("CKM_AES_ECB"), "3ad77bb40d7a3660a89ecaf32466ef97f5d3d58503b9699de785895a96fdbaaf"),
            (32, mech("CKM_AES_ECB"), "f3eed1bdb5d2a03c064b5a7e3db181f8591ccb10d410ed26dc5ba74a31362870"),
            (16, mech("CKM_AES_CBC", iv=iv), "7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b2"),
            (24, mech("CKM_AES_CBC", iv=iv), "4f021db243bc633d7178183a9fa071e8b4d9ada9ad7dedf4e5e738763f69145a"),
            (32, mech("CKM_AES_CBC", iv=iv), "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d"),
        ):
            key, check_sum = c().take_in(bytes.fromhex(keys[length]), "CKK_AES", CKA_ENCRYPT=True)
            self.assertEqual(c().encrypt(mechanism, key, plain).hex(), answer)
            self.assertEqual(check_sum[3:], (8 * length).to_bytes(4, "big"))
        # FIPS 197, C.1.
        key, _ = c().take_in(bytes(range(16)), "CKK_AES", CKA_ENCRYPT=True)
        block = bytes.fromhex("00112233445566778899aabbccddeeff")
        self.assertEqual(c().encrypt("CKM_AES_ECB", key, block).hex(), "69c4e0d86a7b0430d8cdb78070b4c55a")

    def test_data_that_do_not_fit(self):
        _, key = aes(16)
        for name in ("CKM_AES_ECB", "CKM_AES_CBC"):
            mechanism = as_mechanism(name)
            for length in (1, 15, 17):
                self.refused("CKR_DATA_LEN_RANGE", c().encrypt, mechanism, key, bytes(length))
                self.refused("CKR_ENCRYPTED_DATA_LEN_RANGE", c().decrypt, mechanism, key, bytes(length))
            state = c().call("EncryptInit", Mech=mechanism, Key=key).State
            state = c().call("EncryptUpdate", State=state, Plain=bytes(17)).State
            self.refused("CKR_DATA_LEN_RANGE", c().call, "EncryptFinal", State=state)
        pad = as_mechanism("CKM_AES_CBC_PAD")
        for length in (0, 1, 15, 17):
            self.refused("CKR_ENCRYPTED_DATA_LEN_RANGE", c().decrypt, pad, key, bytes(length))
        good = c().encrypt(pad, key, b"plain")
        self.refused("CKR_ENCRYPTED_DATA_INVALID", c().decrypt, pad, key, bytes([*good[:15], good[15] ^ 64]))

    def test_a_one_shot_call_after_a_part_is_refused(self):
        _, key = aes(16)
        pad = as_mechanism("CKM_AES_CBC_PAD")
        state = c().call("EncryptInit", Mech=pad, Key=key).State
        state = c().call("EncryptUpdate", State=state, Plain=b"x").State
        self.refused("CKR_OPERATION_ACTIVE", c().call, "Encrypt", State=state, Plain=b"y")

    def test_permissions_and_types(self):
        deaf = c().aes(CKA_ENCRYPT=False, CKA_DECRYPT=False)
        pad = as_mechanism("CKM_AES_CBC_PAD")
        self.refused("CKR_KEY_FUNCTION_NOT_PERMITTED", c().encrypt, pad, deaf, b"")
        self.refused("CKR_KEY_FUNCTION_NOT_PERMITTED", c().decrypt, pad, deaf, bytes(16))
        self.refused("CKR_KEY_FUNCTION_NOT_PERMITTED", c().call, "EncryptInit", Mech=pad, Key=deaf)
        self.refused("CKR_KEY_FUNCTION_NOT_PERMITTED", c().call, "DecryptInit", Mech=pad, Key=deaf)
        generic = c().generic(32)
        self.refused("CKR_KEY_TYPE_INCONSISTENT", c().encrypt, pad, generic, b"")
        private, _ = c().ec(OIDS["P-256"])
        self.refused("CKR_KEY_TYPE_INCONSISTENT", c().decrypt, pad, private, bytes(16))

    def test_reencrypt(self):
        value, key = aes(32)
        private, public_key = c().rsa(CKA_DECRYPT=True)
        plain = b"never outside"
        pad = as_mechanism("CKM_AES_CBC_PAD")
        ciphertext = c().encrypt(oaep("SHA256"), public_key, plain)
        fields = dict(DecMech=oaep("SHA256"), DecKey=private, EncMech=pad, EncKey=key, Ciphered=ciphertext)
        answer = c().call("ReencryptSingle", **fields).Reciphered
        self.assertEqual(answer, expected("CKM_AES_CBC_PAD", value, plain))
        back = c().call(
            "ReencryptSingle", DecMech=pad, DecKey=key, EncMech=mech("CKM_RSA_PKCS"), EncKey=public_key, Ciphered=answer
        ).Reciphered
        self.assertEqual(c().decrypt("CKM_RSA_PKCS", private, back), plain)
        deaf = c().aes(CKA_ENCRYPT=False, CKA_DECRYPT=False)
        self.refused("CKR_KEY_FUNCTION_NOT_PERMITTED", c().call, "ReencryptSingle", **{**fields, "EncKey": deaf})
        self.refused("CKR_ENCRYPTED_DATA_LEN_RANGE", c().call, "ReencryptSingle", **{**fields, "Ciphered": b"x"})
        self.refused("CKR_MECHANISM_INVALID", c().call, "ReencryptSingle", **{**fields, "EncMech": mech("CKM_ECDSA")})

    def test_a_megabyte_and_more(self):
        value, key = aes(32)
        plain = bytes(20 << 20)
        self.assertEqual(c().encrypt(as_mechanism("CKM_AES_CBC"), key, plain), expected("CKM_AES_CBC", value, plain))

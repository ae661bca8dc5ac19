"""ML-DSA. The tests of the unit verify its signatures with another library."""

from client import mech, standard
from suite import MESSAGE, Suite, c

MECHANISM = "CKM_IBM_ML_DSA"
# FIPS 204, table 2: lengths of public keys and signatures in bytes.
SIZES = {1: (1312, 2420), 2: (1952, 3309), 3: (2592, 4627)}


class MlDsa(Suite):
    def pair(self, parameters, **private):
        public = dict(CKA_IBM_PARAMETER_SET=parameters, CKA_VERIFY=True)
        return c().pair("CKM_IBM_ML_DSA_KEY_PAIR_GEN", public, private)

    def test_signs(self):
        for parameters, (public_length, length) in SIZES.items():
            private, key = self.pair(parameters)
            self.assertEqual(len(standard(key)), public_length + 22)
            signature = c().sign(MECHANISM, private, MESSAGE)
            self.assertEqual(len(signature), length)
            for form in (key, standard(key)):
                c().verify(MECHANISM, form, MESSAGE, signature)
            self.refused("CKR_SIGNATURE_INVALID", c().verify, MECHANISM, key, b"another", signature)
            wrong = signature[:99] + bytes([signature[99] ^ 1]) + signature[100:]
            self.refused("CKR_SIGNATURE_INVALID", c().verify, MECHANISM, key, MESSAGE, wrong)
            self.refused("CKR_SIGNATURE_LEN_RANGE", c().verify, MECHANISM, key, MESSAGE, signature[1:])
            state = c().call("SignInit", Mech=mech(MECHANISM), PrivKey=private).State
            again = c().call("Sign", State=state, Data=MESSAGE).Signature
            c().verify(MECHANISM, key, MESSAGE, again)
            self.refused("CKR_FUNCTION_NOT_SUPPORTED", c().call, "SignUpdate", State=state, Data=b"x")

    def test_parameter_sets(self):
        for unknown in (0, 4, 1 << 40):
            self.refused("CKR_ATTRIBUTE_VALUE_INVALID", self.pair, unknown)
        private, _ = self.pair(1, CKA_SIGN=False)
        self.refused("CKR_KEY_FUNCTION_NOT_PERMITTED", c().sign, MECHANISM, private, MESSAGE)

"""A GREP11 client that is generated from the project's .proto and speaks either dialect of requests.

"keyblob" sends keys as KeyBlob messages and templates with typed values. "bytes" sends the fields of
clients from 2019 on: keys as bytes, and templates as maps of bytes. Responses carry both forms, and
the client checks that both forms are equal.
"""

import os

import grpc

import grep11_pb2 as pb
import status_pb2

HERE = os.path.dirname(os.path.abspath(__file__))

_numbers = {}


def number(name):
    """A number of PKCS #11 by its name, from the list that the .proto is compared with."""
    if not _numbers:
        with open(os.path.join(HERE, "../../proto/grep11/tests/interface.txt")) as facts:
            for line in facts:
                kind, *words = line.split()
                if kind == "constant":
                    _numbers[words[0]] = int(words[1], 16)
    return _numbers[name]


class Refused(Exception):
    """A call that failed, with the number of its one detail."""

    def __init__(self, rpc, error):
        trailer = dict(error.trailing_metadata() or {})
        encoded = trailer.get("grpc-status-details-bin")
        assert encoded is not None, f"{rpc}: no details: {error.code()} {error.details()}"
        status = status_pb2.Status.FromString(encoded)
        (detail,) = status.details
        assert detail.type_url == "type.googleapis.com/grep11.Grep11Error", detail.type_url
        grep11 = pb.Grep11Error.FromString(detail.value)
        assert status.message == error.details()
        assert status.code == error.code().value[0]
        self.code = grep11.Code
        self.retry = grep11.Retry
        self.message = error.details()
        self.rpc = rpc
        super().__init__(f"{rpc}: {self.message}")
        name = self.message.split(":")[0]
        assert number(name) == grep11.Code, f"{self.message} has number {grep11.Code:#x}"
        assert grep11.Detail and grep11.Detail in self.message


# The calls and mechanisms of this process, so that the suite can find the missing ones.
called = set()
mechanisms = set()


class Client:
    def __init__(self, address, credentials, dialect, token=None):
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        if credentials is None:
            self.channel = grpc.insecure_channel(address, options)
        else:
            self.channel = grpc.secure_channel(address, credentials, options)
        assert dialect in ("keyblob", "bytes")
        self.old = dialect == "bytes"
        self.metadata = [("authorization", f"Bearer {token}")] if token else []
        self.rpcs = {}
        service = pb.DESCRIPTOR.services_by_name["Crypto"]
        for method in service.methods:
            self.rpcs[method.name] = (
                getattr(pb, method.input_type.name),
                self.channel.unary_unary(
                    f"/{service.full_name}/{method.name}",
                    request_serializer=lambda message: message.SerializeToString(),
                    response_deserializer=getattr(pb, method.output_type.name).FromString,
                ),
            )

    def close(self):
        self.channel.close()

    def call(self, rpc, **fields):
        """Calls an rpc. Keys are given as blobs, templates as dicts from names to values."""
        called.add(rpc)
        request_type, stub = self.rpcs[rpc]
        request = request_type()
        for name, value in fields.items():
            if value is None:
                continue
            field = request_type.DESCRIPTOR.fields_by_name[name]
            if isinstance(value, dict) or (field.message_type and field.message_type.GetOptions().map_entry):
                self._template(request, name, value)
            elif field.message_type and field.message_type.name == "KeyBlob":
                if self.old:
                    setattr(request, name + "Bytes", value)
                else:
                    getattr(request, name).KeyBlobs.append(value)
            elif field.message_type:
                if field.message_type.name == "Mechanism":
                    mechanisms.add(value.Mechanism)
                getattr(request, name).CopyFrom(value)
            else:
                setattr(request, name, value)
        return self.send(rpc, request)

    def send(self, rpc, request):
        _, stub = self.rpcs[rpc]
        try:
            response = stub(request, timeout=60, metadata=self.metadata)
        except grpc.RpcError as error:
            raise Refused(rpc, error) from None
        self._same_in_both_forms(response)
        return response

    def _template(self, request, name, template):
        for attribute, value in template.items():
            cka = attribute if isinstance(attribute, int) else number(attribute)
            if self.old:
                entry = getattr(request, name + "Bytes")
                if isinstance(value, bool):
                    entry[cka] = bytes([value])
                elif isinstance(value, int):
                    entry[cka] = value.to_bytes(8, "big")
                else:
                    entry[cka] = value or b""
            else:
                entry = getattr(request, name)[cka]
                if isinstance(value, bool):
                    entry.AttributeTF = value
                elif isinstance(value, int):
                    entry.AttributeI = value
                elif value is not None:
                    entry.AttributeB = value

    @staticmethod
    def _same_in_both_forms(response):
        for field in response.DESCRIPTOR.fields:
            if field.message_type and field.message_type.name == "KeyBlob":
                (blob,) = getattr(response, field.name).KeyBlobs
                plain = {"RewrappedKey": "RewrappedKeyBytes"}.get(field.name, field.name + "Bytes")
                assert blob == getattr(response, plain), field.name
                assert blob, field.name

    # Calls that most tests need.

    def generate_key(self, mechanism, **template):
        response = self.call("GenerateKey", Mech=mech(mechanism), Template=template)
        return response.KeyBytes, response.CheckSum

    def aes(self, length=32, **template):
        uses = dict(CKA_VALUE_LEN=length, CKA_ENCRYPT=True, CKA_DECRYPT=True, CKA_EXTRACTABLE=True)
        return self.generate_key("CKM_AES_KEY_GEN", **{**uses, **template})[0]

    def kek(self):
        return self.aes(CKA_WRAP=True, CKA_UNWRAP=True)

    def generic(self, length=32, **template):
        return self.generate_key("CKM_GENERIC_SECRET_KEY_GEN", CKA_VALUE_LEN=length, **template)[0]

    def pair(self, mechanism, public, private):
        response = self.call(
            "GenerateKeyPair", Mech=mech(mechanism), PubKeyTemplate=public, PrivKeyTemplate=private
        )
        return response.PrivKeyBytes, response.PubKeyBytes

    def rsa(self, bits=2048, exponent=65537, **private):
        public = dict(CKA_MODULUS_BITS=bits, CKA_PUBLIC_EXPONENT=exponent, CKA_VERIFY=True, CKA_ENCRYPT=True)
        return self.pair("CKM_RSA_PKCS_KEY_PAIR_GEN", {**public, "CKA_WRAP": True}, private)

    def ec(self, curve, **private):
        return self.pair("CKM_EC_KEY_PAIR_GEN", dict(CKA_EC_PARAMS=curve, CKA_VERIFY=True), private)

    def sign(self, mechanism, key, data):
        return self.call("SignSingle", Mech=as_mech(mechanism), PrivKey=key, Data=data).Signature

    def verify(self, mechanism, key, data, signature):
        self.call("VerifySingle", Mech=as_mech(mechanism), PubKey=key, Data=data, Signature=signature)

    def encrypt(self, mechanism, key, data):
        return self.call("EncryptSingle", Mech=as_mech(mechanism), Key=key, Plain=data).Ciphered

    def decrypt(self, mechanism, key, data):
        return self.call("DecryptSingle", Mech=as_mech(mechanism), Key=key, Ciphered=data).Plain

    def take_in(self, value, key_type, **template):
        """Imports a key with a known value, or a private key in PKCS#8, by wrapping it first."""
        kek = self.kek()
        cbc = mech("CKM_AES_CBC_PAD", iv=bytes(16))
        wrapped = self.encrypt(cbc, kek, value)
        response = self.call(
            "UnwrapKey",
            Mech=cbc,
            KeK=kek,
            Wrapped=wrapped,
            Template=dict(CKA_KEY_TYPE=number(key_type), **template),
        )
        return response.UnwrappedBytes, response.CheckSum

    def attributes(self, blob, *names):
        wanted = {name: None for name in names}
        response = self.call("GetAttributeValue", Object=blob, Attributes=wanted)
        found = {}
        for name in names:
            if self.old:
                found[name] = response.AttributesBytes[number(name)]
            else:
                value = response.Attributes[number(name)]
                found[name] = getattr(value, value.WhichOneof("one_attr"))
        return found


def mech(name, iv=None, **parameter):
    """A mechanism by name, with an IV or the fields of its parameter."""
    mechanism = pb.Mechanism(Mechanism=number(name) if isinstance(name, str) else name)
    if iv is not None:
        mechanism.ParameterB = iv
    for field, value in parameter.items():
        getattr(mechanism, field).CopyFrom(value)
    return mechanism


def as_mech(mechanism):
    return mech(mechanism) if isinstance(mechanism, str) else mechanism


MASKS = {"SHA_1": 1, "SHA256": 2, "SHA384": 3, "SHA512": 4, "SHA224": 5}


def pss(name, hash_name, salt, mask=None):
    parameter = pb.RSAPSSParm(
        HashMech=number("CKM_" + hash_name), Mgf=MASKS[mask or hash_name], SaltByteCount=salt
    )
    return mech(name, RSAPSSParameter=parameter)


def oaep(hash_name, mask=None, label=None):
    parameter = pb.RSAOAEPParm(HashMech=number("CKM_" + hash_name), Mgf=MASKS[mask or hash_name])
    if label is not None:
        parameter.EncodingParmType = 1
        parameter.EncodingParm = label
    return mech("CKM_RSA_PKCS_OAEP", RSAOAEPParameter=parameter)


def first_element(der):
    """The first DER element, which readers of a public key blob take."""
    length = der[1]
    if length < 0x80:
        return der[: 2 + length]
    octets = length & 0x7F
    return der[: 2 + octets + int.from_bytes(der[2 : 2 + octets], "big")]


ED25519_EP11 = bytes.fromhex("3033300e06072a8648ce3d020106032b6570032100")
ED25519_STANDARD = bytes.fromhex("302a300506032b6570032100")
X25519_EP11 = bytes.fromhex("3033300e06072a8648ce3d020106032b656e032100")
X25519_STANDARD = bytes.fromhex("302a300506032b656e032100")


def standard(public):
    """The SubjectPublicKeyInfo of a public key blob, in the form of the standards."""
    spki = first_element(public)
    for ep11, rfc in ((ED25519_EP11, ED25519_STANDARD), (X25519_EP11, X25519_STANDARD)):
        if spki.startswith(ep11):
            return rfc + spki[len(ep11) :]
    return spki


def rpcs_of_the_service():
    return [method.name for method in pb.DESCRIPTOR.services_by_name["Crypto"].methods]


OIDS = {
    "P-256": bytes.fromhex("06082a8648ce3d030107"),
    "P-384": bytes.fromhex("06052b81040022"),
    "P-521": bytes.fromhex("06052b81040023"),
    "secp256k1": bytes.fromhex("06052b8104000a"),
    "Ed25519": bytes.fromhex("06032b6570"),
    "X25519": bytes.fromhex("06032b656e"),
}

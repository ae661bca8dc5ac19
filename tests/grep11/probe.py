"""One call to a GREP11 server, for the tests of the server itself; prints the outcome in one line.

usage: probe.py ADDRESS CALL [--ca FILE] [--cert FILE --key FILE] [--token TOKEN]
Without --ca it speaks plaintext. CALL is list, info=MECHANISM, health, reflection, sign, digest=BYTES, or
pair=TYPE[,ATTRIBUTE=0|1]...,FILES: makes a key pair of RSA-BITS or on a curve, and writes the output of the unit
to FILES.blob and FILES.public, and the public key in PEM to FILES.pem.
"""

import argparse
import base64
import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

import client
from client import OIDS, Refused, mech, number, standard


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("call")
    for option in ("--ca", "--cert", "--key", "--token"):
        parser.add_argument(option)
    options = parser.parse_args()
    read = lambda path: open(path, "rb").read() if path else None
    credentials = None
    if options.ca:
        credentials = grpc.ssl_channel_credentials(read(options.ca), read(options.key), read(options.cert))
    server = client.Client(options.address, credentials, "keyblob", options.token)
    try:
        print(answer(server, options.call))
    except Refused as refused:
        print(f"refused, retry {refused.retry}: {refused.message}")
    except grpc.RpcError as error:
        print(f"failed: {error.code().name}: {error.details()}")
    except AssertionError as error:
        print(f"failed: {error}")


def answer(server, call):
    raw = dict(request_serializer=bytes, response_deserializer=bytes)
    if call == "list":
        return f"{len(server.call('GetMechanismList').Mechs)} mechanisms"
    if call.startswith("info="):
        server.call("GetMechanismInfo", Mech=number(call.removeprefix("info=")))
        return "offered"
    if call == "sign":
        private, public = server.ec(OIDS["P-256"])
        signature = server.sign("CKM_ECDSA_SHA256", private, b"message")
        server.verify("CKM_ECDSA_SHA256", public, b"message", signature)
        return f"signature of {len(signature)} bytes"
    if call.startswith("pair="):
        kind, *attributes, files = call.removeprefix("pair=").split(",")
        template = {name: value == "1" for name, value in (one.split("=") for one in attributes)}
        if kind.startswith("RSA-"):
            pair = server.rsa(int(kind.removeprefix("RSA-")), **template)
        else:
            pair = server.ec(OIDS[kind], **template)
        text = base64.encodebytes(standard(pair[1])).decode()
        pem = f"-----BEGIN PUBLIC KEY-----\n{text}-----END PUBLIC KEY-----\n"
        for suffix, content in (("blob", pair[0]), ("public", pair[1]), ("pem", pem.encode())):
            with open(f"{files}.{suffix}", "wb") as file:
                file.write(content)
        return "written"
    if call == "health":
        check = server.channel.unary_unary("/grpc.health.v1.Health/Check", **raw)
        return {b"\x08\x01": "serving"}.get(check(b"\x0a\x0dgrep11.Crypto", timeout=20), "not serving")
    if call == "reflection":
        rpc = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        (services,) = server.channel.stream_stream(rpc, **raw)(iter([b"\x3a\x00"]), timeout=20)
        return "describes grep11.Crypto" if b"grep11.Crypto" in services else "describes something else"
    length = int(call.removeprefix("digest="))
    digest = server.call("DigestSingle", Mech=mech("CKM_SHA256"), Data=bytes(length)).Digest
    return f"digest of {len(digest)} bytes"


main()

"""Gives access tokens for an API key, as IBM Cloud IAM does: POST /identity/token, over TLS, on a free port.

Usage: iam.py CERTIFICATE KEY DIRECTORY

Writes its port to the file `port` of the directory. Each request adds a line with its outcome to `requests`.
The file `mode` sets the behaviour: the lifetime of tokens in seconds, or "refuse".
"""

import http.server
import json
import pathlib
import ssl
import sys
import urllib.parse

CERTIFICATE, KEY, DIRECTORY = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
API_KEY = "the-api-key+of/the=test"
GIVEN = 0


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        global GIVEN
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        form = urllib.parse.parse_qs(body, strict_parsing=True)
        mode = (DIRECTORY / "mode").read_text().strip()
        asked = (
            self.path == "/identity/token"
            and self.headers["Content-Type"] == "application/x-www-form-urlencoded"
            and form == {"grant_type": ["urn:ibm:params:oauth:grant-type:apikey"], "apikey": [API_KEY]}
        )
        if not asked:
            self.answer(400, {"errorCode": "BXNIM0415E", "errorMessage": "Provided API key could not be found."})
        elif mode == "refuse":
            self.answer(503, {"errorCode": "BXNIM0503E", "errorMessage": "Service is not available."})
        else:
            GIVEN += 1
            token = f"token-number-{GIVEN}-of-iam"
            self.answer(200, {"access_token": token, "token_type": "Bearer", "expires_in": int(mode)})

    def answer(self, status, value):
        with (DIRECTORY / "requests").open("a") as requests:
            requests.write(f"{status}\n")
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(CERTIFICATE, KEY)
server.socket = context.wrap_socket(server.socket, server_side=True)
(DIRECTORY / "port.new").write_text(str(server.server_port))
(DIRECTORY / "port.new").rename(DIRECTORY / "port")
server.serve_forever()

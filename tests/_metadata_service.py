"""A stand-in of EC2's instance metadata service, IMDSv2 as its documentation describes it."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NOTICE = "/latest/meta-data/spot/instance-action"
REBALANCE = "/latest/meta-data/events/recommendations/rebalance"


class MetadataService:
    """What the service says, and what it was asked."""

    def __init__(self, address: str) -> None:
        self.url = ""
        self.texts = {"/latest/meta-data/local-ipv4": address}
        """By path; 404 for all others."""
        self.tokens: dict[str, int] = {}
        """Those that are valid, with the seconds that they were asked for."""
        self.given = 0
        self.status = 200
        """Another one is the answer to everything."""

    def give_notice(self, seconds: float) -> None:
        """Begin to say that this machine ends."""
        end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
        self.texts[NOTICE] = json.dumps({"action": "terminate", "time": end})


@contextlib.contextmanager
def metadata_service(address: str = "127.0.0.1") -> Iterator[MetadataService]:
    """Serve for a machine of this address."""
    service = MetadataService(address)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"service": service}))
    service.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    service: MetadataService

    def do_PUT(self) -> None:
        ttl = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if self.path != "/latest/api/token" or not ttl.isdigit() or not 1 <= int(ttl) <= 21_600:
            self._answer(400, "")
            return
        self.service.given += 1
        token = f"token-{self.service.given}"
        self.service.tokens[token] = int(ttl)
        self._answer(200, token)

    def do_GET(self) -> None:
        if self.headers.get("X-aws-ec2-metadata-token") not in self.service.tokens:
            self._answer(401, "")
        elif (text := self.service.texts.get(self.path)) is None:
            self._answer(404, "")
        else:
            self._answer(200, text)

    def _answer(self, status: int, text: str) -> None:
        if self.service.status != 200:
            status, text = self.service.status, ""
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass

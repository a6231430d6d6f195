"""What EC2's instance metadata service (IMDSv2) tells this machine: its address, and the notice of its end."""

import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import datetime
from http.client import HTTPException

SERVICE = "http://169.254.169.254"

_TOKEN_TTL_S = 21_600
"""The longest that the service gives; a token that it no longer takes is renewed at once."""
_NOTICE_S = 120.0
"""Between EC2's notice and the end, where a notice does not say when."""
_STATUS_NOT_FOUND, _STATUS_UNAUTHORIZED = 404, 401


class MetadataError(Exception):
    """The service does not answer as it should; one sentence says how."""


class Metadata:
    """Reads the service within a session, whose token is asked for when it is needed.

    Args:
        service: address of the service, ``http://host[:port]``.
        timeout_s: seconds for each request.
    """

    def __init__(self, service: str = SERVICE, *, timeout_s: float = 2.0) -> None:
        self._service, self._timeout_s = service.rstrip("/"), timeout_s
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # this is no address of the web
        self._token = ""

    def read(self, path: str) -> str | None:
        """Text at a path below ``/latest/meta-data/``; None where there is nothing.

        Raises:
            MetadataError: the service is away, or refuses.
        """
        status, text = self._get(path) if self._token else (_STATUS_UNAUTHORIZED, "")
        if status == _STATUS_UNAUTHORIZED:  # no token yet, or one that has expired
            self._token = self._new_token()
            status, text = self._get(path)
        if status == _STATUS_NOT_FOUND:
            return None
        if status != 200:
            raise MetadataError(f"{self._service} answers {status} for {path}")
        return text

    def _get(self, path: str) -> tuple[int, str]:
        headers = {"X-aws-ec2-metadata-token": self._token}
        return self._ask(urllib.request.Request(f"{self._service}/latest/meta-data/{path}", headers=headers))

    def _new_token(self) -> str:
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_TTL_S)}
        status, text = self._ask(urllib.request.Request(f"{self._service}/latest/api/token", method="PUT", headers=headers))
        if status != 200:
            raise MetadataError(f"{self._service} gives no token: it answers {status}")
        return text

    def _ask(self, request: urllib.request.Request) -> tuple[int, str]:
        try:
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            error.close()
            return error.code, ""
        except (OSError, HTTPException, UnicodeDecodeError) as error:  # refused, timed out, cut off
            raise MetadataError(f"{self._service} does not answer ({getattr(error, 'reason', error)})") from error


@dataclass(frozen=True)
class Notice:
    """That EC2 will take this machine away."""

    action: str
    """``terminate``, ``stop`` or ``hibernate``."""
    ends_at: float
    """When, in UNIX seconds."""
    address: str
    """IPv4 address of this machine inside its network, by which Ray knows its node."""


def read_notice(metadata: Metadata) -> Notice | None:
    """The notice; None as long as there is none, and always on an instance on demand.

    A notice that can not be understood is taken for one of an end in two minutes, as EC2's are.

    Raises:
        MetadataError: as :meth:`Metadata.read`.
    """
    text = metadata.read("spot/instance-action")
    if text is None:
        return None
    address = metadata.read("local-ipv4") or ""
    try:
        said = json.loads(text)
        return Notice(str(said["action"]), datetime.fromisoformat(said["time"]).timestamp(), address)
    except (ValueError, KeyError, TypeError):
        return Notice(f"{text!r}, which is not understood,", time.time() + _NOTICE_S, address)


def read_rebalance(metadata: Metadata) -> bool:
    """Whether EC2 says that this machine is more likely than others to be taken away.

    Raises:
        MetadataError: as :meth:`Metadata.read`.
    """
    return metadata.read("events/recommendations/rebalance") is not None

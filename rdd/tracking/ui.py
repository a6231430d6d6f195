"""MLflow's own server for the runs in a local file, with the addresses of the pages that matter: ``make ui PORT=5000``."""

import argparse
import os
import socket
import subprocess
import sys

from rdd.config import TrackingConfig
from rdd.config.secrets import without_password
from rdd.signals import signals_end_the_job
from rdd.tracking.pages import pages
from rdd.tracking.tracker import tracking_uri


def main() -> int:
    """Say the addresses, then serve until interrupted.

    Returns:
        The exit code: 1 where the port is taken or the runs are on a server already, 2 where it is no port.
    """
    parser = argparse.ArgumentParser(prog="python -m rdd.tracking.ui", description=__doc__)
    parser.add_argument("--port", type=int, default=5000, help="of 127.0.0.1")
    port = parser.parse_args().port
    config = TrackingConfig()
    uri = tracking_uri(config)
    if uri.startswith(("http://", "https://", "databricks")):
        return _refuse(f"the runs are on the server {without_password(uri)} (MLFLOW_TRACKING_URI); open it there")
    if not 0 < port < 65536:
        return _refuse(f"PORT must lie in [1, 65535], got {port}", code=2)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return _refuse(f"port {port} can not be used ({error.strerror}); choose another: make ui PORT={port % 65535 + 1}")
    address = f"http://127.0.0.1:{port}"
    addresses = pages(config, server=address)
    for title, page in addresses.items():
        print(f"{title}: {page}", flush=True)
    if not addresses:
        print(f"no runs to compare yet: {address}", flush=True)
    command = [os.path.join(os.path.dirname(sys.executable), "mlflow"), "ui", "--backend-store-uri", uri]
    with signals_end_the_job("the MLflow server"):  # which has processes of its own
        return subprocess.run([*command, "--host", "127.0.0.1", "--port", str(port)], check=False).returncode


def _refuse(reason: str, *, code: int = 1) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())

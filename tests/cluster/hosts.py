"""Hosts for tests: network namespaces on a bridge, each with processes, object store, home and an sshd of its own.

To a cluster they are machines: they have addresses, can be reached by ssh, cut off and switched off. They share CPUs and most
of the file system. This machine itself has an address on the bridge: it is the laptop of the person who types ``ray up``.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

NEEDED = {
    "ip": "iproute2",
    "unshare": "util-linux",
    "/usr/sbin/sshd": "openssh-server",
    "ssh": "openssh-client",
    "rsync": "rsync",
}
"""Programs, and the Debian package of each."""

_SUBNET = "10.254.77"
_BRIDGE = "rdd-test"
_CABLE = "rddt"
LAPTOP = f"{_SUBNET}.1"


def lacking() -> str:
    """Why test hosts can not be made here; empty if they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    packages = [package for program, package in NEEDED.items() if shutil.which(program) is None]
    if packages:
        return f"Debian's {' '.join(packages)} must be installed"
    made = subprocess.run(["ip", "netns", "add", f"{_BRIDGE}-try"], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"network namespaces can not be made here: {made.stderr.strip()}"
    _ip("netns", "delete", f"{_BRIDGE}-try")
    return ""


class Host:
    """One of them.

    Args:
        name: what it calls itself.
        number: last part of its address.
        folder: of its home and its sshd.
        key: private key of whoever may log in; the public one lies beside it.
    """

    def __init__(self, name: str, number: int, folder: Path, key: Path) -> None:
        self.name = name
        self.address = f"{_SUBNET}.{number}"
        self.home = folder / "home"
        self._folder = folder
        self._key = key
        self._namespace = f"{_BRIDGE}-{name}"
        self._cable = f"{_CABLE}{number}"
        self._process: subprocess.Popen[bytes] | None = None
        self._prepare()
        self._plug_in()

    @property
    def way_in(self) -> list[str]:
        """Words for ssh: its options and where to."""
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=5"]
        words = [word for option in options for word in ("-o", option)]
        return [*words, "-i", str(self._key), f"root@{self.address}"]

    def switch_on(self) -> None:
        """Start its first process; returns when ssh answers."""
        words = ["ip", "netns", "exec", self._namespace, "unshare", "--mount", "--uts", "--pid", "--fork", "--mount-proc"]
        words += ["--kill-child", "bash", str(Path(__file__).with_name("host.sh")), self.name, str(self._folder)]
        log = (self._folder / "log").open("ab")
        self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 30
        while self.run("true").returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"host {self.name} does not answer: {(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(0.1)

    def switch_off(self) -> None:
        """Kill all its processes at once, as a power cut does."""
        if self._process is not None:
            self._process.kill()  # its child, process 1 of the host, goes with it, and with that one all others
            self._process.wait()
            self._process = None

    def cut(self) -> None:
        """Pull the network cable: what is sent to it or by it is lost without an answer."""
        _ip("link", "set", self._cable, "down")

    def plug(self) -> None:
        """Put the cable back."""
        _ip("link", "set", self._cable, "up")

    def run(self, command: str, *, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command on it, by ssh."""
        words = ["ssh", *self.way_in, command]
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=timeout)

    def says(self, command: str) -> str:
        """What a command prints that must succeed."""
        done = self.run(command)
        assert done.returncode == 0, f"{self.name}: {command}: {done.stderr}"
        return done.stdout

    def processes(self) -> list[str]:
        """Command lines of what runs on it, its ssh aside."""
        lines = self.says("ps -eo args --no-headers").splitlines()
        return [
            line for line in lines if not line.startswith(("ps ", "sshd", "/usr/sbin/sshd", "bash /", "-bash", "bash -c ps"))
        ]

    def remove(self) -> None:
        """Switch it off and take its network away."""
        self.switch_off()
        _ip("link", "delete", self._cable)
        _ip("netns", "delete", self._namespace)

    def _prepare(self) -> None:
        self.home.mkdir(parents=True)
        lines = Path("/etc/passwd").read_text().splitlines()
        lines = [f"root:x:0:0:root:{self.home}:/bin/bash" if line.startswith("root:") else line for line in lines]
        (self._folder / "passwd").write_text("\n".join(lines) + "\n")
        (self.home / ".bashrc").write_text("")
        host_key = self._folder / "host_key"
        _make_key(host_key)
        settings = {
            "HostKey": host_key,
            "AuthorizedKeysFile": self._key.with_suffix(".pub"),
            "ListenAddress": self.address,
            "PermitRootLogin": "prohibit-password",
            "StrictModes": "no",  # the key lies in a temporary folder
            "UsePAM": "no",
            "PidFile": "none",
            "MaxStartups": "100",
        }
        (self._folder / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))

    def _plug_in(self) -> None:
        _ip("netns", "add", self._namespace)
        _ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", self._namespace)
        _ip("link", "set", self._cable, "master", _BRIDGE, "up")
        inside = ["ip", "-n", self._namespace]
        subprocess.run([*inside, "address", "add", f"{self.address}/24", "dev", "eth0"], check=True)
        subprocess.run([*inside, "link", "set", "eth0", "up"], check=True)
        # Ray takes the address from which it would reach the world for the node's
        subprocess.run([*inside, "route", "add", "default", "via", LAPTOP], check=True)


class Hosts:
    """Those of a test, and the folder in which all of them lie."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        self.key = folder / "key"
        _make_key(self.key)
        self.all = [Host(name, number, folder / name, self.key) for number, name in enumerate(names, start=11)]

    def __getitem__(self, name: str) -> Host:
        return next(host for host in self.all if host.name == name)


@contextlib.contextmanager
def hosts(names: Sequence[str]) -> Iterator[Hosts]:
    """Make them and switch them on; at the end all is taken away, and no process outside of them is touched.

    One set of hosts at a time: another run on this machine has the same addresses, and is refused. What a run has left that was
    killed is taken away first.
    """
    with contextlib.ExitStack() as stack:
        _claim(stack)
        _remove_left()
        folder = Path(tempfile.mkdtemp(prefix=f"{_BRIDGE}-hosts-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        _ip("link", "add", _BRIDGE, "type", "bridge")
        stack.callback(_ip, "link", "delete", _BRIDGE)
        _ip("address", "add", f"{LAPTOP}/24", "dev", _BRIDGE)
        _ip("link", "set", _BRIDGE, "up")
        made = Hosts(folder, names)
        for host in made.all:
            stack.callback(host.remove)
        for host in made.all:
            host.switch_on()
        yield made


def _claim(stack: contextlib.ExitStack) -> None:
    lock = stack.enter_context(Path(tempfile.gettempdir(), f"{_BRIDGE}-hosts.lock").open("w"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RuntimeError("another run on this machine has test hosts; wait for its end") from error


def _remove_left() -> None:
    for line in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.splitlines():
        if (name := line.split()[0]).startswith(f"{_BRIDGE}-"):
            inside = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=True).stdout.split()
            for process in inside:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(process), signal.SIGKILL)
            _ip("netns", "delete", name)
    for link in Path("/sys/class/net").iterdir():
        if link.name == _BRIDGE or link.name.startswith(_CABLE):
            _ip("link", "delete", link.name)
    for folder in Path(tempfile.gettempdir()).glob(f"{_BRIDGE}-hosts-*"):
        shutil.rmtree(folder, ignore_errors=True)


def installed_environment(venv: Path) -> None:
    """Make an environment with the packages of this one, but without this project: what a node has that was set up before."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    packages = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    own = next((venv / "lib").glob("python*/site-packages"))
    (own / "of_the_tests.pth").write_text(f"{packages}\n")  # of its .pth files none is followed: the project is not in it
    for script in Path(sys.executable).parent.iterdir():
        if script.is_file() and script.read_bytes()[:2] == b"#!":
            first, _, rest = script.read_text().partition("\n")
            if first == f"#!{sys.executable}" or first.startswith(f"#!{Path(sys.executable).parent}/"):
                copy = venv / "bin" / script.name
                copy.write_text(f"#!{venv}/bin/python\n{rest}")
                copy.chmod(0o755)


def environment_of_a_person(home: Path, values: Mapping[str, str]) -> dict[str, str]:
    """Environment of a shell on the laptop, whose home is a folder of the test."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_", "MLFLOW_"))}
    return kept | {"HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **values}


def _make_key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")

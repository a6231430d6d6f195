"""How a job ends by a signal: a job of these tests' own, in a process of its own, without Ray."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdd import signals

pytestmark = pytest.mark.timeout(60)

JOB = """
import os, signal, subprocess, sys, time
from pathlib import Path
from rdd.config.stages import SAMPLE
from rdd.job import run_job
from rdd.signals import is_ending, signals_held

place = Path(sys.argv.pop())

def note(name, text=""):
    (place / "writing").write_text(str(text))
    (place / "writing").rename(place / name)

def wait(seconds=60):
    note("ready")
    time.sleep(seconds)

def work(config):
{body}
    return {{"output": "x"}}

run_job(SAMPLE, work, description=None)
"""

GRANDCHILD = "import subprocess, sys; subprocess.Popen(['sleep', '60'], start_new_session=True); print(flush=True); "


@contextlib.contextmanager
def job(place: Path, body: str) -> Iterator[subprocess.Popen[str]]:
    """The job, when it has called ``wait``."""
    code = JOB.format(body="\n".join(f"    {line}" for line in body.splitlines()))
    words = [sys.executable, "-c", code, "--sample.output", "x", str(place)]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"RDD_TEST_JOB": str(place)}
    ) as process:
        try:
            until = time.monotonic() + 30
            while not (place / "ready").exists():
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < until
                time.sleep(0.01)
            yield process
        finally:
            process.kill()
            for pid in left_behind(place):
                os.kill(pid, signal.SIGKILL)


def left_behind(place: Path) -> list[int]:
    """Processes with the job's mark in their environment."""
    mark = f"RDD_TEST_JOB={place}".encode()
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in file.read_bytes().split(b"\0"):
                found.append(int(file.parent.name))
    return found


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = process.communicate(timeout=30)
    assert out == ""
    return process.returncode, err


def sentence(name: str, how: str = "") -> str:
    return f"sample was ended by {name}{how}; the same command goes on where it stopped\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_work_with_a_sentence_and_a_code_and_what_is_below_first(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    body = f"""
subprocess.run([sys.executable, "-c", {GRANDCHILD!r}], stdout=subprocess.DEVNULL)  # its child is an orphan
child = subprocess.Popen([sys.executable, "-c", {GRANDCHILD!r} + "import time; time.sleep(60)"], stdout=subprocess.PIPE)
child.stdout.readline()
try:
    wait()
finally:
    note("cleaned", is_ending())"""
    with job(tmp_path, body) as process:
        assert len(left_behind(tmp_path)) == 4
        process.send_signal(number)
        assert ended(process) == (code, sentence(number.name))
        assert left_behind(tmp_path) == []
        assert (tmp_path / "cleaned").read_text() == "True"


def test_a_signal_waits_for_what_must_not_be_interrupted(tmp_path: Path) -> None:
    body = """
with signals_held():
    with signals_held():
        wait(1)
    note("done")
note("after")"""
    with job(tmp_path, body) as process:
        process.send_signal(signal.SIGTERM)
        assert ended(process) == (143, sentence("SIGTERM"))
    assert (tmp_path / "done").exists()
    assert not (tmp_path / "after").exists()


def test_handlers_that_a_library_sets_are_ours_again(tmp_path: Path) -> None:
    body = """
with signals_held():
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
wait()"""
    with job(tmp_path, body) as process:
        process.send_signal(signal.SIGTERM)
        assert ended(process) == (143, sentence("SIGTERM"))


def test_handlers_that_a_library_sets_do_not_last_while_signals_are_held(tmp_path: Path) -> None:
    body = """
import ctypes
with signals_held(handlers_replaced=True):
    ctypes.CDLL(None).signal(15, 0)  # the default, set from C, as ray.shutdown does
    time.sleep(0.2)
    wait(1)
    note("done")"""
    with job(tmp_path, body) as process:
        process.send_signal(signal.SIGTERM)
        assert ended(process) == (143, sentence("SIGTERM"))
    assert (tmp_path / "done").exists()


def test_a_handler_of_a_library_that_exits_gives_no_other_code(tmp_path: Path) -> None:
    body = """
with signals_held():
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))  # as ray.init does
    wait()"""
    with job(tmp_path, body) as process:
        process.send_signal(signal.SIGTERM)
        assert ended(process) == (143, sentence("SIGTERM"))


def test_a_second_signal_ends_at_once_and_its_echo_does_not(tmp_path: Path) -> None:
    body = """
subprocess.Popen(["sleep", "60"])
try:
    wait()
finally:
    note("cleaning")
    time.sleep(60)"""
    with job(tmp_path, body) as process:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)  # as timeout(1) does: to the process, and to its group
        time.sleep(signals.SAME_REQUEST_S + 0.5)
        assert process.poll() is None
        assert (tmp_path / "cleaning").exists()
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert ended(process) == (143, sentence("SIGTERM", " at once, since it came a second time"))
        assert time.monotonic() - started < 5
        assert left_behind(tmp_path) == []


def test_cleaning_up_has_an_end(tmp_path: Path) -> None:
    body = """
from rdd.signals import clean_up_may_take
clean_up_may_take(1.0)
with signals_held():
    wait()"""
    with job(tmp_path, body) as process:
        process.send_signal(signal.SIGTERM)
        assert ended(process) == (143, sentence("SIGTERM", " 1 s after it, before it had cleaned up"))


def test_an_error_that_a_signal_brings_about_is_not_said(tmp_path: Path) -> None:
    body = """
try:
    wait()
except KeyboardInterrupt:
    raise RuntimeError("a worker is gone")"""
    with job(tmp_path, body) as process:
        process.send_signal(signal.SIGTERM)
        assert ended(process) == (143, sentence("SIGTERM"))


def test_the_signals_of_a_forked_child_are_its_own(tmp_path: Path) -> None:
    body = """
child = os.fork()
if not child:
    note("forked")
    time.sleep(60)
while not (place / "forked").exists():
    time.sleep(0.01)
os.kill(child, signal.SIGTERM)
assert os.waitpid(child, 0)[1] == signal.SIGTERM
wait(0.2)
note("unharmed", is_ending())"""
    with job(tmp_path, body) as process:
        process.communicate(timeout=30)
    assert process.returncode == 0
    assert (tmp_path / "unharmed").read_text() == "False"


def test_a_signal_after_the_end_of_the_work_does_not_change_its_exit_code(tmp_path: Path) -> None:
    body = """
import atexit
atexit.register(wait, 1)"""
    with job(tmp_path, body) as process:
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, '{"job": "sample", "output": "x"}\n')


def test_a_job_that_ends_by_itself_leaves_the_handlers_as_they_were() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with signals.signals_end_the_job("sample"):
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] != before
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1
    with signals.signals_held():
        assert not signals.is_ending()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before

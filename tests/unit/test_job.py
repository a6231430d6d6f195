import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rdd.config import Config
from rdd.config.parse import from_yaml
from rdd.config.stages import SAMPLE
from rdd.job import run_job


def run(monkeypatch: pytest.MonkeyPatch, work, *words: str, **more) -> int:
    monkeypatch.setattr(sys, "argv", ["jobs/sample.py", *words])
    with pytest.raises(SystemExit) as ended:
        run_job(SAMPLE, work, description="Words.\n\nExamples:\n    python jobs/sample.py --sample.output x\n", **more)
    return ended.value.code


def test_a_job_ends_with_one_line_of_json(monkeypatch, capsys) -> None:
    code = run(
        monkeypatch,
        lambda config: {"output": "x", "records_in": config.sample.num_records},
        *("--sample.output", "x", "--sample.num_records", "3"),
    )
    out, err = capsys.readouterr()
    assert code == 0
    assert json.loads(out) == {"job": "sample", "output": "x", "records_in": 3}
    assert "records in  3" in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("wrong"), 2),
        (RuntimeError("broken\nworld"), 1),
        (OSError(28, "No space left on device"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_are_one_sentence_and_an_exit_code(monkeypatch, capsys, error: BaseException, code: int) -> None:
    def work(config: Config) -> dict:
        raise error

    assert run(monkeypatch, work, "--sample.output", "x") == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_tracked_job_is_an_mlflow_run_with_settings_and_numbers(monkeypatch, tmp_path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setattr(sys, "argv", ["jobs/sample.py", "--sample.seed", "7", "--tracking.uri", uri, "--sample.output", "x"])
    work = {"run_dir": str(tmp_path / "out"), "num_records": 3}
    stage = dataclasses.replace(SAMPLE, also_reads=("tracking", "cluster"))
    for wait in ("1.0", "2.0"):  # the same output is the same run, with the settings that it began with
        monkeypatch.setattr(sys, "argv", [*sys.argv[:7], "--cluster.wait_s", wait])
        with pytest.raises(SystemExit):
            run_job(stage, lambda _: work, description=None, track=True)
    (run,) = MlflowClient(uri).search_runs(["1"])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "out")
    assert (run.data.params["sample.seed"], run.data.params["cluster.wait_s"]) == ("7", "1.0")
    assert run.data.metrics["num_records"] == 3
    assert run.data.tags["rdd.job"] == "sample"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_result_that_can_not_be_printed_is_a_sentence_and_exit_1(tmp_path: Path) -> None:
    words = [sys.executable, "jobs/sample.py", "--sample.output", str(tmp_path / "out"), "--sample.num_records", "2"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: the work is done, but standard output can not be written: No space")
    assert "Traceback" not in done.stderr


def test_a_bug_keeps_its_traceback(monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["jobs/sample.py", "--sample.output", "x"])

    def work(config: Config) -> dict:
        return {}["missing"]

    with pytest.raises(KeyError):
        run_job(SAMPLE, work, description=None)


def test_what_must_be_given_is_asked_for_before_any_work(monkeypatch, capsys) -> None:
    assert run(monkeypatch, None, "--sample.seed", "1") == 2
    assert capsys.readouterr().err == "error: sample.output must name the directory to write, got nothing\n"


def test_no_argument_says_what_is_needed(monkeypatch, capsys) -> None:
    assert run(monkeypatch, lambda config: {}) == 2
    expected = "error: jobs/sample.py needs settings; for example: python jobs/sample.py --sample.output x, or see --help\n"
    assert capsys.readouterr().err == expected


def test_help_and_print_config_are_answered_without_work(monkeypatch, capsys) -> None:
    assert run(monkeypatch, None, "--help") == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: python jobs/sample.py")
    assert "python jobs/sample.py --sample.output x" in text
    assert "--sample.num_records (int, default 200)" in text
    assert run(monkeypatch, None, "--config", "jobs/configs/sample.yaml", "-h") == 0
    assert capsys.readouterr().out == text
    assert run(monkeypatch, None, "--help", "tracking", "--sample.seed", "3") == 0
    assert capsys.readouterr().out.startswith("MLflow.\n  --tracking.enabled")
    assert run(monkeypatch, None, "--help", "loss") == 2
    assert "--help must be followed by sections among sample, tracking or all, got loss" in capsys.readouterr().err
    assert run(monkeypatch, None, "--print_config") == 0
    assert from_yaml(capsys.readouterr().out).sample.seed == 0
    assert run(monkeypatch, None, "--print_config", "--sample.seed", "3") == 0
    assert from_yaml(capsys.readouterr().out).sample.seed == 3
    assert run(monkeypatch, None, "--print_config", "--sample.num_records", "0") == 2
    assert "sample.num_records must be at least 1" in capsys.readouterr().err


def test_a_flag_does_something_else_and_is_in_the_help(monkeypatch, capsys) -> None:
    modes = {
        "--count": (lambda config: {"counted": config.sample.num_records}, "count, and write nothing"),
        "--look": (lambda config: {}, "look"),
    }
    words = ("--sample.output", "x", "--sample.num_records", "3")
    assert run(monkeypatch, None, *words, "--count", modes=modes) == 0
    assert json.loads(capsys.readouterr().out) == {"job": "sample", "counted": 3}
    assert run(monkeypatch, lambda config: {"done": 1}, *words, modes=modes) == 0
    assert json.loads(capsys.readouterr().out) == {"job": "sample", "done": 1}
    assert run(monkeypatch, None, "--count", *words, "--print_config", modes=modes) == 0
    assert from_yaml(capsys.readouterr().out).sample.num_records == 3
    assert run(monkeypatch, None, "--help", modes=modes) == 0
    assert "\n  --count                count, and write nothing\n" in capsys.readouterr().out
    for asked, said in (
        (("--count", "--look"), "only one of --count, --look can be given, got --count --look"),
        (("--verify",), "unknown key 'verify'"),
        (("--count=1",), "unknown key 'count'"),
    ):
        assert run(monkeypatch, None, *words, *asked, modes=modes) == 2
        assert said in capsys.readouterr().err
    assert run(monkeypatch, None, "--count", modes=modes) == 2
    assert "sample.output must name" in capsys.readouterr().err


@pytest.mark.parametrize("job", sorted(name for name in os.listdir("jobs") if name.endswith(".py")))
def test_every_job_answers_help_a_wrong_word_and_no_word_before_it_imports_what_takes_seconds(job: str) -> None:
    for words in ([], ["--nonsense", "1"]):
        done = subprocess.run([sys.executable, f"jobs/{job}", *words], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
    code = f"""
import runpy, sys
sys.argv = ["jobs/{job}", "--help"]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as ended:
    assert ended.code == 0
heavy = {{"torch", "ray", "mlflow", "open_clip", "pyarrow", "sklearn", "matplotlib"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Examples:\n    python jobs/" in done.stdout
    assert len(done.stdout.splitlines()) < 100


def test_importing_the_package_imports_neither_torch_nor_ray() -> None:
    code = "import rdd, rdd.config, rdd.schema, sys; print({'torch', 'ray'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_password_in_an_address_is_written_nowhere(monkeypatch, capsys, tmp_path) -> None:
    secret = "planted-secret"
    uri = f"https://ann:{secret}@mlflow.example/base"
    assert run(monkeypatch, lambda config: {}, "--tracking.uri", uri, "--print_config") == 0
    shown = capsys.readouterr()
    assert "uri: https://ann:***@mlflow.example/base" in shown.out

    def fail(config: Config) -> dict:
        raise RuntimeError(f"no answer from {config.tracking.uri}")

    assert run(monkeypatch, fail, "--tracking.uri", uri, "--sample.output", str(tmp_path)) == 1
    failed = capsys.readouterr()
    assert "error: no answer from https://ann:***@mlflow.example/base" in failed.err
    assert secret not in shown.out + shown.err + failed.out + failed.err

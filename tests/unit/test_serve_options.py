"""What ``rdd serve`` may be asked for."""

import argparse
import dataclasses
import re
import socket
from pathlib import Path

import pytest
from _small_detector import detector_of

from rdd.clip import ClipEncoder
from rdd.on_ray.serve import add_arguments, run
from rdd.on_ray.serve_options import ServeOptions, weights_of
from rdd.serving.web.settings import TOKEN_VARIABLE


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser("rdd serve")
    add_arguments(parser)
    return parser.parse_args(["--detector", "absent", *words])


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


def test_each_field_has_an_option_with_its_default_and_a_sentence() -> None:
    parser = argparse.ArgumentParser("rdd serve")
    add_arguments(parser)
    given = parser.parse_args(["--detector", "d"])
    for field in dataclasses.fields(ServeOptions):
        assert field.name == "detector" or getattr(given, field.name) == field.default
    assert (given.host, given.port) == ("127.0.0.1", 8000)
    assert "one GPU for each replica" in " ".join(parser.format_help().split())


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--device", "tpu"], "device must be cpu or cuda, got 'tpu'"),
        (["--precision", "int8"], "precision must be fp32, bf16 or fp16"),
        (["--replicas", "0"], "replicas must be at least 1"),
        (["--decoders", "0"], "decoders must be at least 1"),
        (["--batch-size", "0"], "batch_size must be at least 1"),
        (["--max-queued", "0"], "max_queued must be at least 1"),
        (["--threads", "-1"], "threads must be at least 0"),
        (["--batch-wait-s", "nan"], "batch_wait_s must lie in"),
        (["--max-bytes", "0"], "max_bytes must lie in"),
        (["--port", "0"], "--port must lie in"),
        (["--host", "0.0.0.0"], "--host must be one of 127.0.0.1, localhost, ::1 where there is no token, got 0.0.0.0"),
        (["--token-file", "absent"], "the token's file must be there"),
        ([], "no detector.json at absent"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_starts(words: list[str], complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        run(parsed("--port", str(free_port()), *words))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_a_taken_port_is_refused_before_anything_starts() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(ValueError, match="must be free, got: Address already"),
    ):
        run(parsed("--port", str(listener.getsockname()[1])))


def test_a_host_for_all_takes_a_token_or_the_word_that_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    everywhere = ["--host", "0.0.0.0", "--port", str(free_port())]
    with pytest.raises(ValueError, match=r"no detector\.json"):
        run(parsed(*everywhere, "--without-token"))
    monkeypatch.setenv(TOKEN_VARIABLE, "correct-horse-battery")
    with pytest.raises(ValueError, match=r"no detector\.json"):
        run(parsed(*everywhere))


def test_weights_are_a_file_the_hubs_tag_or_found(tiny_model: str, tmp_path: Path) -> None:
    detector_of(ClipEncoder(tiny_model, "random")).save(str(tmp_path))
    assert weights_of(ServeOptions(detector=str(tmp_path))) == "random"
    assert weights_of(ServeOptions(detector=str(tmp_path), weights="random")) == "random"
    with pytest.raises(ValueError, match="no file of weights at openai"):
        weights_of(ServeOptions(detector=str(tmp_path), weights="openai"))

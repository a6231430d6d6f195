import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rdd import clip_weights, known_weights
from rdd.hashing import sha256_bytes


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def weights_at(place: Path, content: bytes) -> tuple[Path, dict[str, Any]]:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    return place, {"model": "ViT-B-16", "pretrained": "any.safetensors", "weights_sha256": sha256_bytes(content)}


def test_weights_are_found_by_the_note_of_them_wherever_they_lie(tmp_path: Path) -> None:
    place, identity = weights_at(tmp_path / "far" / "a.safetensors", b"a")
    known_weights.note_weights(identity["weights_sha256"], str(place))
    assert known_weights.find_weights(identity) == str(place)


def test_weights_are_found_in_the_folder_of_the_named_runs() -> None:
    weights_at(Path("data/weights/other.safetensors"), b"b")
    place, identity = weights_at(Path("data/weights/a.safetensors"), b"a")
    assert known_weights.find_weights(identity) == str(place.absolute())


def test_a_noted_file_that_has_changed_is_never_taken(tmp_path: Path) -> None:
    place, identity = weights_at(tmp_path / "a.safetensors", b"a")
    known_weights.note_weights(identity["weights_sha256"], str(place))
    place.write_bytes(b"other")
    with pytest.raises(ValueError, match=r"give their file by --weights, or fetch them: python jobs/weights.py"):
        known_weights.find_weights(identity)


def test_a_given_file_must_hold_the_weights(tmp_path: Path) -> None:
    place, identity = weights_at(tmp_path / "a.safetensors", b"a")
    assert known_weights.find_weights(identity, str(place)) == str(place)
    other, _ = weights_at(tmp_path / "b.safetensors", b"b")
    with pytest.raises(ValueError, match=r"b\.safetensors holds other weights \(sha256 3e23e8160039\.\.\.\) than"):
        known_weights.find_weights(identity, str(other))
    with pytest.raises(ValueError, match="no file of weights at /nowhere"):
        known_weights.find_weights(identity, "/nowhere")


def test_weights_of_a_tag_are_found_in_the_cache_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, identity = weights_at(tmp_path / "hub" / "open_clip_model.safetensors", b"a")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, name: str(place))
    assert known_weights.find_weights(identity | {"pretrained": "openai"}) == str(place)
    assert clip_weights.cached_hub_file("ViT-B-16", "any.safetensors") is None


def test_several_writers_lose_no_note(tmp_path: Path) -> None:
    files = [weights_at(tmp_path / f"{i}.safetensors", str(i).encode()) for i in range(20)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda one: known_weights.note_weights(one[1]["weights_sha256"], str(one[0])), files))
    assert len(json.loads(Path(known_weights.notes_path()).read_text())) == 20
    assert all(known_weights.find_weights(identity) == str(place) for place, identity in files)


@pytest.mark.parametrize("content", ["{torn", "[]", '{"a": 1}'])
def test_damaged_notes_are_written_anew(tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    place, identity = weights_at(tmp_path / "a.safetensors", b"a")
    os.makedirs(os.path.dirname(known_weights.notes_path()))
    Path(known_weights.notes_path()).write_text(content)
    known_weights.note_weights(identity["weights_sha256"], str(place))
    assert known_weights.find_weights(identity) == str(place)


def test_where_no_note_can_be_left_the_log_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    known_weights.note_weights("0" * 64, "a.safetensors")
    assert "give it by --weights where it is asked for" in caplog.text


def test_a_file_is_hashed_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, _ = weights_at(tmp_path / "a.safetensors", b"a")
    hashed: list[str] = []
    real = clip_weights.sha256_file
    monkeypatch.setattr(clip_weights, "sha256_file", lambda path: hashed.append(path) or real(path))
    first = [clip_weights.digest_of(str(place)) for _ in range(3)]
    assert len(hashed) == 1
    place.write_bytes(b"longer")
    assert clip_weights.digest_of(str(place)) != first[0]

import dataclasses
from pathlib import Path

import pytest
import yaml

import rdd.config.added
from rdd.config import Config
from rdd.config.help import help_text
from rdd.config.parse import from_dict, from_yaml, leaf_of, leaves, override, parse_config, to_yaml
from rdd.config.secrets import without_password
from rdd.config.stages import TRAIN, Stage


def test_every_row_of_the_papers_tables_has_its_overrides_written_out() -> None:
    rows = {
        "ours": ("auto", 0.8, 0.5, True),
        "traditional1": ("none", 1.0, 1.0, False),
        "traditional2": ("auto", 1.0, 1.0, False),
        "without_cvar": ("auto", 1.0, 0.5, True),
        "without_bce": ("auto", 0.8, 0.0, True),
        "without_auc": ("auto", 0.8, 1.0, True),
        "without_sam": ("auto", 0.8, 0.5, False),
    }
    for name, (text_mode, alpha, gamma, sam) in rows.items():
        config = parse("--config", f"jobs/configs/{name}.yaml")
        assert (config.features.text_mode, config.loss.alpha, config.loss.gamma, config.sam.enabled) == (
            text_mode,
            alpha,
            gamma,
            sam,
        )
        written = yaml.safe_load(Path(f"jobs/configs/{name}.yaml").read_text())
        paths = {f"{section}.{leaf}" for section, leaves in written.items() for leaf in leaves}
        assert paths - {"features.text_mode"} == {"model.standardize", "loss.alpha", "loss.gamma", "sam.enabled"}
        assert not config.model.standardize
    assert parse("--config", "jobs/configs/ours.yaml") == override(Config(), {"model.standardize": False})
    assert not parse("--config", "jobs/configs/official.yaml").model.standardize
    table = yaml.safe_load(Path("jobs/configs/ablation.yaml").read_text())["ablate"]["rows"]
    assert all(row["model.standardize"] is False for row in table.values())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"clip.blocks": [0]}, r"clip.blocks must hold numbers of blocks from 1, each once, got \[0\]"),
        ({"clip.blocks": [9, 9]}, r"each once, got \[9, 9\]"),
        ({"clip.projected": False}, "clip.blocks must name a block when clip.projected is false"),
        ({"clip.float32": ["block_9"]}, "clip.float32 must name features that are kept, of projected, each once"),
        ({"features.inputs": []}, "features.inputs must hold names of features, projected or block_<k>"),
        ({"features.inputs": ["projected", "projected"]}, "at least one and each once"),
        ({"features.inputs": ["text_original"]}, "must hold names of features"),
        ({"features.inputs": ["block_09"]}, "must hold names of features"),
    ],
)
def test_names_of_features_are_checked(values: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        override(Config(), values)


def test_features_that_are_kept_are_named_from_the_first_block_to_the_last() -> None:
    kept = override(Config(), {"clip.blocks": [20, 16], "clip.float32": ["block_16"], "features.inputs": ["block_20"]})
    assert kept.clip.features == ["projected", "block_16", "block_20"]
    assert override(kept, {"clip.projected": False}).clip.features == ["block_16", "block_20"]
    assert from_yaml(to_yaml(kept)) == kept


def test_settings_that_came_later_are_known_with_what_they_were() -> None:
    changed = {path for path, value in rdd.config.added.ADDED.items() if rdd.config.parse.leaf_of(Config(), path) != value}
    assert changed == {"model.standardize"}


def test_a_run_on_workers_may_be_given_none() -> None:
    words = ["--config", "jobs/configs/d3.yaml", "--scaling.num_workers", "0", "--scaling.gpus_per_worker", "0"]
    scaling = parse(*words, sections=("scaling",)).scaling
    assert (scaling.min_workers, scaling.least_workers) == (1, 0)


def test_rules_across_sections() -> None:
    with pytest.raises(ValueError, match="gpus_per_worker must be above 0"):
        override(Config(), {"clip.device": "cuda"})
    with pytest.raises(ValueError, match="set clip.device to cuda"):
        override(Config(), {"embed.gpus_per_worker": 1.0})
    with pytest.raises(ValueError, match=r"model.text_dropout must be 0 when features.text_mode is none"):
        override(Config(), {"model.text_dropout": 0.1, "features.text_mode": "none"})
    with pytest.raises(ValueError, match=r"features.held must be auto, map or stream when scaling.gpus_per_worker is 0"):
        override(Config(), {"features.held": "device"})
    assert override(Config(), {"clip.device": "cuda", "embed.gpus_per_worker": 1.0}).clip.device == "cuda"
    with pytest.raises(ValueError, match=r"records.real_images must be empty unless"):
        override(Config(), {"records.kind": "folder", "records.real_images": "somewhere"})


@pytest.mark.parametrize("leaf", ["features.path", "train.output", "records.path", "clip.pretrained"])
def test_a_password_in_a_path_is_refused_and_not_repeated(leaf: str) -> None:
    with pytest.raises(ValueError, match=rf"{leaf} must hold no password, .* got ftp://ann:\*\*\*@host/x") as refused:
        override(Config(), {leaf: "ftp://ann:planted@host/x"})
    assert "planted" not in str(refused.value)
    override(Config(), {leaf: "ftp://ann@host:21/x"})
    override(Config(), {"tracking.uri": "https://ann:planted@host/x"})


@pytest.mark.parametrize(
    ("value", "said"), [("a\0b", r"hold no NUL character, got 'a\\x00b'"), ("a\udcff", r"be UTF-8, got a\\udcff")]
)
def test_a_path_that_can_not_be_written_down_names_its_setting(value: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"train.output must {said}"):
        override(Config(), {"train.output": value})


def test_passwords_of_addresses_are_masked_also_unescaped_and_in_queries() -> None:
    for text, shown in (
        ("http://ann:s3cret/@x@host/a", "http://ann:***@host/a"),
        ("s3://key:a/b+c=@bucket/x", "s3://key:***@bucket/x"),
        ("http://host/?token=s3cret&page=2", "http://host/?token=***&page=2"),
        ("https://host/?page=2&X-Amz-Signature=s3cret", "https://host/?page=2&X-Amz-Signature=***"),
        ("sqlite:///a@b.db", "sqlite:///a@b.db"),
        ("s3://bucket/a:b@c", "s3://bucket/a:b@c"),
    ):
        assert without_password(text) == shown


def test_yaml_round_trip() -> None:
    config = override(Config(), {"loss.alpha": 0.25, "clip.model": "ViT-B-16", "sam.adaptive": True})
    assert from_yaml(to_yaml(config)) == config


@pytest.mark.parametrize("text", ["- a\n- b\n", "", "7"])
def test_yaml_that_is_no_tree_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="mapping of sections"):
        from_yaml(text)


def test_unknown_keys_name_the_valid_ones() -> None:
    with pytest.raises(ValueError, match=r"loss\.alhpa.*loss\.alpha, loss\.gamma.*did you mean loss\.alpha"):
        override(Config(), {"loss.alhpa": 0.3})
    with pytest.raises(ValueError, match=r"loss\.alhpa.*loss\.alpha, loss\.gamma"):
        from_dict({"loss": {"alhpa": 0.3}})
    with pytest.raises(ValueError, match=r"unknown key 'lost.*loss"):
        from_dict({"lost": {"alpha": 0.3}})


def test_wrong_types_are_refused() -> None:
    with pytest.raises(ValueError, match=r"loss\.alpha.*float.*nearly one"):
        override(Config(), {"loss.alpha": "nearly one"})
    with pytest.raises(ValueError, match=r"train\.epochs.*int"):
        override(Config(), {"train.epochs": 1.5})


def parse(*words: str, sections: tuple[str, ...] = ("loss", "train")) -> Config:
    return parse_config(words, sections=sections)


def test_words_win_over_files_and_later_ones_over_earlier_ones(tmp_path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("loss:\n  alpha: 0.4\n  gamma: 0.1\n")
    config = parse("--config", str(file), "--loss.gamma", "0.2", "--loss.gamma=0.3")
    assert (config.loss.alpha, config.loss.gamma) == (0.4, 0.3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--loss.alhpa", "1"], "loss.alpha, loss.gamma"),
        (["--sample.seed", "1"], "not read by this job, which reads loss, train"),
        (["--loss.alpha", "2"], r"\(0, 1\], got 2"),
        (["--loss.alpha", "nan"], "nan"),
        (["--loss.alpha", ".nan"], "got nan"),
        (["--loss.alpha"], "loss.alpha"),
        (["stray"], "stray"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_bad_words_are_refused_in_one_sentence(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse(*words)
    assert "\n" not in str(caught.value)


def test_a_bad_file_is_refused(tmp_path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("loss:\n  alhpa: 0.4\n")
    with pytest.raises(ValueError, match=r"loss\.alhpa.*loss\.alpha"):
        parse("--config", str(file))
    for text in ("- 1\n", "", "loss: 3\n", "loss:\n", "a: b: c\n"):
        file.write_text(text)
        with pytest.raises(ValueError, match=r"run\.yaml (must hold a mapping|is not YAML)"):
            parse("--config", str(file))
    file.write_text("loss:\n  scope: null\n")
    with pytest.raises(ValueError, match=r"loss\.scope must have a value, got null"):
        parse("--config", str(file))


def test_help_has_the_sentence_under_each_setting_of_the_jobs_own_sections_and_names_the_others() -> None:
    text = help_text(TRAIN, "Train.\n\nExamples:\n    python jobs/train.py --config jobs/configs/sample.yaml\n")
    assert "    python jobs/train.py --config jobs/configs/sample.yaml" in text
    assert "--train.batch_size (int, default 2048)\n      Images in a global batch" in text
    assert "  loss       The objective" in text
    assert "--loss.alpha" not in text
    assert "--sample.seed" not in text
    asked = help_text(TRAIN, "Train.", ["loss"])
    assert "Margin of the AUC loss in (0, 1]." in " ".join(asked.split())
    assert "--train.epochs" not in asked
    everything = help_text(TRAIN, "Train.", ["all"])
    for path in leaves():
        assert (f"--{path} (" in everything) == (path.split(".")[0] in TRAIN.reads), path
    with pytest.raises(ValueError, match=r"--help must be followed by sections among train, .*got sample"):
        help_text(TRAIN, "Train.", ["sample"])


def test_every_stage_names_settings_and_sections_that_there_are() -> None:
    stages = [value for value in vars(rdd.config.stages).values() if isinstance(value, Stage)]
    sections = {section.name for section in dataclasses.fields(Config)}
    assert len(stages) == 16
    for stage in stages:
        assert {*stage.reads, *stage.in_help} <= sections, stage.name
        assert {*stage.required, *stage.may_change} <= set(leaves()), stage.name
        assert Path(f"jobs/{stage.name}.py").exists()


def test_yaml_that_would_lose_or_grow_is_refused(tmp_path) -> None:
    file = tmp_path / "run.yaml"
    for text, message in (
        ("loss:\n  alpha: 0.4\n  gamma: 0.1\n  alpha: 0.5\n", "line 4: the key 'alpha' stands twice; keep one"),
        ("loss: {alpha: 0.4}\nsam: {rho: 0.1}\nloss: {gamma: 0.4}\n", "line 3: the key 'loss' stands twice"),
        ("loss: &x {alpha: 0.4}\nsam: *x\n", r"line 2: aliases \(\*name\) are not allowed"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", "line 2: aliases"),
        ("train: " + "[" * 3000, "nested too deeply"),
        ("train:\n  epochs: " + "9" * 5001 + "\n", "(is not|must be) YAML: Exceeds the limit"),
        ("train:\n  epochs: 1:30\n", "line 2: 1:30 would be a number to the base 60; quote it"),
        ("tarin: {}\n", "unknown key 'tarin', valid are"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            parse("--config", str(file))
        with pytest.raises(ValueError, match=message):
            from_yaml(text)


def test_named_runs_are_valid() -> None:
    for name in ("sample", "d3"):
        parse("--config", f"jobs/configs/{name}.yaml")


@pytest.mark.parametrize(("base", "general"), [("sample", "general"), ("images", "general"), ("d3", "general_d3")])
def test_the_run_for_unseen_generators_needs_only_what_its_base_stores(base: str, general: str) -> None:
    files = ["--config", f"jobs/configs/{base}.yaml", "--config", f"jobs/configs/{general}.yaml"]
    config, before = parse(*files), parse(*files[:2])
    assert set(config.features.inputs) <= set(config.clip.features)
    assert config.model.standardize
    changed = {path for path in leaves() if leaf_of(config, path) != leaf_of(before, path)}
    learned = {path for path in changed if path.split(".")[0] in ("features", "model", "optimizer")}
    assert "features.inputs" in changed
    assert changed == learned  # all else, its output among it, is that of the base


def test_leaves_are_the_dotted_paths() -> None:
    assert {"loss.alpha", "sam.rho", "cluster.address"} <= set(leaves())

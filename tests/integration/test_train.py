"""Training on Ray Train: two workers, kills, restarts, and the detector at the end."""

import itertools
import json
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from _small import ENCODER, EPOCHS, base_config
from synthetic import write_features

from rdd import storage
from rdd.config import Config
from rdd.config.parse import override
from rdd.detector import Detector
from rdd.evaluation.scores import read_logits
from rdd.features import FeatureTable
from rdd.metrics import auroc
from rdd.on_ray.train import run_training
from rdd.runs import make_detector
from rdd.runs.checkpoint import load_state
from rdd.runs.directory import RunDirectory
from rdd.runs.evaluate import run_evaluation

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def config(features: Path, tmp_path: Path) -> Config:
    return base_config(features, tmp_path)


def weights(output: Path | str) -> dict[str, torch.Tensor]:
    return load_state(f"{output}/checkpoints/last.pt").model


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    for name in one:
        assert (one[name].double() - other[name].double()).norm() <= 1e-9 * one[name].double().norm().clamp(min=1e-12), name


@pytest.fixture(scope="module")
def alone(features: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, dict]:
    """A run in this process, in float64 and with dropout, of more than 50 steps."""
    folder = tmp_path_factory.mktemp("alone")
    exact = {"train.precision": "fp64", "train.epochs": 13, "train.output": str(folder / "run")}
    config = override(base_config(features, folder), exact)
    return config, run_training(config)


@pytest.mark.parametrize("workers", [pytest.param(2, marks=pytest.mark.long), pytest.param(4, marks=pytest.mark.slow)])
def test_ray_workers_give_the_weights_of_the_process_alone(ray_session, alone, workers: int, tmp_path: Path) -> None:
    config, summary = alone
    scaling = {"scaling.num_workers": workers, "scaling.cpus_per_worker": 0.5, "train.output": str(tmp_path / "many")}
    many = run_training(override(config, scaling))
    last = load_state(f"{summary['run_dir']}/checkpoints/last.pt")
    assert last.optimizer["base"]["state"][0]["step"] >= 50
    one, other = last.model, weights(many["run_dir"])
    assert_close(one, other)
    assert summary["test_auroc"] == many["test_auroc"]


def test_streamed_features_train_and_evaluate(ray_session, config: Config) -> None:
    streamed = run_training(override(config, {"features.held": "stream", "train.epochs": 1}))
    assert 0 < streamed["test_auroc"] < 1
    with pytest.raises(ValueError, match="begun on features in another order; set features.held to stream"):
        RunDirectory(streamed["run_dir"]).claim_features(FeatureTable.load(config.features.path).identity, streamed=False)


@pytest.mark.slow
def test_streamed_features_take_another_order_and_the_same_path_on_any_number_of_workers(
    ray_session, config: Config, tmp_path: Path
) -> None:
    streamed = override(config, {"features.held": "stream", "train.precision": "fp64", "train.epochs": 2})
    one = run_training(streamed)
    workers = {"scaling.num_workers": 2, "scaling.cpus_per_worker": 1.0, "train.output": str(tmp_path / "two")}
    two = run_training(override(streamed, workers))
    assert_close(weights(one["run_dir"]), weights(two["run_dir"]))
    assert one["test_auroc"] == two["test_auroc"]


@pytest.mark.slow
def test_a_worker_lost_within_an_epoch_is_replaced_and_nothing_changes(ray_session, config: Config, tmp_path: Path) -> None:
    import psutil

    options = {"model.hidden": 256, "train.epochs": 20, "scaling.num_workers": 2, "scaling.cpus_per_worker": 0.5}
    lost = override(config, options)
    history = Path(lost.train.output) / "checkpoints" / "history.json"
    killed: list[int] = []

    def kill_one() -> None:
        while not (history.exists() and len(json.loads(history.read_text())) >= 5):
            time.sleep(0.02)
        own = psutil.Process().children(recursive=True)  # of this Ray session
        workers = [process for process in own if "RayTrainWorker" in " ".join(process.cmdline())]
        workers[0].kill()
        killed.append(len(json.loads(history.read_text())))

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    summary = run_training(lost)
    assert killed
    assert killed[0] < 20
    assert summary["epochs"] == 20
    untouched = run_training(override(lost, {"train.output": str(tmp_path / "untouched")}))
    one, other = weights(summary["run_dir"]), weights(untouched["run_dir"])
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_full_head_trains_five_epochs_on_twenty_thousand_records(ray_session, tmp_path: Path) -> None:
    path = write_features(tmp_path / "features", records=20_000, images=2, shift=0.03)
    values = {
        "features.path": path,
        "train.output": str(tmp_path / "run"),
        "train.epochs": 5,
        "train.threads_per_worker": 1,
        "scaling.num_workers": 2,
        "tracking.enabled": False,
        "cluster.address": "local",
    }
    summary = run_training(override(Config(), values))
    assert summary["epochs"] == 5
    assert summary["test_auroc"] > 0.7


def test_a_run_makes_a_detector_that_evaluates_to_the_same(config: Config, tmp_path: Path) -> None:
    summary = run_training(config)
    assert summary["test_auroc"] > 0.7
    run = Path(config.train.output)
    metrics = json.loads((run / "metrics.json").read_text())
    assert len(metrics["history"]) == EPOCHS
    assert metrics["test"]["worst_generator"]["name"] == "hard"
    low, high = metrics["test"]["auroc_interval"]
    assert low < metrics["test"]["auroc"] < high
    assert metrics["test"]["tpr_at_1_percent_fpr"] is None  # thirty real images do not resolve it
    assert sorted(path.name for path in (run / "figures").iterdir()) == [
        "history.png",
        "logits.png",
        "reliability.png",
        "roc.png",
    ]
    evaluated = override(config, {"evaluate.run": str(run), "evaluate.output": str(tmp_path / "evaluated")})
    assert run_evaluation(evaluated)["test_auroc"] == summary["test_auroc"]
    from mlflow import MlflowClient

    (tracked,) = MlflowClient(config.tracking.uri).search_runs(["1"], "tags.`rdd.job` = 'evaluate'")
    assert tracked.data.params["evaluate.part"] == "test"
    logged = tracked.data.metrics
    assert logged["test/auroc"] == pytest.approx(summary["test_auroc"], abs=1e-8)
    assert [logged[f"test/auroc_{end}"] for end in ("low", "high")] == pytest.approx([low, high], abs=1e-8)
    written = read_logits(str(tmp_path / "evaluated" / "logits.parquet"))
    assert auroc(written.logits, written.labels) == summary["test_auroc"]
    assert list(metrics["test"]["novelty"]) == ["seen"]  # of a split by records every generator has been seen
    report = (tmp_path / "evaluated" / "metrics.json").stat().st_mtime_ns
    assert run_evaluation(evaluated)["test_auroc"] == summary["test_auroc"]  # finished: nothing is done again
    assert (tmp_path / "evaluated" / "metrics.json").stat().st_mtime_ns == report
    shutil.rmtree(run)
    again = run_training(override(config, {"train.seed": 5}))
    assert again["test_auroc"] != summary["test_auroc"]
    assert run_evaluation(evaluated)["test_auroc"] == again["test_auroc"]  # not what the earlier detector had
    shutil.rmtree(run)
    assert run_training(config) == summary
    detector = Detector.load(str(run / "detector"))
    assert detector.provenance["features_manifest_sha256"]
    assert run_training(config) == summary  # finished: nothing is done again
    with pytest.raises(ValueError, match=r"loss\.alpha \(0\.8 there, 0\.5 now\)"):
        run_training(override(config, {"loss.alpha": 0.5}))


@pytest.mark.slow
def test_an_evaluation_never_counts_records_that_were_trained_on(config: Config, features: Path, tmp_path: Path) -> None:
    summary = run_training(override(config, {"train.epochs": 3}))
    asked = override(config, {"evaluate.run": summary["run_dir"], "evaluate.output": str(tmp_path / "evaluated")})
    evaluated = run_evaluation(override(asked, {"features.split_seed": 5}))  # the split is the run's
    assert evaluated["test_auroc"] == summary["test_auroc"]
    trained = run_evaluation(override(asked, {"evaluate.part": "train", "evaluate.output": str(tmp_path / "train")}))
    assert "test_auroc" not in trained
    assert trained["real_images"] > evaluated["real_images"]
    copied = tmp_path / "copied"  # the same records in another feature set
    shutil.copytree(features, copied)
    everything = {"features.path": str(copied), "evaluate.part": "all", "evaluate.output": str(tmp_path / "all")}
    with pytest.raises(ValueError, match=r"of 100 records were trained or selected on by this run"):
        run_evaluation(override(asked, everything))
    assert not (tmp_path / "all").exists()
    other = write_features(tmp_path / "other", records=30, images=2, width=8, shift=1.0)
    table = FeatureTable.load(other)
    assert not {*table.record_ids.to_pylist()} & {f"r{i}" for i in range(100)}
    manifest = json.loads((Path(other) / "manifest.json").read_text())
    (Path(other) / "manifest.json").write_text(json.dumps(manifest | {"encoder": ENCODER}))
    assert "all_auroc" in run_evaluation(override(asked, everything | {"features.path": other}))
    rows = pq.read_table(next(Path(other).glob("data/*.parquet")))
    all_fake = [["sd"] * len(names) for names in rows["generators"].to_pylist()]
    generators = pa.array(all_fake, rows.schema.field("generators").type)
    fakes = rows.set_column(rows.column_names.index("generators"), "generators", generators)
    shutil.copytree(other, tmp_path / "fakes")
    pq.write_table(fakes, next((tmp_path / "fakes").glob("data/*.parquet")))
    one_class = {"features.path": str(tmp_path / "fakes"), "evaluate.output": str(tmp_path / "refused")}
    with pytest.raises(ValueError, match="both classes must be present, got 0 real and 60 generated images"):
        run_evaluation(override(asked, everything | one_class))
    assert not (tmp_path / "refused").exists()  # a refused request takes no directory
    for damage, said in ((b"", "can not be read"), (None, "is missing, so nobody knows which records the run has seen")):
        seen = Path(RunDirectory(summary["run_dir"]).trained_on)
        seen.unlink()
        if damage is not None:
            seen.write_bytes(damage)
        with pytest.raises(RuntimeError, match=f"trained_on.parquet {said}.*; delete metrics.json of the run"):
            run_evaluation(override(asked, everything | {"evaluate.output": str(tmp_path / "unknown")}))
    storage.write_table(str(seen), pa.table({"record_id_hash": ["no", "number"]}))
    with pytest.raises(RuntimeError, match="must hold hashes of records, got 2 of type string; delete metrics.json of the run"):
        run_evaluation(override(asked, everything | {"evaluate.output": str(tmp_path / "unknown")}))
    kept = Path(summary["run_dir"]) / "config.yaml"
    whole = kept.read_bytes()
    for text, said in (
        (whole[: whole.index(b"model:")], "lacks evaluate, loss, model, optimizer, sam; delete"),
        (whole.replace(b"  test_share: 0.3\n", b""), "lacks test_share; delete"),
        (b"\xff", "is not the config of a run: .*; delete"),
        (b"train: {nope: 1}", "is not the config of a run: unknown key 'train.nope'.*; delete"),
    ):
        kept.write_bytes(text)
        with pytest.raises(RuntimeError, match=f"config.yaml {said}"):
            run_evaluation(override(asked, {"evaluate.output": str(tmp_path / "unknown")}))


def test_a_finished_run_notices_that_its_features_were_embedded_anew(config: Config, features: Path, tmp_path: Path) -> None:
    shutil.copytree(features, tmp_path / "features")
    own = override(config, {"features.path": str(tmp_path / "features"), "train.epochs": 1})
    summary = run_training(own)
    assert run_training(override(own, {"features.path": f"{tmp_path}/features/"})) == summary  # the same path
    shutil.rmtree(tmp_path / "features")
    assert run_training(own) == summary  # finished, the features may go
    shutil.copytree(features, tmp_path / "features")
    manifest = json.loads((tmp_path / "features" / "manifest.json").read_text())
    (tmp_path / "features" / "manifest.json").write_text(json.dumps(manifest | {"id": "another"}))
    with pytest.raises(ValueError, match="was begun on other features: they were embedded anew since"):
        run_training(own)


def test_a_detector_of_text_dropout_is_measured_with_and_without_text(tmp_path: Path) -> None:
    path = write_features(tmp_path / "features", records=200, images=2, width=8, shift=1.0)
    shares = {"features.path": path, "features.text_mode": "shared", "model.text_dropout": 0.5, "train.epochs": 5}
    config = override(base_config(Path(path), tmp_path), shares)
    run_training(config)
    metrics = json.loads((Path(config.train.output) / "metrics.json").read_text())
    assert metrics["test_without_text"]["auroc"] > 0.8
    assert metrics["test_without_text"]["auroc"] != metrics["test"]["auroc"]
    with_text = Detector.load(f"{config.train.output}/detector")
    assert with_text.head.no_text.abs().sum() > 0


def test_folds_in_one_command(config: Config) -> None:
    folds = {"features.split": "folds", "features.num_folds": 3, "train.cross_validate": True, "train.epochs": 2}
    summary = run_training(override(config, folds))
    assert len(summary["folds"]) == 3
    assert summary["test_auroc"] == pytest.approx(np.mean(summary["folds"]))
    with pytest.raises(ValueError, match="was made with another config: features.num_folds"):
        run_training(override(config, folds | {"features.num_folds": 4}))
    with pytest.raises(ValueError, match="was made with another config: .*train.cross_validate"):
        run_training(override(config, {"train.epochs": 2}))


def test_folds_do_not_take_the_directory_of_a_run(config: Config) -> None:
    run = override(config, {"train.epochs": 1})
    summary = run_training(run)
    folds = {"features.split": "folds", "features.num_folds": 3, "train.cross_validate": True}
    with pytest.raises(ValueError, match="was made with another config: .*train.cross_validate"):
        run_training(override(run, folds))
    assert run_training(run) == summary


def test_what_training_refuses(config: Config, tmp_path: Path) -> None:
    for changes, message in (
        ({"features.path": str(tmp_path)}, "no finished embedding"),
        ({"features.path": ""}, "features.path must name"),
        ({"train.output": ""}, "train.output must name"),
        ({"features.text_mode": "shared"}, "set features.text_mode to auto or none"),
        ({"features.split": "folds", "features.num_folds": 90}, "lower features.num_folds"),
    ):
        with pytest.raises(ValueError, match=message):
            run_training(override(config, changes))
    with pytest.raises(ValueError, match=r"model\.text_dropout must be 0 where images go without text, got 0\.5"):
        run_training(override(config, {"features.text_mode": "auto", "model.text_dropout": 0.5}))
    assert not Path(config.train.output).exists()


def test_mlflow_holds_the_run_and_its_files(config: Config, features: Path) -> None:
    run_training(config)
    from mlflow import MlflowClient

    client = MlflowClient(config.tracking.uri)
    experiment = client.get_experiment_by_name("rdd")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["loss.alpha"] == "0.8"
    assert len(client.get_metric_history(run.info.run_id, "val/auroc")) == EPOCHS
    assert run.data.metrics["test/auroc"] > 0.7
    assert run.data.tags["mlflow.source.git.commit"]
    assert run.data.tags["rdd.features_manifest_sha256"]
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"audit", "detector", "figures", "report"}
    (model,) = client.search_logged_models([experiment.experiment_id])
    assert (model.name, str(model.status), model.source_run_id) == ("model", "READY", run.info.run_id)


def test_a_tracking_server_that_is_away_does_not_end_a_run(config: Config, caplog) -> None:
    caplog.set_level("WARNING", logger="rdd")
    summary = run_training(override(config, {"tracking.uri": "http://127.0.0.1:9", "train.epochs": 1}))
    assert summary["epochs"] == 1
    assert "MLflow does not answer, logging later: " in caplog.text
    assert f"they are kept in {config.train.output}/.waiting-for-mlflow.json" in caplog.text


@pytest.mark.parametrize("kills", [pytest.param(1, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.long)])
def test_killed_and_started_again_the_weights_are_those_of_an_untouched_run(
    config: Config, features: Path, tmp_path: Path, kills: int
) -> None:
    total = 50 * kills
    output = tmp_path / "killed"
    words = [sys.executable, "jobs/train.py", "--tracking.enabled", "false", "--train.output", str(output)]
    words += ["--features.path", str(features), "--features.text_mode", "none", "--evaluate.resamples", "100"]
    words += ["--features.validation_share", "0.3", "--features.test_share", "0.3"]
    words += ["--train.batch_size", "32", "--train.threads_per_worker", "1", "--scaling.num_workers", "0"]
    words += ["--model.hidden", "256", "--train.epochs", str(total), "--optimizer.lr", "0.003"]
    last, epochs, delays = output / "checkpoints" / "last.pt", [0], random.Random(0)
    for _ in range(kills):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if last.exists() and load_state(str(last)).epoch >= epochs[-1] + 10:
                break
        time.sleep(delays.uniform(0, 0.1))  # some epochs' length: it is killed within one
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        epochs.append(load_state(str(last)).epoch)
    assert all(before < after for before, after in itertools.pairwise(epochs))
    assert epochs[-1] < total
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert f"going on after epoch {epochs[-1]} of {total}" in done.stderr
    untouched = override(config, {"model.hidden": 256, "train.epochs": total, "tracking.enabled": False})
    run_training(untouched)
    one, other = weights(output), weights(untouched.train.output)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_figure_that_can_not_be_drawn_costs_no_result(config: Config, monkeypatch, caplog) -> None:
    def stumble(*arguments: object) -> bytes:
        raise ValueError("a name that the parser of formulas does not like")

    monkeypatch.setattr(make_detector, "roc_figure", stumble)
    summary = run_training(override(config, {"train.epochs": 1}))
    figures = {path.name for path in (Path(summary["run_dir"]) / "figures").iterdir()}
    assert figures == {"history.png", "logits.png", "reliability.png"}
    assert "roc.png is not drawn (ValueError: a name that the parser" in caplog.text
    assert (Path(summary["run_dir"]) / "metrics.json").exists()

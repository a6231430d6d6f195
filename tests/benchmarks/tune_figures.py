"""What a sweep costs beyond its training, what it shares, what ASHA saves, and the landscape on two cores."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import ray
import torch
from measure import Figure, times_as_fast
from synthetic import write_features

from rdd.config import Config
from rdd.config.parse import override
from rdd.evaluation.landscape import Surroundings, filter_normalised, losses_at
from rdd.losses import CvarAucLoss
from rdd.model import DetectorHead
from rdd.on_ray.figures import landscape_on_ray
from rdd.on_ray.tune import run_sweep

_HOLD = """
import sys, torch
sys.path.insert(0, {here!r})
from rdd.config.parse import override
from rdd.config import Config
from rdd.on_ray.single_process import held_features
from rdd.engine import Learner, train_steps
from rdd.runs.directory import RunDirectory
from rdd.runs.local_context import LocalContext
torch.set_num_threads(1)
config = override(Config(), {{"features.path": {features!r}, "model.hidden": 64}})
table = held_features(config, torch.device("cpu"))
learner = Learner.build(config, table.width("shared"), LocalContext(RunDirectory("/nowhere"), lambda metrics: None))
for _ in train_steps(learner, table, table.split(config.features, "train"), epoch=0):
    pass
print("ready", flush=True)
sys.stdin.readline()
"""


def tune_figures(folder: Path) -> list[Figure]:
    """All of them, in one Ray session of two CPUs."""
    features = write_features(folder / "features", records=300, images=3, width=64, shift=0.15)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        figures = [_overhead(folder, features), *_asha(folder, features), _landscape()]
    finally:
        ray.shutdown()
    return [*figures, _memory(folder)]


def _sweep(folder: Path, features: str, **changes: object) -> tuple[Config, dict]:
    values = {
        "features.path": features,
        "features.text_mode": "none",
        "features.validation_share": 0.3,
        "features.test_share": 0.1,
        "model.hidden": 64,
        "train.batch_size": 64,
        "train.threads_per_worker": 1,
        "tracking.enabled": False,
        "tune.output": str(folder),
        "tune.space": {"loss.alpha": {"uniform": [0.2, 1.0]}, "loss.gamma": {"uniform": [0.1, 0.9]}},
        **changes,
    }
    config = override(Config(), values)
    return config, run_sweep(config)


def _overhead(folder: Path, features: str, number: int = 20) -> Figure:
    """Seconds of two slots that are not training, over the trials."""
    started = time.perf_counter()
    options = {"tune.num_trials": number, "tune.scheduler": "none", "train.epochs": 5}
    config, _ = _sweep(folder / "overhead", features, **options)
    whole = 2 * (time.perf_counter() - started)
    training = 0.0
    for path in Path(config.tune.output).glob("trials/*/checkpoints/history.json"):
        for row in json.loads(path.read_text()):
            training += row["time/step_s"] * -(-_train_images(config) // config.train.batch_size)
    return Figure("a trial beyond its training, 20 trials, 2 at a time", (whole - training) / number, at_most=3, unit="s")


def _train_images(config: Config) -> int:
    from rdd.features import FeatureTable

    return len(FeatureTable.load(config.features.path).split(config.features, "train"))


def _asha(folder: Path, features: str) -> list[Figure]:
    """The same 16 draws with ASHA and without."""
    common = {"tune.num_trials": 16, "train.epochs": 27}
    _, stopped = _sweep(folder / "asha", features, **common)
    _, whole = _sweep(folder / "whole", features, **common, **{"tune.scheduler": "none"})
    return [
        Figure(
            "16 ASHA trials over 16 full ones: samples trained",
            stopped["samples_trained"] / whole["samples_trained"],
            at_most=0.5,
        ),
        Figure(
            "the same: best validation AUC of full over that of ASHA",
            whole["validation_auroc"] / stopped["validation_auroc"],
            at_most=1.01,
        ),
    ]


def _landscape(points: int = 21) -> Figure:
    """The square on Ray with two tasks of one thread, over a loop in this process on one thread."""
    torch.manual_seed(0)
    labels = (torch.arange(1024) % 5 > 0).float()
    loss = CvarAucLoss(alpha=0.8, gamma=0.5, eta=0.6, p=2)
    at = Surroundings.copy_of(DetectorHead(768, hidden=512), torch.randn(1024, 768), labels, loss)
    directions = filter_normalised(at.head, seed=0), filter_normalised(at.head, seed=1)
    axis = torch.linspace(-1, 1, points).tolist()
    square = [(x, y) for y in axis for x in axis]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ratio = times_as_fast(
        lambda: landscape_on_ray(at, points=points, span=1.0, seed=0, cpus_per_task=1),
        lambda: losses_at(at, directions, square),
        rounds=3,
    )
    torch.set_num_threads(threads)
    return Figure("landscape of 21 x 21 points on 2 cores over a loop on one", ratio, at_least=1.6)


def _memory(folder: Path) -> Figure:
    """Features in memory, four processes over one: what is private beyond a small table, and the shares of the map."""
    large = write_features(folder / "large", records=20_000, images=5)
    small = write_features(folder / "small", records=1200, images=5)

    def held(count: int, features: str) -> float:
        code = _HOLD.format(here=str(Path(__file__).parent), features=features)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        processes = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(count)]
        try:
            for process in processes:
                assert process.stdout.readline() == "ready\n"
            return sum(_private(process.pid) + _of_map(process.pid) for process in processes)
        finally:
            for process in processes:
                process.communicate("\n")

    alone, together = (held(count, large) - held(count, small) for count in (1, 4))
    return Figure("features in memory, 4 trials at once over 1", together / alone, at_most=1.2)


def _private(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+)", status)[1])


def _of_map(pid: int) -> int:
    """The process's proportional share of the mapped rows, in kB."""
    total, inside = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith("rows.npy")
        elif inside and line.startswith("Pss:"):
            total += int(line.split()[1])
    return total

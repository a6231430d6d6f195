"""D3's way on one machine, in small: fetch and embed from S3 to S3, each killed three times, verify, train, and check it all.

    python tests/cluster/dress_rehearsal.py --records 20000 --report runs/rehearsal.json

S3 is moto and the web is aiohttp, each a process of its own on this machine; a third of the addresses is gone, some serve a
placeholder or forbid the use. The encoder is a tiny CLIP of seeded random weights, of which features say nothing about images;
the jobs, their processes and their commands are those of D3.
"""

import argparse
import json
import logging
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TESTS = Path(__file__).resolve().parents[1]
for folder in (TESTS / "cluster", TESTS / "integration", TESTS):
    sys.path.insert(0, str(folder))

from _rehearsal_checks import asked_again, check_embedded, check_fetched  # noqa: E402 - found by the lines above
from _rehearsal_report import table_of  # noqa: E402
from _rehearsal_set import RehearsalSet  # noqa: E402
from _watched_job import StageRun, WatchedJob, Way  # noqa: E402
from _web_server import stats, web_server  # noqa: E402
from s3_server import S3Server, s3_server  # noqa: E402

from rdd.config import ClipConfig  # noqa: E402

logger = logging.getLogger("dress_rehearsal")

TINY = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}
"""A CLIP that costs a millisecond an image."""

WAYS: tuple[Way, ...] = ("driver", "machine", "driver")
_COMMITS_A_STAGE = 40
_PLAINLY = 0.9
"""AUC of small smooth pictures against noise; mixed up they would have 0.5."""
_LARGEST_FILE = 500  # the default of fetch.records_per_file
_LARGEST_COMMIT, _LARGEST_PASS = 1024, 256  # of d3.yaml: embed.records_per_commit, and clip.batch_size


class Meter:
    """What S3 has been asked for, stage by stage, and commits among it."""

    def __init__(self, server: S3Server) -> None:
        self._server = server
        self.of_stage: dict[str, Counter[str]] = {}
        self._now: Counter[str] = Counter()

    def begin(self, stage: str) -> None:
        """Count for another stage from now on; what was asked for since the last count is no stage's."""
        self._now = Counter()
        self.read()
        self._now = self.of_stage[stage] = Counter()

    def read(self) -> int:
        """Commits since the last time."""
        counts = self._server.counts()
        commits = sum(map(_is_commit, counts.requests))
        self._now.update(requests=len(counts.requests), read=counts.bytes_read, written=counts.bytes_written, commits=commits)
        return commits


def _is_commit(request: str) -> bool:
    """Whether a request makes a file of a fetch or of an embedding count."""
    method, path = request.split(" ")[:2]
    of_embedding = "/.work/checkpoint/" in path and path.endswith(".parquet") and not path.endswith(".pending.parquet")
    return method == "PUT" and (of_embedding or "/.work/commits/" in path)


class Rehearsal:
    """One run through all stages.

    Args:
        records: how many, at least 200.
        folder: for logs, the model and Ray.
        server: S3.
        port: of the web server.
        seed: of the records and of the moments of kills.
        ways: how fetch and embedding are killed, one way after the other.
    """

    def __init__(self, records: int, folder: Path, server: S3Server, port: int, seed: int, ways: Sequence[Way]) -> None:
        self._folder, self._port, self._seed, self._bucket = folder, port, seed, server.bucket
        self._ways = ways
        self._meter, self._draw = Meter(server), np.random.default_rng(seed)
        self.set = RehearsalSet(records, port, seed)
        self._per_file = min(_LARGEST_FILE, max(10, records // _COMMITS_A_STAGE))
        self._per_commit = min(_LARGEST_COMMIT, max(10, records // _COMMITS_A_STAGE))
        (folder / "tiny-clip").mkdir()
        (folder / "tiny-clip" / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))
        images = min(_LARGEST_PASS, max(16, 2 * self._per_commit))
        model = f"local-dir:{folder / 'tiny-clip'}"
        self._clip = ClipConfig(model=model, pretrained="random", batch_size=images, blocks=[1])
        self._runs: dict[str, StageRun] = {}

    def run(self) -> dict[str, Any]:
        """All stages; what is to be reported.

        Raises:
            AssertionError: a result is not what it must be.
            RuntimeError: a stage failed.
        """
        started = time.monotonic()
        self._meter.begin("records")
        input_bytes = self.set.write(f"{self._bucket}/d3/data")
        making_s = time.monotonic() - started
        logger.info("%d records, %.0f MB, made in %.0f s", len(self.set.ids), input_bytes / 1e6, making_s)
        self._killed("fetch", self._fetch_words(), -(-len(self.set.ids) // self._per_file), tells="files to fetch")
        requests, again = asked_again(self.set, self._port)
        self._stage("fetch_again", [*self._fetch_words(), "--fetch.retry_failed", "true"])
        fetched = check_fetched(self.set, f"{self._bucket}/d3/real_images")
        self._killed("embed", self._embed_words(), -(-len(self.set.ids) // self._per_commit), tells="records to embed")
        self._stage("verify", [*self._embed_words(), "--verify"])
        features = check_embedded(self.set, f"{self._bucket}/features/d3", fetched, self._clip, self._seed)
        self._check_summaries(fetched, features)
        self._stage("train", self._train_words())
        assert self._runs["train"].summary["test_auroc"] > _PLAINLY, "labels or rows are mixed up: the classes differ plainly"
        return {
            "records": len(self.set.ids),
            "input_bytes": input_bytes,
            "making_s": making_s,
            "survival": dict(sorted(Counter({status: len(ids) for status, ids in fetched.items()}).items())),
            "web": {"requests": requests, "asked_again": again, "most_at_once": max(stats(self._port)["most"].values())},
            "features": features,
            "stages": self._runs,
            "s3": self._meter.of_stage,
        }

    def _killed(self, name: str, words: list[str], commits: int, tells: str) -> None:
        """A stage that is killed at random moments before it may end."""
        self._meter.begin(name)
        job = WatchedJob(name, words, self._folder, self._meter.read, tells)
        self._runs[name] = job.result
        try:
            for way in self._ways:
                moment = int(self._draw.integers(1, max(2, commits // 5)))
                job.run_until(lambda seen, moment=moment: seen >= moment, way)
                logger.info("%s: killed (%s) after %d commits", name, way, job.result.attempts[-1].commits)
            job.run_to_end()
        finally:
            job.end_all()
        self._meter.read()
        logger.info("%s: %s", name, json.dumps([job.result, self._meter.of_stage[name]], default=vars))

    def _stage(self, name: str, words: list[str]) -> None:
        """A stage that is left alone."""
        self._meter.begin(name)
        job = WatchedJob(name, words, self._folder, self._meter.read)
        self._runs[name] = job.result
        try:
            job.run_to_end()
        finally:
            job.end_all()
        self._meter.read()
        logger.info("%s: %s", name, json.dumps([job.result, self._meter.of_stage[name]], default=vars))

    def _check_summaries(self, fetched: dict[str, list[str]], features: dict[str, Any]) -> None:
        """in = written + quarantined, in the words of each job."""
        fetch, embed, verify = (self._runs[name].summary for name in ("fetch_again", "embed", "verify"))
        records, kept = len(self.set.ids), len(fetched["ok"])
        assert (fetch["records"], fetch["ok"], fetch["failed"]) == (records, kept, records - kept)
        assert fetch["status"] == {status: len(ids) for status, ids in fetched.items()}
        assert (features["written"], features["quarantined"]) == (kept, records - kept)
        for said in (embed, verify):
            assert (said["records_in"], said["records_written"], said["records_quarantined"]) == (records, kept, records - kept)
        assert embed["quarantined"] == {"real_image_failed": records - kept}
        assert embed["images"] == 5 * kept
        assert verify["whole"]

    def _fetch_words(self) -> list[str]:
        return self._words(
            "fetch",
            {
                "fetch.output": f"{self._bucket}/d3/real_images",
                "fetch.contact": "rehearsal@example.org",
                "fetch.num_workers": 2,
                "fetch.cpus_per_worker": 0.5,
                "fetch.records_per_file": self._per_file,
                "fetch.placeholder_urls": 3,
                "fetch.allow_loopback": True,
                "fetch.connect_timeout_s": 10,
                "fetch.read_timeout_s": 10,
                "fetch.image_timeout_s": 30,
                "fetch.backoff_s": 0.2,
                "fetch.max_wait_s": 5,
                "fetch.host_failures": 5,
                "fetch.retries": 1,
            },
        )

    def _embed_words(self) -> list[str]:
        return self._words(
            "embed",
            {
                "records.real_images": f"{self._bucket}/d3/real_images",
                "clip.model": self._clip.model,
                "clip.pretrained": self._clip.pretrained,
                "clip.blocks": self._clip.blocks,
                "clip.device": "cpu",
                "clip.precision": "fp32",
                "clip.batch_size": self._clip.batch_size,
                "embed.output": f"{self._bucket}/features/d3",
                "embed.num_workers": 1,
                "embed.gpus_per_worker": 0,
                "embed.threads_per_worker": 1,
                "embed.cpus_per_task": 0.5,
                "embed.records_per_commit": self._per_commit,
            },
        )

    def _train_words(self) -> list[str]:
        return self._words(
            "train",
            {
                "features.path": f"{self._bucket}/features/d3",
                "features.inputs": ["projected", "block_1"],
                "features.validation_share": 0.2,
                "features.test_share": 0.2,
                "model.hidden": 64,
                "train.output": f"{self._bucket}/runs/d3",
                "train.epochs": 10,
                "train.batch_size": min(256, max(16, len(self.set.ids) // 10)),
                "train.threads_per_worker": 1,
                "evaluate.resamples": 100,
                "scaling.num_workers": 2,
                "scaling.cpus_per_worker": 1,
                "scaling.gpus_per_worker": 0,
            },
        )

    def _words(self, job: str, leaves: dict[str, Any]) -> list[str]:
        """The command of D3, with what is other here."""
        common = {"cluster.address": "local", "cluster.num_cpus": 2, "tracking.enabled": False}
        if job != "train":
            common["records.path"] = f"{self._bucket}/d3/data"
        words = [f"jobs/{job}.py", "--config", "jobs/configs/d3.yaml"]
        for leaf, value in (leaves | common).items():
            words += [f"--{leaf}", value if isinstance(value, str) else json.dumps(value)]
        return words


def rehearse(records: int, seed: int = 0, ways: Sequence[Way] = WAYS) -> dict[str, Any]:
    """Run it in a folder of its own, which is deleted at the end unless something fails."""
    folder = Path(tempfile.mkdtemp(prefix="rdd-"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", str(folder))
        patch.setenv("RDD_MAP_DIR", str(folder))
        patch.delenv("RAY_ADDRESS", raising=False)
        with s3_server(patch) as server, web_server(folder) as port:
            logger.info("logs are in %s", folder)
            report = Rehearsal(records, folder, server, port, seed, ways).run()
    shutil.rmtree(folder)
    return report


def main() -> None:
    """Rehearse, print the table, write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=20_000, help="how many records, at least 200")
    parser.add_argument("--seed", type=int, default=0, help="of the records and of the moments of kills")
    parser.add_argument("--report", type=Path, default=Path("runs/rehearsal.json"), help="file to write")
    words = parser.parse_args()
    if words.records < 200:
        parser.error(f"--records must be at least 200, so that each stage can be killed three times, got {words.records}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    report = rehearse(words.records, words.seed)
    words.report.parent.mkdir(parents=True, exist_ok=True)
    words.report.write_text(json.dumps(report, indent=1, default=vars))
    print(table_of(report))


if __name__ == "__main__":
    main()

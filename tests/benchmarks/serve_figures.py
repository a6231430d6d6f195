"""The server under many clients against a bare loop of the same model over the same images.

python tests/benchmarks/serve_figures.py --detector DIR [--weights FILE] [--images 300] [--in-process]
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from _load import Load, photographs, send_all
from _serve_job import serve_job
from _small_detector import detector_of
from measure import Figure, seconds

from rdd.clip import ClipEncoder
from rdd.model import DetectorHead
from rdd.on_ray.serve_options import ServeOptions, weights_of
from rdd.serving.predictor import Predictor

MODEL, IMAGES, CLIENTS, ROUNDS = "ViT-B-16-quickgelu", 40, 32, 3
"""A tower of a size that is in use, with random weights, and half a minute of its work on two cores."""


def serve_figures(folder: Path) -> Iterator[Figure]:
    """Images a second of the server at 32 clients over those of the bare loop: the median of rounds that alternate."""
    encoder = ClipEncoder(MODEL, "random")
    detector = replace(detector_of(encoder), inputs={"projected": encoder.identity.embed_dim})
    detector.head_config = detector.head_config | {"in_features": encoder.identity.embed_dim}
    detector.head, detector.encoder_identity = DetectorHead(**detector.head_config).eval(), asdict(encoder.identity)
    detector.save(str(folder / "detector"))
    files, ratios = photographs(IMAGES), []
    predictor = Predictor.load(str(folder / "detector"), weights="random")
    with serve_job(folder, "--detector", str(folder / "detector")) as job:
        for _ in range(ROUNDS):
            ratios.append(_whole(send_all(job.url, files, clients=CLIENTS)).images_per_s / bare_images_per_s(predictor, files))
    yield Figure("serve: images/s of 32 clients over the bare loop", statistics.median(ratios), at_least=0.85)


def bare_images_per_s(predictor: Predictor, files: Sequence[bytes]) -> float:
    """Of decoding and scoring in batches as large as the server's, one after the other."""
    size = ServeOptions.batch_size

    def work() -> None:
        for start in range(0, len(files), size):
            predictor.answers([predictor.preparer(data) for data in files[start : start + size]])

    return len(files) / seconds(work)


def _whole(load: Load) -> Load:
    """A load of which no image was lost or got another's answer."""
    assert load.codes.keys() == {200}, load.failures
    assert load.mixed_up == 0
    return load


def main() -> None:
    """Print a table for a detector: clients, images a second, latencies, and the ratio to the bare loop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--detector", required=True, help="directory of the detector")
    parser.add_argument("--weights", default="", help="file of its encoder's weights; by default they are looked for")
    parser.add_argument("--images", type=int, default=300, help="images for 32 clients; fewer clients get fewer")
    parser.add_argument("--in-process", action="store_true", help="measure the server without Ray")
    given = parser.parse_args()
    weights = weights_of(ServeOptions(detector=given.detector, weights=given.weights))
    predictor, files = Predictor.load(given.detector, weights=weights), photographs(given.images)
    predictor.answers([predictor.preparer(files[0])])
    words = ["--detector", given.detector, "--weights", weights, *(["--in-process"] if given.in_process else [])]
    print(f"{torch.get_num_threads()} threads; bare loop in batches of {ServeOptions.batch_size}")
    print("clients  images  images/s  p50 s  p99 s  bare images/s  ratio")
    with tempfile.TemporaryDirectory() as folder, serve_job(Path(folder), *words) as job:
        _whole(send_all(job.url, files[:8], clients=8))
        for clients in (1, 8, CLIENTS):
            some = files[: max(clients, len(files) * clients // CLIENTS)]
            before = bare_images_per_s(predictor, some)
            load = _whole(send_all(job.url, some, clients=clients))
            bare = (before + bare_images_per_s(predictor, some)) / 2
            print(
                f"{clients:7}  {len(some):6}  {load.images_per_s:8.2f}  {load.percentile(50):5.2f}  {load.percentile(99):5.2f}"
                f"  {bare:13.2f}  {load.images_per_s / bare:5.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()

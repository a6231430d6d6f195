"""``rdd predict``: its arguments, and answers for a moderate number of images in this process. Torch is imported last.

While torch is imported, other threads hash the weights and decode the first images.
"""

import argparse
import contextlib
import gc
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa

from rdd import storage
from rdd.config.fetch import FetchConfig
from rdd.data.unlabelled import UnlabelledSource
from rdd.detector_identity import encoder_identity_of
from rdd.known_weights import find_weights
from rdd.progress import at_most_every
from rdd.serving.answer import Answer, answer_schema
from rdd.serving.batches_ahead import Batch, BatchesAhead, answers_of
from rdd.serving.prepare import MAX_PIXELS, Preparer
from rdd.serving.writers import FORMATS, writer_of

if TYPE_CHECKING:
    from rdd.serving.predictor import Predictor

logger = logging.getLogger(__name__)

HERE_UP_TO = 500
"""Images that are answered in this process: minutes on two CPUs, which a kill may cost. More go to Ray."""

BY_SUFFIX = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}

_PROGRESS_S = 2.0
_PIPE_CLOSED = 141
"""Exit code of a program that SIGPIPE ends."""

OnRay = Callable[[argparse.Namespace, FetchConfig | None], Mapping[str, Any]]
"""Answers many images; returns what to report."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``rdd predict``."""
    add = parser.add_argument
    add(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="file, folder, 'wildcard', table (.csv, .parquet with path, bytes or url), s3://",
    )
    add(
        "--detector",
        required=True,
        metavar="DIR",
        help="the detector's directory, local or s3://; a run writes it to RUN/detector",
    )
    add(
        "--format",
        choices=FORMATS,
        help="table on a terminal, else json (one answer a line); by default by the end of --output",
    )
    add("--output", metavar="FILE", help="write there, whole or not at all; of many images a directory of Parquet")
    add(
        "--weights",
        default="",
        metavar="FILE",
        help="CLIP's weights; by default those that jobs/weights.py wrote, by their SHA-256",
    )
    add(
        "--explain",
        nargs="?",
        const="explanations",
        metavar="DIR",
        help="write what each answer rests on to DIR: <sha256>.png, the map, and .json, the nearest",
    )
    add("--caption", default="", metavar="TEXT", help="the prompt of every image that has none of its own in a table")
    add(
        "--huggingface",
        action="store_true",
        help="json as Hugging Face's image-classification: labels and scores of each image",
    )
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where CLIP runs (default: %(default)s)")
    add(
        "--precision",
        choices=("fp32", "bf16", "fp16"),
        default="fp32",
        help="of CLIP; fp16 on cuda alone (default: %(default)s)",
    )
    add("--batch-size", type=int, default=16, metavar="N", help="images in one forward pass (default: %(default)s)")
    add("--max-pixels", type=int, default=MAX_PIXELS, metavar="N", help="largest width x height decoded (default: %(default)s)")
    add("--here-up-to", type=int, default=HERE_UP_TO, metavar="N", help="more images go to Ray (default: %(default)s)")
    add("--allow-urls", action="store_true", help="fetch addresses, from public hosts alone; needs --contact")
    add("--schema", action=_PrintSchema, help="print the JSON schema of an answer, and end")
    add("--contact", default="", metavar="WHO", help="your mail address or page, which is sent to the hosts that are asked")


class _PrintSchema(argparse.Action):
    """Prints the schema where it stands among the arguments."""

    def __init__(self, option_strings: list[str], dest: str, help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(json.dumps(answer_schema(), indent=2))
        parser.exit()


def run(arguments: argparse.Namespace, on_ray: OnRay) -> int:
    """Answer the images; what cannot be read is a row with its reason.

    Args:
        arguments: of :func:`add_arguments`.
        on_ray: answers many images.

    Returns:
        The exit code: 0, whatever the verdicts.

    Raises:
        ValueError: the request is wrong, or nothing matches.
        RuntimeError: the work failed.
    """
    format, fetch = _checked_format(arguments), _fetching(arguments)
    identity = encoder_identity_of(arguments.detector)
    source = UnlabelledSource(arguments.images, caption=arguments.caption, fetch=fetch)
    index = source.index()
    if (images := index.num_rows) > arguments.here_up_to:
        _check_for_ray(arguments, images)
        del source, index  # of ten million images gigabytes
        logger.info("%d images go to Ray; stopped, the same command goes on where it was", images)
        for name, value in on_ray(arguments, fetch).items():
            print(f"  {name.replace('_', ' '):<20}  {value}", file=sys.stderr)
        return 0
    if arguments.output and os.path.isdir(arguments.output):
        raise ValueError(f"--output must name a file when all is answered in this process, got the folder {arguments.output}")
    preparer = Preparer(identity["preprocessing"], max_pixels=arguments.max_pixels)
    with (
        ThreadPoolExecutor(1) as beside,
        contextlib.closing(BatchesAhead(index, source.reader, preparer, batch_size=arguments.batch_size)) as batches,
    ):
        weights = beside.submit(find_weights, identity, arguments.weights)
        predictor = _loaded(arguments, weights.result)
        with _opened(arguments.output) as stream:
            _answer_all(arguments, index, batches, predictor, format, stream)
    return 0


def _loaded(arguments: argparse.Namespace, weights: Callable[[], str]) -> "Predictor":
    with _kept_to_the_end():
        import torch

        from rdd.serving.predictor import Predictor  # and with it open_clip: two seconds in all

        if arguments.device == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("--device is cuda and torch sees no GPU here; leave it out, or start this where one is")
        return Predictor.load(
            arguments.detector,
            weights=weights(),
            device=arguments.device,
            precision=arguments.precision,
            max_pixels=arguments.max_pixels,
        )


@contextlib.contextmanager
def _kept_to_the_end() -> Iterator[None]:
    """What is made within it is never searched for cycles of garbage: for torch's million objects that takes 1.5 s in all."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _answer_all(
    arguments: argparse.Namespace,
    index: pa.Table,
    batches: BatchesAhead,
    predictor: "Predictor",
    format: str,
    stream: IO[bytes],
) -> None:
    writer = writer_of(format, stream, huggingface=arguments.huggingface)
    began, done, say = time.monotonic(), 0, at_most_every(_PROGRESS_S, _say_progress)
    for answers, batch in answers_of(batches, predictor):
        writer.write(answers, _explanations(predictor, batch, answers, arguments.explain))
        done += len(answers)
        say(done, index.num_rows, began)
    writer.close()


def _explanations(
    predictor: "Predictor", batch: Batch, answers: list[Answer], folder: str | None
) -> list[dict[str, Any] | None]:
    """Of each image what its answer rests on, written to two files, too; None where nothing is asked for, or to be seen."""
    if folder is None:
        return [None] * len(batch.images)
    from rdd.serving.explain import explain

    explained: list[dict[str, Any] | None] = []
    for image, caption, answer in zip(batch.images, batch.captions, answers, strict=True):
        if answer.error is not None:
            explained.append(None)
            continue
        explanation = explain(predictor, image, caption=caption)
        picture, described = storage.join(folder, f"{image.sha256}.png"), explanation.to_dict()
        described["occlusion"] = described["occlusion"] | {"png": picture}
        storage.write_bytes(picture, explanation.png)
        storage.write_json(storage.join(folder, f"{image.sha256}.json"), described)
        explained.append(described)
    return explained


def _say_progress(done: int, total: int, began: float) -> None:
    if done < total:
        logger.info("%d of %d images, %.1f a second", done, total, done / (time.monotonic() - began))


def _checked_format(arguments: argparse.Namespace) -> str:
    """The format to write, once the request is sound."""
    for name in ("batch_size", "max_pixels"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(arguments, name)}")
    if arguments.here_up_to < 0:
        raise ValueError(f"--here-up-to must be at least 0, got {arguments.here_up_to}")
    if arguments.precision == "fp16" and arguments.device == "cpu":
        raise ValueError("--precision must be fp32 or bf16 when --device is cpu, got fp16")
    by_default = "table" if sys.stdout.isatty() and not arguments.huggingface else "json"
    by_suffix = BY_SUFFIX.get(os.path.splitext(arguments.output or "")[1].lower(), by_default)
    format = arguments.format or (by_suffix if arguments.output else by_default)
    if arguments.huggingface and format != "json":
        raise ValueError(f"--huggingface goes with --format json alone, got {format}")
    if format == "parquet" and not arguments.output and sys.stdout.isatty():
        raise ValueError("--format parquet is no text for a terminal; add --output FILE, or pipe it on")
    return format


def _fetching(arguments: argparse.Namespace) -> FetchConfig | None:
    if not arguments.allow_urls:
        if arguments.contact:
            raise ValueError("--contact is sent with requests alone; add --allow-urls, or leave it out")
        return None
    if not arguments.contact:
        raise ValueError("--allow-urls needs --contact, a mail address or page where the owner of a website reaches you")
    return FetchConfig(contact=arguments.contact)


def _check_for_ray(arguments: argparse.Namespace, images: int) -> None:
    """Refuse what goes with answers in this process alone."""
    many = f"{images} images are more than the {arguments.here_up_to} that are answered in this process (--here-up-to)"
    if not arguments.output:
        raise ValueError(f"{many}; give --output DIRECTORY, where Ray writes Parquet and goes on after a kill")
    if arguments.format not in (None, "parquet") or BY_SUFFIX.get(os.path.splitext(arguments.output)[1].lower()):
        raise ValueError(f"{many}; --output must then be a directory, where Ray writes Parquet, got {arguments.output}")
    if arguments.huggingface:
        raise ValueError(f"{many}; --huggingface is for json lines, which Ray does not write")
    if arguments.explain is not None:
        raise ValueError(f"{many}; --explain takes fifty passes of the encoder for each image, give fewer images")


@contextlib.contextmanager
def _opened(output: str | None) -> Iterator[IO[bytes]]:
    """The file to write, or standard output; where nobody reads that any more, the process ends quietly."""
    if output is not None:
        with storage.atomic_output(storage.absolute(output)) as stream:
            yield stream
        return
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python would write what is left at its exit, and fail again
        if isinstance(error, BrokenPipeError):
            sys.exit(_PIPE_CLOSED)
        raise

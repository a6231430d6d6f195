"""clip-retrieval, to compare with: in an environment of its own, which is made once and kept in the user's cache directory."""

import os
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from measure import Figure, Skipped

VERSION = "2.45.0"

NAME = "embedding: images/s of the whole job over clip-retrieval's"


def clip_retrieval_figure(images: str, weights: str, output: Path, *, batch_size: int, job_s: float) -> Figure | Skipped:
    """Its `inference` on the same images, weights and batch, start-up included on both sides; else as it comes.

    Args:
        images: folder.
        weights: checkpoint of ViT-B-32.
        output: folder to write.
        batch_size: images in a forward pass.
        job_s: seconds that the job took for them.
    """
    try:
        program = installed()
    except RuntimeError as error:
        return Skipped(NAME, str(error))
    words = [str(program), "inference", "--input_dataset", images, "--output_folder", str(output), "--input_format", "files"]
    words += ["--clip_model", f"open_clip:ViT-B-32/{os.path.abspath(weights)}", "--batch_size", str(batch_size)]
    words += ["--enable_text", "False", "--enable_metadata", "False"]
    started = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True, env=_environment())
    seconds = time.monotonic() - started
    wanted, found = len(list(Path(images).rglob("*.jpg"))), sum(len(np.load(path)) for path in output.rglob("img_emb_*.npy"))
    if done.returncode or found != wanted:
        raise RuntimeError(f"clip-retrieval embedded {found} of {wanted} images: {done.stderr[-500:]}")
    return Figure(NAME, seconds / job_s, at_least=1.1)


def installed() -> Path:
    """The program, with the torch of this environment; installed if it is not yet.

    Raises:
        RuntimeError: it can not be; pip says why.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "rdd-bench" / f"clip-retrieval-{VERSION}"
    program, ready = folder / "bin" / "clip-retrieval", folder / ".ready"
    if ready.exists():
        return program
    shutil.rmtree(folder, ignore_errors=True)  # half made
    wanted = [f"clip-retrieval=={VERSION}", "setuptools<81", f"torch=={version('torch').partition('+')[0]}"]
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += ["--retries", "1", *wanted]
    for words in ([sys.executable, "-m", "venv", str(folder)], pip):
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no reason was given"]
            raise RuntimeError(f"clip-retrieval {VERSION} can not be installed ({said[-1]})")
    ready.touch()
    return program


def _environment() -> dict[str, str]:
    """Of its process: without the path that this project is imported from, and without questions to a hub."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}

"""Where a result comes from: git commit, a mark if the tree was dirty, versions."""

import os
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

GIT_VARIABLE = "RDD_GIT_COMMIT"
"""Set where a job is submitted: an upload carries no .git."""


def git_commit() -> str:
    """Commit of the code, with ``-dirty`` behind it if files differ; ``unknown`` outside a repository."""
    if given := os.environ.get(GIT_VARIABLE):
        return given
    root = Path(__file__).parent.parent
    try:
        commit = _git(root, "rev-parse", "HEAD")
        dirty = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}-dirty" if dirty else commit


def provenance() -> dict[str, Any]:
    """Commit and the versions that numbers depend on."""
    return {"git_commit": git_commit(), "versions": {name: version(name) for name in ("rdd", "torch", "numpy", "ray")}}


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()

"""Where a result comes from: git commit, a mark if the tree was dirty, versions."""

import os
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

GIT_VARIABLE = "RDD_GIT_COMMIT"
"""Environment variable with the commit, for jobs whose files have come without their repository.

``ray job submit`` hands on none of its own: ``ray job submit --working-dir . -- env RDD_GIT_COMMIT=... python jobs/train.py``.
"""


def git_commit() -> str:
    """Commit of the code, with ``-dirty`` appended if files differ; ``unknown`` outside a repository."""
    if commit_from_environment := os.environ.get(GIT_VARIABLE):
        return commit_from_environment
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

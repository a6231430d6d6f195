"""The project as a clone of what lies here would have it."""

import shutil
import subprocess
import sys
from pathlib import Path


def copy_project(folder: Path) -> None:
    """Copy what git knows or does not ignore, and link this environment beside it."""
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], capture_output=True, text=True, check=True)
    for name in filter(None, files.stdout.split("\0")):
        if Path(name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(name, folder / name)
    (folder / ".venv").symlink_to(Path(sys.prefix).resolve())

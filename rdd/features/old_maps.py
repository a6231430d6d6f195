"""Delete this node's memory maps of features not used for some days: ``python -m rdd.features.old_maps --days 30``."""

import argparse
import fcntl
import os
import shutil
import sys
import time

from rdd.config.checks import DAY_S
from rdd.features.node_map import make_private, map_folder


def delete_old_maps(folder: str, *, days: float) -> list[str]:
    """Delete the maps that were last opened longer ago than that; one that is being opened just now stays.

    A process that has a map open keeps its pages until it ends, so none is disturbed.

    Args:
        folder: of the maps; its absence means that there are none.
        days: at least 0.

    Returns:
        The folders of the maps that are gone.

    Raises:
        RuntimeError: the folder can be none, or is not this user's alone.
    """
    parent = os.path.dirname(folder)
    if os.path.exists(parent) and not os.path.isdir(parent):
        raise RuntimeError(f"{parent} must be a directory; set RDD_MAP_DIR to one")
    if not os.path.exists(folder):
        return []
    make_private(folder)
    deleted = []
    for name in sorted(os.listdir(folder)):
        lock = os.path.join(folder, name)
        if not name.endswith(".lock") or time.time() - os.stat(lock).st_mtime < days * DAY_S:
            continue
        with open(lock, "r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            place = lock.removesuffix(".lock")  # the lock file itself stays: who waits for it must find the same one
            for left in (place, f"{place}.partial"):
                if os.path.exists(left):
                    shutil.rmtree(left)
                    deleted.append(left)
    return deleted


def main() -> int:
    """Delete and say what was deleted.

    Returns:
        The exit code: 2 where the days are no number of at least 0, 1 where the folder is not as this user's maps are.
    """
    parser = argparse.ArgumentParser(prog="python -m rdd.features.old_maps", description=__doc__)
    parser.add_argument("--days", type=float, required=True, help="delete what was not used for so many days")
    days = parser.parse_args().days
    if not days >= 0:
        print(f"error: --days must be at least 0, got {days}", file=sys.stderr)
        return 2
    try:
        deleted = delete_old_maps(map_folder(), days=days)
    except (RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(deleted) if deleted else f"no map in {map_folder()} was unused for {days:g} days")
    return 0


if __name__ == "__main__":
    sys.exit(main())

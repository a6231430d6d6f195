"""Figures as a table on standard output, each as soon as it is known, and as JSON."""

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from measure import Figure, Group, Skipped

from rdd import storage


def report(groups: Mapping[str, Group], output: str, **known: Any) -> None:
    """Measure groups of figures and report them.

    Args:
        groups: by name.
        output: JSON file to write: a list of figures.
        known: what each of them is written with besides, such as the device.
    """
    figures: list[Figure] = []
    skipped: list[Skipped] = []
    for group in groups.values():
        with tempfile.TemporaryDirectory() as folder:
            for figure in group(Path(folder)):
                if isinstance(figure, Skipped):
                    print(f"{figure.name:<62}  skipped: {figure.reason}", flush=True)
                    skipped.append(figure)
                    continue
                print(f"{figure.name:<62} {figure.value:8.3f} {figure.unit:<3} ({figure.bar})", flush=True)
                figures.append(figure)
    measured = [known | asdict(figure) | {"reached": figure.reached} for figure in figures]
    storage.write_json(output, measured + [known | asdict(figure) for figure in skipped])
    missed = [figure.name for figure in figures if not figure.reached]
    print(f"written to {output}" + (f"; below the bar: {', '.join(missed)}" if missed else ""))

"""What ``--help`` prints: the job in a few lines, its own settings, and how to see the others."""

import dataclasses
import textwrap
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from docstring_parser import parse_from_object

from rdd.config import Config
from rdd.config.stages import Stage

_WIDTH = 110


def help_text(stage: Stage, description: str, sections: Sequence[str] = (), flags: Mapping[str, str] | None = None) -> str:
    """The help of a job.

    Args:
        stage: which; its script is ``jobs/<name>.py``.
        description: first lines, with examples that can be pasted.
        sections: of which to list the settings, ``all`` for every one; by default those that belong to the job alone.
        flags: what else the job can do, by flag, each with a line about it.

    Raises:
        ValueError: the job does not read such a section.
    """
    unread = [name for name in sections if name not in (*stage.reads, "all")]
    if unread:
        raise ValueError(f"--help must be followed by sections among {', '.join(stage.reads)} or all, got {', '.join(unread)}")
    listed = stage.reads if "all" in sections else sections or stage.in_help
    script = f"jobs/{stage.name}.py"
    lines = [f"usage: python {script} [--config FILE.yaml]... [--SECTION.SETTING VALUE]...", ""] if not sections else []
    lines += [description.strip(), ""] if not sections else []
    for name in listed:
        lines += [*_section(name), ""]
    if others := [name for name in stage.reads if name not in listed]:
        lines += ["Further sections:", *(f"  {name:<10} {_sentence(name)}" for name in others), ""]
    if not sections:
        lines += [
            "  --config FILE.yaml     any part of the tree; may be given more than once, later words win",
            "  --print_config         print the resolved tree as YAML and end",
            *(f"  {flag:<22} {line}" for flag, line in (flags or {}).items()),
            f"  --help SECTION...      the settings of these sections ({'all' if others else ', '.join(stage.reads)})",
        ]
    return "\n".join(lines).rstrip() + "\n"


def _sections() -> dict[str, Any]:
    return {section.name: section.type for section in dataclasses.fields(Config)}


def _sentence(section: str) -> str:
    """What a section is about."""
    return parse_from_object(_sections()[section]).short_description or ""


def _section(name: str) -> Iterator[str]:
    """The settings of a section, each with its values, its default and its sentence."""
    section = _sections()[name]
    sentences = {param.arg_name: " ".join((param.description or "").split()) for param in parse_from_object(section).params}
    yield f"{_sentence(name)}"
    for leaf in dataclasses.fields(section):
        shown = f", default {leaf.default}" if leaf.default not in ("", dataclasses.MISSING) else ""
        yield f"  --{name}.{leaf.name} ({_values(leaf.type)}{shown})"
        yield textwrap.fill(sentences[leaf.name], _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)


def _values(kind: Any) -> str:
    """What a setting may be."""
    if get_origin(kind) is Literal:
        return " | ".join(map(str, get_args(kind)))
    if isinstance(kind, types.UnionType):
        return " | ".join(map(_values, get_args(kind)))
    return "mapping" if get_origin(kind) is dict else kind.__name__

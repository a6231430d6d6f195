"""From YAML files, dotted words and dictionaries to one checked :class:`~rdd.config.Config`, and back."""

import argparse
import dataclasses
import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import yaml
from jsonargparse import ArgumentParser, set_parsing_settings

from rdd.config import Config

set_parsing_settings(docstring_parse_attribute_docstrings=True)


def leaves(config: Config | type[Config] = Config) -> Iterator[str]:
    """Dotted paths of every field of the tree, e.g. ``loss.alpha``."""
    for section in dataclasses.fields(config):
        assert dataclasses.is_dataclass(section.type), section.name
        for leaf in dataclasses.fields(section.type):
            yield f"{section.name}.{leaf.name}"


def leaf_of(config: Config, path: str) -> Any:
    """Value of a dotted path."""
    section, name = path.split(".")
    return getattr(getattr(config, section), name)


def parse_config(argv: Sequence[str], *, prog: str, description: str | None, sections: Sequence[str]) -> Config:
    """Config from command-line words.

    Args:
        argv: words such as ``--config jobs/configs/sample.yaml --loss.alpha 0.3``; later ones win.
        prog: name of the program in the help text.
        description: first lines of the help text.
        sections: sections that the job reads; a word for any other is refused, and the help leaves it out.

    Raises:
        ValueError: an unknown key, a value of the wrong type or out of range.
        SystemExit: after ``--help`` or ``--print_config``.
    """
    parser = _parser(prog, description, tuple(sections))
    _refuse_unknown(argv, sections)
    for path in _config_files(argv):
        _read_tree(path)
    words = [word for word in argv if word.split("=")[0] != "--print_config"]
    config = _checked(parser, lambda: parser.parse_args(words))
    if len(words) < len(argv):
        print(to_yaml(config), end="")
        raise SystemExit(0)
    return config


def override(config: Config, values: Mapping[str, Any]) -> Config:
    """A copy of ``config`` with some leaves replaced, checked as the command line is.

    Raises:
        ValueError: an unknown path, a value of the wrong type or out of range.

    Example:
        >>> override(Config(), {"loss.alpha": 0.3}).loss.alpha
        0.3
    """
    tree = dataclasses.asdict(config)
    valid = set(leaves())
    for path, value in values.items():
        if path not in valid:
            raise ValueError(_unknown(path))
        section, leaf = path.split(".")
        tree[section][leaf] = value
    return from_dict(tree)


def from_dict(tree: Mapping[str, Any]) -> Config:
    """Config from nested dictionaries; what is absent takes its default.

    Raises:
        ValueError: an unknown key, a value of the wrong type or out of range.
    """
    parser = _parser("rdd", None, tuple(section.name for section in dataclasses.fields(Config)))
    return _checked(parser, lambda: parser.parse_object(dict(tree)))


def to_yaml(config: Config) -> str:
    """The resolved tree as YAML that :func:`from_yaml` and ``--config`` read back to an equal tree."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)


def from_yaml(text: str) -> Config:
    """Config from YAML.

    Raises:
        ValueError: no mapping, an unknown key, a value of the wrong type or out of range.
    """
    tree = yaml.safe_load(text)
    if not isinstance(tree, dict):
        raise ValueError(f"a config must be a mapping of sections, got {type(tree).__name__}")
    return from_dict(tree)


@cache
def _parser(prog: str, description: str | None, sections: tuple[str, ...]) -> ArgumentParser:
    parser = ArgumentParser(prog=prog, description=description, exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file with any part of the tree; may be given more than once.")
    parser.add_class_arguments(Config, nested_key=None)
    names = {section.name for section in dataclasses.fields(Config)}
    for action in parser._actions:
        section = action.dest.split(".")[0]
        if action.dest in names or (section in names and section not in sections):
            action.help = argparse.SUPPRESS
    return parser


def _config_files(argv: Sequence[str]) -> Iterator[str]:
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        if word == "--config":
            yield following
        elif word.startswith("--config="):
            yield word.removeprefix("--config=")


def _read_tree(path: str) -> None:
    """Refuse a file that is no YAML tree of sections; its keys and values are the parser's to check."""
    try:
        with open(path, encoding="utf-8") as file:
            tree = yaml.safe_load(file)
    except OSError as error:
        raise ValueError(f"--config must name a YAML file, got {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{path} must hold a mapping of sections, got {type(tree).__name__}")
    for section, leaves_of_section in tree.items():
        if not isinstance(leaves_of_section, dict):
            raise ValueError(f"{path} must hold a mapping of settings under {section}, got {leaves_of_section!r}")


def _checked(parser: ArgumentParser, parse: Callable[[], Any]) -> Config:
    """The built tree, any complaint of the parser as one sentence."""
    try:
        parsed = parse()
        for leaf in leaves():
            if parsed.get(leaf) is None:
                raise ValueError(f"{leaf} must have a value, got null; leave it out for its default")
        namespace = parser.instantiate(parsed)
    except ValueError:
        raise
    except Exception as error:  # the parser's own exception types share no public base
        raise ValueError(_one_sentence(error)) from error
    return Config(**{section.name: namespace[section.name] for section in dataclasses.fields(Config)})


def _one_sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    if match := re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", text):
        return _unknown(f"{match[1]}.{match[2]}")
    if match := re.search(
        r"(?:does not accept (?:nested )?(?:key|option)|Unrecognized key|unrecognized arguments:) ['\"]?-*([\w.]+)", text
    ):
        return _unknown(match[1])
    text = re.sub(r"<class '(\w+)'>", r"\1", text).replace("typing.", "")
    if match := re.search(r"Option '([\w.]+)' is not accepted", text):
        return _unknown(match[1])
    return re.sub(r'^Parser key "([\w.]+)":', r"\1:", text)


def _unknown(path: str) -> str:
    section = path.split(".")[0]
    valid = [leaf for leaf in leaves() if leaf.startswith(f"{section}.")]
    valid = valid or sorted({leaf.split(".")[0] for leaf in leaves()})
    close = difflib.get_close_matches(path, list(leaves()), n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"unknown key {path!r}, valid are {', '.join(valid)}{hint}"


def _refuse_unknown(argv: Sequence[str], sections: Sequence[str]) -> None:
    """Refuse words that the tree lacks or that this job would ignore."""
    valid = set(leaves())
    for word in argv:
        if not word.startswith("--"):
            continue
        path = word[2:].split("=")[0]
        if path in ("config", "print_config", "help"):
            continue
        if path not in valid:
            raise ValueError(_unknown(path))
        if path.split(".")[0] not in sections:
            raise ValueError(f"--{path} is not read by this job, which reads {', '.join(sections)}")

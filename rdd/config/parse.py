"""From YAML files, dotted words and dictionaries to one checked :class:`~rdd.config.Config`, and back."""

import dataclasses
import difflib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from rdd.config import Config
from rdd.config.yaml_text import load_yaml


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


def settings_of(config: Config, sections: Iterable[str]) -> dict[str, Any]:
    """Every setting of some sections by its dotted path, in the order of the tree."""
    wanted = set(sections)
    return {path: leaf_of(config, path) for path in leaves() if path.split(".")[0] in wanted}


def section_dicts(config: Config, sections: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Some sections as nested dictionaries."""
    return {name: dataclasses.asdict(getattr(config, name)) for name in sections}


def parse_config(words: Sequence[str], *, sections: Sequence[str]) -> Config:
    """Config from command-line words.

    Args:
        words: such as ``--config jobs/configs/sample.yaml --loss.alpha 0.3``; later ones win.
        sections: sections that the job reads; a word for any other is refused.

    Raises:
        ValueError: an unknown key, a value of the wrong type or out of range, or a file that is no config.
    """
    _refuse_unread(words, sections)
    for path in _config_files(words):
        _check_file(path)
    return _checked(lambda parser: parser.parse_args(list(words)))


def override(config: Config, values: Mapping[str, Any]) -> Config:
    """A copy of ``config`` with some leaves replaced, checked as the command line is.

    Raises:
        ValueError: an unknown path, a value of the wrong type or out of range.

    Example:
        >>> override(Config(), {"loss.alpha": 0.3}).loss.alpha
        0.3
    """
    tree = dataclasses.asdict(config)
    for path, value in values.items():
        _refuse_unknown(path)
        section, leaf = path.split(".")
        tree[section][leaf] = value
    return from_dict(tree)


def from_dict(tree: Mapping[str, Any]) -> Config:
    """Config from nested dictionaries; what is absent takes its default.

    Raises:
        ValueError: an unknown key, a value of the wrong type or out of range.
    """
    _check_keys(tree, "a config")
    return _checked(lambda parser: parser.parse_object(dict(tree)))


def to_yaml(config: Config) -> str:
    """The resolved tree as YAML that :func:`from_yaml` and ``--config`` read back to an equal tree."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)


def from_yaml(text: str) -> Config:
    """Config from YAML.

    Raises:
        ValueError: no mapping, an unknown key, a value of the wrong type or out of range.
    """
    try:
        tree = load_yaml(text)
    except (yaml.YAMLError, ValueError) as error:  # also a number of thousands of digits
        raise ValueError(f"a config must be YAML: {' '.join(str(error).split())}") from error
    return from_dict(tree)


@cache
def _parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False, add_help=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(Config, nested_key=None)
    return parser


def _config_files(words: Sequence[str]) -> Iterator[str]:
    for word, following in itertools.zip_longest(words, words[1:], fillvalue=""):
        if word == "--config":
            yield following
        elif word.startswith("--config="):
            yield word.removeprefix("--config=")


def _check_file(path: str) -> None:
    """Refuse a file that is no YAML tree of known settings; their values are the parser's to check."""
    try:
        with open(path, encoding="utf-8") as file:
            tree = load_yaml(file.read())
    except OSError as error:
        raise ValueError(f"--config must name a YAML file, got {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:  # also no UTF-8, or a number of thousands of digits
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    _check_keys(tree, path)


def _check_keys(tree: Any, where: str) -> None:
    """Refuse a tree that is not of sections with settings, or holds an unknown one."""
    if not isinstance(tree, Mapping):
        raise ValueError(f"{where} must hold a mapping of sections, got {type(tree).__name__}")
    sections = [section.name for section in dataclasses.fields(Config)]
    for section, settings in tree.items():
        if section not in sections:
            _refuse_unknown(str(section))
        if not isinstance(settings, Mapping):
            raise ValueError(f"{where} must hold a mapping of settings under {section}, got {settings!r}")
        for name in settings:
            _refuse_unknown(f"{section}.{name}")


def _refuse_unread(words: Sequence[str], sections: Sequence[str]) -> None:
    """Refuse words that are no settings, or settings that this job would ignore."""
    for word in words:
        path = word.removeprefix("--").split("=")[0]
        if not word.startswith("--") or path == "config":
            continue
        _refuse_unknown(path)
        if path.split(".")[0] not in sections:
            raise ValueError(f"--{path} is not read by this job, which reads {', '.join(sections)}")


def _refuse_unknown(path: str) -> None:
    """Refuse what is no setting, with those there are and the nearest."""
    settings = list(leaves())
    sections = sorted({leaf.split(".")[0] for leaf in settings})
    if path in settings:
        return
    valid = [leaf for leaf in settings if leaf.startswith(f"{path.split('.')[0]}.")] or sections
    nearest = difflib.get_close_matches(path, settings, n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    raise ValueError(f"unknown key {path!r}, valid are {', '.join(valid)}{hint}")


def _checked(parse: Callable[[ArgumentParser], Any]) -> Config:
    """The built tree, any complaint of the parser as one sentence."""
    try:
        parsed = parse(_parser())
        for leaf in leaves():
            if parsed.get(leaf) is None:
                raise ValueError(f"{leaf} must have a value, got null; leave it out for its default")
        namespace = _parser().instantiate(parsed)
    except ValueError:
        raise
    except Exception as error:  # the parser's own exception types share no public base
        raise ValueError(_one_sentence(error)) from error
    return Config(**{section.name: namespace[section.name] for section in dataclasses.fields(Config)})


def _one_sentence(error: Exception) -> str:
    """A wrong value in the parser's words, on one line."""
    text = " ".join(str(error).split()).replace("typing.", "")
    return text.replace("<class '", "").replace("'>", "").removeprefix('Parser key "').replace('":', ":", 1)

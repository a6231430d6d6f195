"""YAML as a config may be written: plain, each key once, nothing that grows when it is read."""

from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """Plain values only; refuses aliases, which can grow to gigabytes, and a key that stands twice, since one would be lost."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.YAMLError(f"line {mark.line + 1}: aliases (*name) are not allowed; write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                line = node.value[place][0].start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: the key {key!r} stands twice; keep one")
        return super().construct_mapping(node, deep)


def _plain_number(loader: _Loader, node: Any) -> Any:
    """Refuse YAML 1.1's numbers to the base 60, which nobody means: ``1:30`` would be 90.

    Raises:
        yaml.YAMLError: naming the line.
    """
    if ":" in node.value:
        raise yaml.YAMLError(f"line {node.start_mark.line + 1}: {node.value} would be a number to the base 60; quote it")
    return yaml.SafeLoader.yaml_constructors[node.tag](loader, node)


for _tag in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _plain_number)


def load_yaml(text: str | bytes) -> Any:
    """The value of a YAML text.

    Raises:
        yaml.YAMLError: it is no YAML, a key stands twice, it has an alias, or it is nested too deeply.
        ValueError: it holds a number of thousands of digits.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error

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


def load_yaml(text: str | bytes) -> Any:
    """The value of a YAML text.

    Raises:
        yaml.YAMLError: it is no YAML, a key stands twice, or it has an alias.
    """
    return yaml.load(text, Loader=_Loader)

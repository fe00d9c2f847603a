"""YAML as a user writes it: a key that is given twice is a mistake, where YAML itself would take the last."""

from __future__ import annotations

from typing import Any

import yaml

from metgan_dist.errors import UserError


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses a key that a mapping has already."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        """The mapping before `<<` is merged into it: what that brings may be given again."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"'{key.value}' is given twice, again in line {key.start_mark.line + 1}; keep one"
                    raise yaml.composer.ComposerError(None, None, problem, None)
                seen.add(key.value)
        return node


def read_yaml(uri: str, content: str | bytes) -> Any:
    """The tree of a YAML file; UserError, in one line that begins with `uri`, where it is none or repeats a key."""
    try:
        return yaml.load(content, _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{uri}: not readable as YAML: {' '.join(str(error).split())}") from error

"""YAML as a user writes it: a key that is given twice is a mistake, where YAML itself would take the last."""

from __future__ import annotations

from typing import Any

import yaml

from metgan_dist.errors import UserError

MOST_VALUES = 1_000_000


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
    """The tree of a YAML file; UserError, in one line that begins with `uri`, where it is none or repeats a key.

    So it is for aliases that refer to what they are in, or stand for more values than any file of ours has: ten lines
    can be a thousand million, which would fill the memory of whoever writes them down.
    """
    try:
        loader = _Loader(content)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _size(node, {}) > MOST_VALUES:
                raise UserError(f"{uri}: its aliases stand for more than {MOST_VALUES:,} values; write them out")
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{uri}: not readable as YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise UserError(f"{uri}: nested too deeply, or an alias refers to what it is in; write it out") from error


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Values that a node stands for, with what its aliases refer to; RecursionError for one within itself."""
    at = id(node)
    if at not in known:
        if isinstance(node, yaml.ScalarNode):
            return 1
        known[at] = -1  # being counted
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[at] = 1 + sum(_size(part, known) for part in parts)
    if known[at] < 0:
        raise RecursionError
    return known[at]

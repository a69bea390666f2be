"""Recipe files: a merging method, or a list of steps, as YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from taskloom.errors import PlanError


def is_recipe_file(recipe: object) -> bool:
    """Tell whether this is the path of a recipe file, which ends in ``.yaml`` or ``.yml``.

    >>> is_recipe_file("mine.yaml"), is_recipe_file("ties")
    (True, False)
    """
    return isinstance(recipe, str | Path) and str(recipe).endswith((".yaml", ".yml"))


def load_recipe_file(path: str | Path) -> Any:
    """Return what a recipe file says.

    Raises
    ------
    PlanError
        It is missing, not UTF-8, not YAML, gives a key twice, or holds no list and no mapping.
    """
    where = f"recipe {str(path)!r}"
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except OSError as error:
        raise PlanError(f"{where} cannot be read: {error.strerror}", hint="Give a YAML file") from None
    except UnicodeDecodeError as error:
        message = f"{where} is not UTF-8 text (byte {error.start})"
        raise PlanError(message, hint="Save it as UTF-8") from None
    try:
        content = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", "it cannot be parsed")
        raise PlanError(f"{where} is not valid YAML{place}: {problem}") from None
    if not isinstance(content, list | dict):
        raise PlanError(
            f"{where} holds neither a list of steps nor a mapping",
            hint="Write steps: [...], or method: ties",
        )
    return content


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key given twice, of which the last would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is given twice", key.start_mark
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)

"""The mask of a graft, read from the folder that a fitted module is kept in."""

from __future__ import annotations

import json
from pathlib import Path

from taskloom.errors import CheckpointError, IntegrityError
from taskloom.store.cache import file_digest
from taskloom.store.sparse import PackedMarks

#: the record of a fitted module, and its tensors
MODULE, WEIGHTS = "module.json", "module.safetensors"
#: kind of the module, and of the statistic that its mask is
GRAFT = "graft"


def read_graft(folder: Path) -> tuple[PackedMarks, dict[str, str]]:
    """Return where an expert's change is grafted, and what is known of the making of it.

    Parameters
    ----------
    folder
        That the small module ``graft`` was saved to.

    Returns
    -------
    The marks by name of the base's tensors, those that the mask is about; and as the header of the
    statistic ``graft`` has it: ``model_digest``, ``kept``, ``of``, ``examples``, ...

    Raises
    ------
    CheckpointError
        A record that is damaged, or of another module.
    IntegrityError
        The mask is not what was written.
    """
    path = folder / MODULE
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        kind, said = table["kind"], dict(table["said"])
        if kind != GRAFT:
            raise CheckpointError(
                f"{folder} holds the module {kind!r}, where a mask was expected",
                hint="Give what 'taskloom fit graft' or 'taskloom collect graft' wrote",
            )
        shapes = {name: tuple(shape) for name, shape in table["layout"]["shapes"].items()}
        written = table["files"][WEIGHTS]["sha256"]
        known = {
            "kept": said["entries"],
            **{key: said[key] for key in ("of", "accuracy", "model", "model_digest", "examples")},
            "options": json.dumps(table["options"], sort_keys=True),
            "taskloom": table["version"],
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: expected the record of a graft, found something else ({type(error).__name__})",
            hint="Fit it again with this version",
        ) from None
    weights = folder / WEIGHTS
    if not weights.is_file() or file_digest(weights) != written:
        raise IntegrityError(
            f"{weights} is {'not what was written' if weights.is_file() else 'missing'}",
            hint="Fit the graft again, or copy the whole folder again",
        )
    return PackedMarks(weights, shapes, str(folder)), known

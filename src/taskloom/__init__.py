"""Taskloom: choose, combine, check and hand over what models learned on other tasks.

The names below are the library; each is imported from its room on first use, so that
``import taskloom`` costs nothing.

>>> import taskloom
>>> taskloom.methods("metric")[0]["name"]
'accuracy'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskloom.catalogue import methods as methods
    from taskloom.catalogue import tasks as tasks
    from taskloom.choose.diff.api import diff as diff
    from taskloom.errors import TaskloomError as TaskloomError
    from taskloom.learn.batchnorm import reestimate_batchnorm as reestimate_batchnorm
    from taskloom.learn.modules.kit.opening import fit_module as fit_module
    from taskloom.learn.modules.kit.opening import open_module as open_module
    from taskloom.merging.api import merge as merge
    from taskloom.merging.api import merge_files as merge_files
    from taskloom.merging.explain import explain as explain
    from taskloom.merging.extract import extract as extract
    from taskloom.merging.lowrank import merge_adapters as merge_adapters
    from taskloom.merging.parts import merge_parts as merge_parts
    from taskloom.merging.restore import restore_task as restore_task
    from taskloom.merging.soup import greedy_soup as greedy_soup
    from taskloom.merging.soup import rewarded_soup as rewarded_soup
    from taskloom.runs.auto.api import auto as auto
    from taskloom.runs.batchnorm import batch_norm_of as batch_norm_of
    from taskloom.runs.claims.run import claims as claims
    from taskloom.runs.collect import collect as collect
    from taskloom.runs.demo import demo as demo
    from taskloom.runs.edit import edit as edit
    from taskloom.runs.evaluate import evaluate as evaluate
    from taskloom.runs.fit import fit as fit
    from taskloom.runs.fit_plan import fit_by_plan as fit_by_plan
    from taskloom.runs.group import group as group
    from taskloom.runs.loops.api import loop as loop
    from taskloom.runs.loops.contributor import contribute as contribute
    from taskloom.runs.loops.federation import fuse as fuse
    from taskloom.runs.mix import mix as mix
    from taskloom.runs.pipeline import run as run
    from taskloom.runs.select import select as select
    from taskloom.runs.select_data import select_data as select_data
    from taskloom.runs.show import report as report
    from taskloom.runs.soup import soup as soup
    from taskloom.runs.train import train as train
    from taskloom.runs.train_by_plan import train_by_plan as train_by_plan
    from taskloom.runs.transfer.foresee import foresee as foresee
    from taskloom.runs.transfer.run import transfer as transfer
    from taskloom.runs.verify import verify as verify
    from taskloom.store.pool import open_pool as pool

__version__ = "0.1.0"

#: public name -> module and attribute
_EXPORTS: dict[str, tuple[str, str]] = {
    "TaskloomError": ("taskloom.errors", "TaskloomError"),
    "auto": ("taskloom.runs.auto.api", "auto"),
    "batch_norm_of": ("taskloom.runs.batchnorm", "batch_norm_of"),
    "claims": ("taskloom.runs.claims.run", "claims"),
    "collect": ("taskloom.runs.collect", "collect"),
    "contribute": ("taskloom.runs.loops.contributor", "contribute"),
    "demo": ("taskloom.runs.demo", "demo"),
    "diff": ("taskloom.choose.diff.api", "diff"),
    "edit": ("taskloom.runs.edit", "edit"),
    "evaluate": ("taskloom.runs.evaluate", "evaluate"),
    "extract": ("taskloom.merging.extract", "extract"),
    "explain": ("taskloom.merging.explain", "explain"),
    "fit": ("taskloom.runs.fit", "fit"),
    "fit_by_plan": ("taskloom.runs.fit_plan", "fit_by_plan"),
    "fit_module": ("taskloom.learn.modules.kit.opening", "fit_module"),
    "foresee": ("taskloom.runs.transfer.foresee", "foresee"),
    "fuse": ("taskloom.runs.loops.federation", "fuse"),
    "group": ("taskloom.runs.group", "group"),
    "greedy_soup": ("taskloom.merging.soup", "greedy_soup"),
    "loop": ("taskloom.runs.loops.api", "loop"),
    "merge": ("taskloom.merging.api", "merge"),
    "merge_adapters": ("taskloom.merging.lowrank", "merge_adapters"),
    "merge_files": ("taskloom.merging.api", "merge_files"),
    "merge_parts": ("taskloom.merging.parts", "merge_parts"),
    "methods": ("taskloom.catalogue", "methods"),
    "mix": ("taskloom.runs.mix", "mix"),
    "open_module": ("taskloom.learn.modules.kit.opening", "open_module"),
    "pool": ("taskloom.store.pool", "open_pool"),
    "reestimate_batchnorm": ("taskloom.learn.batchnorm", "reestimate_batchnorm"),
    "report": ("taskloom.runs.show", "report"),
    "rewarded_soup": ("taskloom.merging.soup", "rewarded_soup"),
    "restore_task": ("taskloom.merging.restore", "restore_task"),
    "run": ("taskloom.runs.pipeline", "run"),
    "select": ("taskloom.runs.select", "select"),
    "select_data": ("taskloom.runs.select_data", "select_data"),
    "soup": ("taskloom.runs.soup", "soup"),
    "tasks": ("taskloom.catalogue", "tasks"),
    "train": ("taskloom.runs.train", "train"),
    "train_by_plan": ("taskloom.runs.train_by_plan", "train_by_plan"),
    "transfer": ("taskloom.runs.transfer.run", "transfer"),
    "verify": ("taskloom.runs.verify", "verify"),
}

__all__ = [
    "TaskloomError",
    "__version__",
    "auto",
    "batch_norm_of",
    "claims",
    "collect",
    "contribute",
    "demo",
    "diff",
    "edit",
    "evaluate",
    "explain",
    "extract",
    "fit",
    "fit_by_plan",
    "fit_module",
    "foresee",
    "fuse",
    "greedy_soup",
    "group",
    "loop",
    "merge",
    "merge_adapters",
    "merge_files",
    "merge_parts",
    "methods",
    "mix",
    "open_module",
    "pool",
    "reestimate_batchnorm",
    "report",
    "restore_task",
    "rewarded_soup",
    "run",
    "select",
    "select_data",
    "soup",
    "tasks",
    "train",
    "train_by_plan",
    "transfer",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'taskloom' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _EXPORTS[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

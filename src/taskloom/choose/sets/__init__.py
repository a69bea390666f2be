"""Choosers of sets: one file each, registered under "set"; they take some candidates, or group all.

The names below are the functions. Arguments that are not keyword-only say what a chooser looks at; see
`taskloom.runs.group`, which supplies them from models and tasks.
"""

from taskloom.choose.sets.bento import bento
from taskloom.choose.sets.consistency_diversity import consistency_diversity
from taskloom.choose.sets.facility_location import facility_location
from taskloom.choose.sets.know2vec import know2vec
from taskloom.choose.sets.mbc import mbc
from taskloom.choose.sets.prompt_uncertainty import prompt_uncertainty
from taskloom.choose.sets.stg_mtl import stg_mtl

__all__ = [
    "bento",
    "consistency_diversity",
    "facility_location",
    "know2vec",
    "mbc",
    "prompt_uncertainty",
    "stg_mtl",
]

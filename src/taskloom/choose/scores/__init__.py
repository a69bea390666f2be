"""Transferability scores: one file each, registered under "score", higher is a better source.

Each file holds one function of the file's name. The names below are the functions, not the files:
``from taskloom.choose.scores import logme`` gives the function.
"""

from taskloom.choose.scores.h_score import h_score
from taskloom.choose.scores.knn import knn
from taskloom.choose.scores.linear_probe import linear_probe
from taskloom.choose.scores.logme import logme

__all__ = ["h_score", "knn", "linear_probe", "logme"]

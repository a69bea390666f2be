"""Predictors: a new target's column of a transfer matrix, from the columns of other targets.

Each file holds one function of the file's name: given what is `Known` of the other targets, and of how
like the new one they and the sources are, a number for every source, higher is better.
"""

from taskloom.choose.predictors.known import Known
from taskloom.choose.predictors.mean_gain import mean_gain
from taskloom.choose.predictors.ridge_gain import ridge_gain
from taskloom.choose.predictors.taskshop import roe, taskshop, transfer_score

__all__ = ["Known", "mean_gain", "ridge_gain", "roe", "taskshop", "transfer_score"]

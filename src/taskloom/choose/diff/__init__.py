"""Looking before merging: where and how far experts moved from their base, and whether they agree."""

from taskloom.choose.diff.api import diff
from taskloom.choose.diff.result import ChangedRows, Diff, Finding, MatrixRank, Region, Row

__all__ = ["ChangedRows", "Diff", "Finding", "MatrixRank", "Region", "Row", "diff"]

"""The report of a run: one HTML file that opens offline, and the same charts as pictures."""

from taskloom.runs.report.page import render, write_report
from taskloom.runs.report.pictures import save_pictures

__all__ = ["render", "save_pictures", "write_report"]

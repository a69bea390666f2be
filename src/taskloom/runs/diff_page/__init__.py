"""A look at a pool as one HTML page that opens offline."""

from taskloom.runs.diff_page.page import render_diff, write_diff_page

__all__ = ["render_diff", "write_diff_page"]

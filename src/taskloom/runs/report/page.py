"""The page: a template filled with a result's words, charts and tables, in one file.

Nothing on it comes from anywhere else: styles, scripts and the chart library are written into it,
and its content security policy lets a browser fetch nothing and run only the scripts whose hashes it
names, so that a hostile task name that slipped through escaping still could not act.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib
import json
import math
import os
from importlib import resources
from pathlib import Path
from typing import Any

from taskloom.errors import MissingExtra
from taskloom.runs.report import theme
from taskloom.runs.report.charts import figures
from taskloom.runs.report.index import Index
from taskloom.runs.report.view import view
from taskloom.runs.result import RunResult
from taskloom.store.atomic import atomic_file


def render(result: RunResult) -> str:
    """Return the report as one HTML page that opens without a network.

    Parameters
    ----------
    result
        What a run found. Empty lists give short sections, never errors.

    Raises
    ------
    MissingExtra
        jinja2 or vl-convert-python is not installed.
    """
    index = Index(result)
    return fill("report.html.j2", _specs(index), **view(index))


def fill(template: str, specs: dict[str, Any], *, package: str = __package__, **context: Any) -> str:
    """Return a page of the report's kind: its styles, scripts, themes and policy, another body.

    Parameters
    ----------
    template
        Extends ``frame.html.j2``.
    specs
        Chart key -> vega-lite specification.
    package
        Whose ``assets`` folder holds the template; the report's own is searched after it.
    **context
        What the template shows.

    Raises
    ------
    MissingExtra
        jinja2 or vl-convert-python is not installed.
    """
    scripts = [_bundle(), _asset("charts.js") + _asset("page.js")]
    page: str = (
        _environment(package)
        .get_template(template)
        .render(
            **context,
            styles=theme.css() + _asset("style.css") + _asset("print.css"),
            scripts=scripts,
            policy=_policy(scripts),
            specs=_json(specs),
        )
    )
    return page


def write_report(result: RunResult, path: str | os.PathLike[str]) -> Path:
    """Write the report to ``path``, whole or not at all, and return the path.

    Raises
    ------
    MissingExtra
        jinja2 or vl-convert-python is not installed.
    OutputError
        The file cannot be written.
    """
    page = render(result)
    target = Path(path)
    with atomic_file(target) as temp:
        temp.write_text(page, encoding="utf-8", newline="\n")
    return target


def _specs(index: Index) -> dict[str, Any]:
    every = [figure for group in figures(index).values() for figure in group]
    return {figure.key: {**figure.spec, "description": figure.description} for figure in every}


def _json(value: Any) -> str:
    """Return JSON that is safe inside a script element: nothing in it can end the element."""
    text = json.dumps(_finite(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value


def _policy(scripts: list[str]) -> str:
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    allowed = " ".join(f"'sha256-{code}'" for code in hashes)
    # vega compiles its expressions, hence unsafe-eval; they hold no names (see charts.py)
    return (
        f"default-src 'none'; script-src {allowed} 'unsafe-eval'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _asset(name: str, package: str = __package__) -> str:
    return (resources.files(package) / "assets" / name).read_text(encoding="utf-8")


def _environment(package: str) -> Any:
    try:
        jinja2: Any = importlib.import_module("jinja2")
    except ImportError as error:
        raise MissingExtra("jinja2", "run", purpose="the report") from error

    def find(name: str) -> str:
        held = package != __package__ and (resources.files(package) / "assets" / name).is_file()
        return _asset(name, package if held else __package__)

    return jinja2.Environment(
        loader=jinja2.FunctionLoader(find),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@functools.cache
def _bundle() -> str:
    """Return vega, vega-lite and vega-embed as one script that cannot end its element."""
    try:
        vl_convert: Any = importlib.import_module("vl_convert")
    except ImportError as error:
        raise MissingExtra("vl-convert-python", "run", purpose="the report") from error
    text: str = vl_convert.javascript_bundle()
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--").replace("\r\n", "\n")

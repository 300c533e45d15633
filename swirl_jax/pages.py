"""Pieces of the pages that runs leave: sections, tables and grids of charts, as HTML text."""

import html
from collections.abc import Iterable, Sequence
from typing import Any

from swirl_jax import charts
from swirl_jax.charts import Line


def document(title: str, parts: Sequence[str]) -> str:
  """A page that stands alone; empty parts are left out."""
  return (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width,initial-scale=1">'
    f"<title>{escape(title)}</title><style>{charts.STYLE}</style></head><body><main>"
    + "\n".join(p for p in parts if p) + "</main></body></html>\n"
  )  # fmt: skip


def escape(words: Any) -> str:
  return html.escape(str(words))


def section(title: str, note: str, *body: str) -> str:
  return f'<section><h2>{title}</h2><p class="note">{note}</p>{"".join(body)}</section>'


def absent(what: str) -> str:
  return f'<p class="missing">{escape(what)}</p>'


def chart(title: str, lines: Sequence[Line], *, key: bool = True, **settings) -> str:
  lines = [line for line in lines if any(v is not None for v in line.y)]
  if not lines:
    return ""
  legend = charts.legend([(x.name, x.color, x.dash) for x in lines]) if key else ""
  return f"<div><h3>{escape(title)}</h3>{legend}{charts.line_chart(lines, **settings)}</div>"


def grid(kind: str, charts_: Iterable[str]) -> str:
  found = [c for c in charts_ if c]
  return f'<div class="grid {kind}">{"".join(found)}</div>' if found else ""


def table(head: Sequence[str], body: Iterable[tuple[str, Sequence[str]]]) -> str:
  """Rows are (CSS class, cells); cells are HTML."""
  top = "".join(f"<th>{h}</th>" for h in head)
  rows = "".join(
    f'<tr class="{css}">{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>' for css, cells in body
  )
  return f"<table><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table>"

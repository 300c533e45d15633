"""What an experiment returns: a paragraph, tables and charts, and how they are shown and stored.

Every number in a paragraph is formatted from what was computed, never typed in.
"""

import csv
import dataclasses
import html
import io
import json
from collections.abc import Sequence
from typing import Any

from swirl_jax import charts
from swirl_jax.charts import Line

COLORS = ("#6a3fd1", "#d9691e", "#2a9d8f", "#3366d6", "#d39b1c", "#b3386b", "#5d6b82")
MUTED = charts.MUTED
_CHARACTER = 6.4  # about the width of a legend's letter, in the picture's units


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows of plain values (numbers, strings, None) under named columns."""

  name: str
  columns: tuple[str, ...]
  rows: tuple[tuple[Any, ...], ...]

  def __post_init__(self):
    for row in self.rows:
      if len(row) != len(self.columns):
        raise ValueError(f"table {self.name}: {len(self.columns)} columns; found row {row}")

  def csv(self) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([self.columns, *self.rows])
    return out.getvalue()

  def html(self) -> str:
    head = "".join(f"<th>{html.escape(c)}</th>" for c in self.columns)
    body = "".join(
      "<tr>" + "".join(f"<td>{html.escape(show(v))}</td>" for v in row) + "</tr>"
      for row in self.rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


@dataclasses.dataclass(frozen=True)
class Chart:
  """A picture of `charts` with its title and key."""

  title: str
  picture: str  # SVG, as `charts` draws it
  key: tuple[tuple[str, str, bool], ...]  # name, colour, dashed
  width: int = 520
  height: int = 250

  def html(self) -> str:
    return f"<div><h3>{html.escape(self.title)}</h3>{charts.legend(self.key)}{self.picture}</div>"

  def svg(self) -> str:
    """The same as one picture that stands alone, for a page of documentation."""
    keys, lines, x = [], 1, 10.0
    for name, color, dash in self.key:
      room = 34 + _CHARACTER * len(name)
      if x + room > self.width and x > 10.0:
        lines, x = lines + 1, 10.0
      y = 22 + 17 * lines
      stroke = f'stroke="{color}" stroke-width="3"' + (' stroke-dasharray="5 4"' if dash else "")
      keys.append(f'<path d="M{x:.0f} {y - 4}h18" {stroke}/>')
      keys.append(
        f'<text x="{x + 24:.0f}" y="{y}" font-size="11" fill="{MUTED}">{html.escape(name)}</text>'
      )
      x += room
    top = 30 + 17 * lines
    inner = self.picture.replace(
      "<svg ", f'<svg y="{top}" width="{self.width}" height="{self.height}" ', 1
    )
    return (
      f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {top + self.height}" '
      f'width="{self.width}" font-family="system-ui,sans-serif">'
      f'<rect width="{self.width}" height="{top + self.height}" fill="#fff"/>'
      f'<text x="10" y="20" font-size="13.5" font-weight="600">{html.escape(self.title)}</text>'
      f"{''.join(keys)}{inner}</svg>\n"
    )


@dataclasses.dataclass(frozen=True)
class Result:
  """`name` is the experiment's (its file, its key in the config); the paragraph is plain text."""

  name: str
  title: str
  paragraph: str
  tables: tuple[Table, ...] = ()
  charts: tuple[Chart, ...] = ()

  def json(self) -> str:
    tables = {t.name: {"columns": t.columns, "rows": t.rows} for t in self.tables}
    found = {"name": self.name, "title": self.title, "paragraph": self.paragraph, "tables": tables}
    return json.dumps(found, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def curves(title: str, lines: Sequence[Line], *, width=520, height=250, **settings) -> Chart:
  """A chart of `charts.line_chart`, with its settings."""
  picture = charts.line_chart(lines, width=width, height=height, **settings)
  return Chart(title, picture, tuple((x.name, x.color, x.dash) for x in lines), width, height)


def columns(
  title: str,
  groups: Sequence[tuple[str, Sequence[float]]],
  names: Sequence[str],
  *,
  colors: Sequence[str] = COLORS,
  width=520,
  height=230,
) -> Chart:
  """A chart of `charts.bars`: within each named group one bar for each of `names`."""
  used = tuple(colors[: len(names)])
  picture = charts.bars(groups, used, width=width, height=height)
  key = tuple((name, color, False) for name, color in zip(names, used, strict=True))
  return Chart(title, picture, key, width, height)


def check_positive(settings) -> None:
  """Raises ValueError for a number of an experiment's settings, but for the seed, that is not
  above 0; numbers in tuples alike.
  """
  for field in dataclasses.fields(settings):
    value = getattr(settings, field.name)
    for number in value if isinstance(value, tuple) else (value,):
      if field.name != "seed" and isinstance(number, int | float) and not number > 0:
        raise ValueError(f"{field.name} = {value}: allowed is above 0.")


def show(value: Any) -> str:
  """A cell: whole numbers as they are, others with four significant digits."""
  if isinstance(value, bool) or not isinstance(value, float):
    return "" if value is None else str(value)
  if value == 0.0 or 1e-3 <= abs(value) < 1e4:
    return f"{value:.4g}"
  return f"{value:.2e}"


def triple(probs, digits: int = 3) -> str:
  """A distribution as method.md writes one: (.583, .313, .104). Ties go up: .3125 is .313."""
  return "(" + ", ".join(f"{float(p) + 1e-9:.{digits}f}".removeprefix("0") for p in probs) + ")"


def page(results: Sequence[Result], notes: Sequence[tuple[str, Any]]) -> str:
  """All of it in one page without scripts or network; notes (config, versions) stand at its end."""
  sections = []
  for r in results:
    pictures = "".join(c.html() for c in r.charts)
    tables = "".join(f"<h3>{html.escape(t.name)}</h3>{t.html()}" for t in r.tables)
    sections.append(
      f'<section id="{r.name}"><h2>{html.escape(r.title)}</h2><p>{html.escape(r.paragraph)}</p>'
      f'<div class="grid two">{pictures}</div>'
      f"<details><summary>Tables</summary>{tables}</details></section>"
    )
  links = " · ".join(f'<a href="#{r.name}">{html.escape(r.title)}</a>' for r in results)
  details = "".join(
    f"<details><summary>{html.escape(name)}</summary><pre>"
    f"{html.escape(json.dumps(found, indent=2))}</pre></details>"
    for name, found in notes
  )
  return (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width,initial-scale=1">'
    f"<title>SWIRL: the theory on tables</title><style>{charts.STYLE}</style></head><body><main>"
    "<h1><b>SWIRL</b>: the theory, exact, on tables</h1>"
    f'<p class="note">{links}</p>{"".join(sections)}<section>{details}</section>'
    "</main></body></html>\n"
  )

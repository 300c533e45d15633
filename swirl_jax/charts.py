"""Charts as SVG text and pictures as data URIs, for pages that stand alone. NumPy alone."""

import base64
import dataclasses
import html
import itertools
import math
import struct
import zlib
from collections.abc import Sequence

import numpy as np

MUTED, GRID = "#6b7487", "#e6e9ef"

# The style sheet of a page that holds them.
STYLE = """
:root{--ink:#1d2433;--muted:#6b7487;--line:#e6e9ef;--swirl:#6a3fd1}
*{box-sizing:border-box}
body{margin:0;background:#f6f7fa;color:var(--ink);
  font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif}
main{max-width:1120px;margin:0 auto;padding:36px 24px 60px}
h1{font-size:30px;margin:0 0 4px;letter-spacing:-.02em}h1 b{color:var(--swirl)}
h2{font-size:19px;margin:0 0 4px;letter-spacing:-.01em}
h3{font-size:13.5px;margin:0 0 4px;font-weight:600}
p{margin:4px 0 10px}.note{color:var(--muted);font-size:13.5px;max-width:88ch}
section{background:#fff;border:1px solid var(--line);border-radius:14px;padding:22px 24px;
  margin-top:18px}
.grid{display:grid;gap:18px 26px;margin-top:12px}
.two{grid-template-columns:repeat(2,minmax(0,1fr))}
.three{grid-template-columns:repeat(3,minmax(0,1fr))}
.tiles{grid-template-columns:repeat(4,minmax(0,1fr));gap:14px;margin-top:18px}
.tile{background:#fff;border:1px solid var(--line);border-radius:14px;padding:14px 18px}
.tile b{display:block;font-size:29px;line-height:1.25;letter-spacing:-.02em}
.tile span{color:var(--muted);font-size:13px}
.tile.main{background:var(--swirl);border-color:var(--swirl);color:#fff}
.tile.main span{color:#e4dcfb}
.badge{display:inline-block;font-size:12px;border-radius:20px;padding:0 9px;margin-top:4px}
.good{background:#e3f5ea;color:#17703a}.bad{background:#fdeaea;color:#a32020}
.plain{background:#eef0f4;color:#525c70}
table{border-collapse:collapse;width:100%;margin-top:10px;font-variant-numeric:tabular-nums}
th{font-size:12.5px;color:var(--muted);font-weight:500;text-align:right;padding:5px 8px}
td{text-align:right;padding:6px 8px;border-top:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:0}
tr.swirl td{font-weight:650;background:#f6f2ff}tr.swirl td:first-child{padding-left:8px}
td i.dot{display:inline-block;width:10px;height:10px;border-radius:50%;margin-right:8px}
td.wide{width:200px}svg{width:100%;height:auto;display:block;font-family:inherit}
svg.whisker{width:190px;display:inline-block;vertical-align:middle}
ul.verdicts{list-style:none;padding:0;margin:14px 0 0}
ul.verdicts li{padding:7px 14px;border-radius:9px;margin-top:6px;font-size:14.5px}
li.ahead{background:#e3f5ea}li.behind{background:#fdeaea}li.unclear{background:#eef0f4}
.legend{font-size:12.5px;color:var(--muted);margin:2px 0 4px}
.chip{margin-right:16px;white-space:nowrap}
.chip i{display:inline-block;width:18px;vertical-align:middle;margin-right:6px}
.missing{background:#fff7e0;border:1px solid #f0dca0;border-radius:10px;padding:8px 14px;
  font-size:14px}
.cards{grid-template-columns:repeat(2,minmax(0,1fr))}
.card{border:1px solid var(--line);border-radius:12px;padding:12px 14px}
.card.wrong{border-color:#f0b4b4}
.strip{display:flex;gap:12px;align-items:flex-end}
.strip figure{margin:0;flex:1 1 0;min-width:0;text-align:center}
.strip img{width:100%;max-width:116px;border-radius:6px;display:block;margin:0 auto}
figcaption{font-size:12px;color:var(--muted);line-height:1.3;padding-top:5px}
.film{overflow-x:auto;margin-top:14px}.film table{width:auto;margin:0}
.film td{border:0;padding:3px 5px;text-align:center;font-size:12.5px;white-space:normal;
  width:118px;color:var(--muted);vertical-align:bottom}
.film td:first-child{width:74px;text-align:left;vertical-align:middle}
.film img{width:104px;border-radius:6px}
.state{font-size:11.5px;line-height:1.5;margin:0;text-align:left;color:var(--ink);
  overflow-wrap:anywhere}
.state mark{background:none;outline:2px solid #f0f;border-radius:2px;padding:0 2px}
.words{font-size:14px;font-weight:600;color:var(--ink)}
details{margin-top:8px}summary{cursor:pointer;color:var(--muted)}
pre{background:#f6f7fa;border-radius:10px;padding:12px;overflow-x:auto;font-size:12px;
  line-height:1.45}
@media(max-width:800px){.two,.three,.tiles,.cards{grid-template-columns:1fr}}
"""


@dataclasses.dataclass(frozen=True)
class Line:
  """One curve. y may hold None, where the curve is broken; low and high draw a band around it.

  smooth: the raw curve pale, and over it the mean of so many neighbours.
  """

  name: str
  x: Sequence[float]
  y: Sequence[float | None]
  color: str
  dash: bool = False
  points: bool = False
  smooth: int = 0
  low: Sequence[float] = ()
  high: Sequence[float] = ()


def ticks(low: float, high: float, count: int = 5) -> list[float]:
  """Round numbers (1, 2, 2.5 or 5 times a power of ten) from at most low to at least high."""
  if high <= low:
    half = max(0.5, 1e-3 * abs(low))  # of a large number a half is nothing
    low, high = low - half, high + half
  raw = (high - low) / count
  power = 10.0 ** math.floor(math.log10(raw))
  step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
  first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
  return [i * step for i in range(first, last + 1)]


def labels(values: Sequence[float]) -> list[str]:
  """Of ticks: as many digits as tell them apart, no needless zeros."""
  step = min((b - a for a, b in itertools.pairwise(values)), default=1.0)
  if max(map(abs, values), default=1.0) < 1e-3:
    return [f"{value:.3g}" for value in values]
  digits = next(d for d in range(16) if math.isclose(round(step, d), step) or d == 15)
  found = (f"{value:,.{digits}f}" for value in values)
  return [text.rstrip("0").rstrip(".") if "." in text else text for text in found]


def rolling(y: Sequence[float | None], width: int) -> list[float | None]:
  """Mean of the values within width // 2 places of each one, those that are there."""
  values = np.array([np.nan if v is None else v for v in y], float)
  there = ~np.isnan(values)
  window = np.ones(2 * (width // 2) + 1)
  count = np.convolve(there, window, "same")[: len(values)]
  total = np.convolve(np.where(there, values, 0.0), window, "same")[: len(values)]
  return [float(t / c) if ok else None for t, c, ok in zip(total, count, there, strict=True)]


def _runs(x, y) -> list[list[tuple[float, float]]]:
  """The unbroken stretches of a curve."""
  runs, last = [], None
  for point in zip(x, y, strict=True):
    if point[1] is None:
      last = None
    elif last is None:
      runs.append(last := [point])
    else:
      last.append(point)
  return runs


def _text(x, y, words, *, anchor="middle", size=11, color=MUTED, extra="") -> str:
  words = html.escape(str(words))
  return (
    f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{color}"'
    f"{extra}>{words}</text>"
  )


class _Frame:
  """Where data stands in the picture."""

  def __init__(self, width, height, x_range, y_range):
    self.left, self.right, self.top, self.bottom = 46, width - 12, 12, height - 34
    self.x_range, self.y_range = x_range, y_range

  def x(self, value) -> float:
    low, high = self.x_range
    return self.left + (value - low) / (high - low) * (self.right - self.left)

  def y(self, value) -> float:
    low, high = self.y_range
    return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)

  def path(self, run) -> str:
    return "M" + "L".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in run)


def line_chart(
  lines: Sequence[Line],
  *,
  width: int = 520,
  height: int = 250,
  x_label: str = "",
  names: Sequence[str] | None = None,
  y_range: tuple[float, float] | None = None,
) -> str:
  """Curves over a common x. `names` label the places 0, 1, … of x instead of numbers."""
  xs = [x for line in lines for x in line.x]
  ys = [v for line in lines for v in (*line.y, *line.low, *line.high) if v is not None]
  if not ys:
    return ""
  y_ticks = ticks(*(y_range or (min(ys), max(ys))), count=4)
  if names is None:
    x_ticks, x_range = ticks(min(xs), max(xs)), (min(xs), max(max(xs), min(xs) + 1))
  else:
    x_ticks, x_range = list(range(len(names))), (-0.3, len(names) - 0.7)
  frame = _Frame(width, height, x_range, (y_ticks[0], y_ticks[-1]))
  parts = _axes(frame, x_ticks, y_ticks, names, x_label, width, height)
  for line in lines:
    parts += _curve(frame, line)
  return (
    f'<svg viewBox="0 0 {width} {height}" role="img" xmlns="http://www.w3.org/2000/svg">'
    + "".join(parts) + "</svg>"
  )  # fmt: skip


def _axes(frame, x_ticks, y_ticks, names, x_label, width, height) -> list[str]:
  parts = []
  for value, label in zip(y_ticks, labels(y_ticks), strict=True):
    y = frame.y(value)
    stroke = f'stroke="{GRID}" stroke-width="1"'
    parts.append(f'<path d="M{frame.left} {y:.1f}H{frame.right}" {stroke}/>')
    parts.append(_text(frame.left - 7, y + 4, label, anchor="end"))
  for value, label in zip(x_ticks, names or labels(x_ticks), strict=True):
    if frame.x_range[0] <= value <= frame.x_range[1]:
      parts.append(_text(frame.x(value), frame.bottom + 16, label))
  parts.append(_text((frame.left + frame.right) / 2, height - 3, x_label))
  return parts


def _curve(frame: _Frame, line: Line) -> list[str]:
  dash = ' stroke-dasharray="5 4"' if line.dash else ""
  parts = []
  if line.low:
    there = [(x, a, b) for x, a, b in zip(line.x, line.low, line.high, strict=True)]
    run = [(x, b) for x, _, b in there] + [(x, a) for x, a, _ in reversed(there)]
    parts.append(f'<path d="{frame.path(run)}Z" fill="{line.color}" opacity=".13"/>')
  curves = [(line.y, 2.0, 1.0)]
  if line.smooth and len(line.y) > line.smooth:
    curves = [(line.y, 1.0, 0.28), (rolling(line.y, line.smooth), 2.2, 1.0)]
  for y, stroke, opacity in curves:
    for run in _runs(line.x, y):
      parts.append(
        f'<path d="{frame.path(run)}" fill="none" stroke="{line.color}" stroke-width="{stroke}" '
        f'stroke-linejoin="round" stroke-linecap="round" opacity="{opacity}"{dash}/>'
      )
  if line.points:
    for x, y in zip(line.x, line.y, strict=True):
      if y is not None:
        at = f'cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="4"'
        tip = html.escape(f"{line.name}: {y:.3f}")
        fill = f'fill="{line.color}" stroke="#fff" stroke-width="1.5"'
        parts.append(f"<circle {at} {fill}><title>{tip}</title></circle>")
  return parts


def whisker(value: float, low: float, high: float, color: str, *, width: int = 190) -> str:
  """A value with its interval on the scale 0 to 1, for a cell of a table; what lies outside is at
  the edge.
  """
  at = [6 + min(max(v, 0.0), 1.0) * (width - 12) for v in (0.0, 0.5, 1.0, low, high, value)]
  grid = "".join(f'<path d="M{x:.1f} 2V20" stroke="{GRID}"/>' for x in at[:3])
  return (
    f'<svg class="whisker" viewBox="0 0 {width} 22" width="{width}" height="22">{grid}'
    f'<path d="M{at[3]:.1f} 11H{at[4]:.1f}" stroke="{color}" stroke-width="5" '
    f'stroke-linecap="round" opacity=".35"/>'
    f'<circle cx="{at[5]:.1f}" cy="11" r="4.5" fill="{color}"/></svg>'
  )


def scale(*, width: int = 190) -> str:
  """The axis that `whisker` measures on, for the head of the table."""
  at = ((6, "start", "0"), (width / 2, "middle", "0.5"), (width - 6, "end", "1"))
  words = "".join(_text(x, 14, number, anchor=anchor) for x, anchor, number in at)
  return f'<svg class="whisker" viewBox="0 0 {width} 18" width="{width}" height="18">{words}</svg>'


def bars(groups: Sequence[tuple[str, Sequence[float]]], colors: Sequence[str], *, width=520,
         height=230) -> str:  # fmt: skip
  """Upright bars of shares, side by side within each named group."""
  top = max((v for _, values in groups for v in values), default=0.0)
  y_ticks = ticks(0.0, max(top, 0.01), count=4)
  frame = _Frame(width, height, (0, len(groups)), (0.0, y_ticks[-1]))
  parts = _axes(frame, [], y_ticks, None, "", width, height)
  room = (frame.right - frame.left) / max(len(groups), 1)
  thick = min(26.0, 0.8 * room / len(colors))
  for i, (name, values) in enumerate(groups):
    middle = frame.x(i + 0.5)
    parts.append(_text(middle, frame.bottom + 16, name))
    for j, (value, color) in enumerate(zip(values, colors, strict=True)):
      x, y = middle + (j - len(colors) / 2) * thick, frame.y(value)
      size = f'width="{thick - 2:.1f}" height="{frame.bottom - y:.1f}"'
      tip = f"<title>{value:.3f}</title>"
      parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" {size} rx="2" fill="{color}">{tip}</rect>')
  return (
    f'<svg viewBox="0 0 {width} {height}" role="img" xmlns="http://www.w3.org/2000/svg">'
    + "".join(parts) + "</svg>"
  )  # fmt: skip


def legend(entries: Sequence[tuple[str, str, bool]]) -> str:
  """(name, colour, dashed) as HTML."""
  chips = (
    f'<span class="chip"><i style="border-top:3px {"dashed" if dash else "solid"} {color}"></i>'
    f"{html.escape(name)}</span>"
    for name, color, dash in entries
  )
  return f'<div class="legend">{"".join(chips)}</div>'


def png_uri(picture: np.ndarray, *, most: int = 256) -> str:
  """uint8 [H, W, 3] as a PNG in a data URI. (PNG: ISO/IEC 15948.) A side of more than `most` pixels
  becomes smaller by a whole factor, for the page's size: means of squares.
  """
  factor = -(-max(picture.shape[:2]) // most)
  if factor > 1:
    pad = [(0, -n % factor) for n in picture.shape[:2]]
    whole = np.pad(picture, (*pad, (0, 0)), mode="edge")
    h, w = (n // factor for n in whole.shape[:2])
    squares = whole.reshape(h, factor, w, factor, 3)
    picture = np.rint(squares.mean((1, 3))).astype(np.uint8)
  height, width, _ = picture.shape
  rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each row begins with its filter, 0: none
  rows[:, 1:] = picture.reshape(height, -1)

  def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

  header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
  data = zlib.compress(rows.tobytes(), 9)
  file = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
  return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + file).decode()

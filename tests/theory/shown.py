"""What a reader sees of a chart: its curves, read off its axes."""

import re

import numpy as np

CURVE = re.compile(r'<path d="(M[^"Z]*)" fill="none"')
BAND = re.compile(r'<path d="(M[^"]*)Z" fill')
LABEL = re.compile(r'<text x="([\d.-]+)" y="([\d.-]+)" text-anchor="(\w+)"[^>]*>([^<]*)</text>')
PIXEL = 0.15  # curves and labels stand at coordinates of one digit


def _points(found):
  return [np.array([tuple(map(float, p.split())) for p in d[1:].split("L")]) for d in found]


def _axes(chart, names):
  """The picture's coordinates of values: (x → pixels, y → pixels), by the labels of both axes."""
  found = LABEL.findall(chart.picture)
  below = [(float(x), words) for x, y, _, words in found if float(y) == chart.height - 18]
  beside = [(float(y) - 4, words) for _, y, anchor, words in found if anchor == "end"]
  if names is not None:
    assert [words for _, words in below] == list(names)
    below = [(x, str(place)) for place, (x, _) in enumerate(below)]
  lines = []
  for ticks in (below, beside):
    pixels, words = zip(*ticks, strict=True)
    values = [float(w.replace(",", "")) for w in words]
    lines.append(np.poly1d(np.polyfit(values, pixels, 1)))
  return lines


def assert_shows(chart, expected, bands=None, *, names=None):
  """The curves are those of expected, {name: (x, y)}, in the order of the chart's key.

  bands: {name: (low, high)} of the curves that have one. names: what stands under the places 0, 1,
  … where the x axis has no numbers.
  """
  assert [name for name, *_ in chart.key] == list(expected)
  found, values = _points(CURVE.findall(chart.picture)), [np.array(v) for v in expected.values()]
  assert [c.shape for c in found] == [v.T.shape for v in values]
  if bands is not None:
    shaded = _points(BAND.findall(chart.picture))
    assert len(shaded) == len(bands)
    found += shaded
    for name, (low, high) in bands.items():
      x = np.array(expected[name][0])
      values.append(np.array([[*x, *x[::-1]], [*high, *low[::-1]]]))
  for axis, pixels in enumerate(_axes(chart, names)):
    for curve, value in zip(found, values, strict=True):
      np.testing.assert_allclose(curve[:, axis], pixels(value[axis]), atol=PIXEL)

"""Charts: points where they should be, words escaped, pictures as PNG."""

import base64
import struct
import xml.etree.ElementTree as ElementTree
import zlib

import numpy as np
import pytest

from swirl_jax import charts


def test_ticks_are_round_and_cover():
  assert charts.ticks(0.0, 1.0, 4) == pytest.approx([0, 0.25, 0.5, 0.75, 1])
  assert charts.ticks(-1.13, -0.21, 4) == pytest.approx([-1.25, -1, -0.75, -0.5, -0.25, 0])
  for low, high in ((3.0, 3.0), (0.0, 1e-7), (-5e4, 1e5)):
    found = charts.ticks(low, high)
    assert found[0] <= low and found[-1] >= high and len(found) < 12
  for low, high, found in (
    (0.0, 1.0, ["0", "0.25", "0.5", "0.75", "1"]),
    (-0.2, 0.1, ["-0.2", "-0.1", "0", "0.1"]),
    (0.0, 12000.0, ["0", "5,000", "10,000", "15,000"]),
    (1000.0, 1001.5, ["1,000", "1,000.5", "1,001", "1,001.5"]),
    (0.0, 1e-4, ["0", "2.5e-05", "5e-05", "7.5e-05", "0.0001"]),
    (0.5, 0.50005, ["0.5", "0.50002", "0.50004", "0.50006"]),
  ):
    assert charts.labels(charts.ticks(low, high, 4)) == found


def test_one_number_has_ticks_around_it_however_large():
  for value in (0.0, -3.0, 1e17, -1e30):
    found = charts.ticks(value, value)
    assert found[0] < value < found[-1]


def test_rolling_mean_by_hand():
  assert charts.rolling([0, 3, 6, None, 9], 3) == [1.5, 3.0, 4.5, None, 9.0]


def test_a_point_stands_where_it_should():
  line = charts.Line("a", [0, 10], [0.0, 1.0], "#123456", points=True)
  root = ElementTree.fromstring(charts.line_chart([line], width=520, height=250))
  found = [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter() if c.get("cx")]
  assert found == [(46.0, 216.0), (508.0, 12.0)]


def test_a_curve_is_broken_where_a_value_is_none():
  runs = charts._runs(range(6), [0.0, 1.0, None, None, 4.0, None])
  assert runs == [[(0, 0.0), (1, 1.0)], [(4, 4.0)]]


def test_words_of_charts_are_escaped():
  line = charts.Line("a", [0, 1], [0.0, 1.0], "#123456")
  drawn = charts.line_chart([line], names=["<x>", "y"], x_label="s<t")
  assert ">&lt;x&gt;</text>" in drawn and ">s&lt;t</text>" in drawn
  assert "<i>" not in charts.bars([("<i>", [0.5])], ["#123456"])
  assert ">a&lt;b</span>" in charts.legend([("a<b", "#123456", False)])


def test_a_whisker_ends_at_the_edges():
  drawn = charts.whisker(1.4, -0.2, 2.0, "#123456")
  assert 'd="M6.0 11H184.0"' in drawn and 'cx="184.0"' in drawn
  drawn = charts.whisker(0.5, 0.25, 0.75, "#123456")
  assert 'd="M50.5 11H139.5"' in drawn and 'cx="95.0"' in drawn


def test_small_bars_fill_the_height():
  """Their axis ends where the largest does, not at 1."""
  root = ElementTree.fromstring(charts.bars([("g", [0.02, 0.01])], ["#123456", "#654321"]))
  found = [float(r.get("height")) for r in root.iter() if r.tag.endswith("rect")]
  assert found == [184.0, 92.0]


def test_png_holds_the_picture():
  picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
  data = base64.b64decode(charts.png_uri(picture).removeprefix("data:image/png;base64,"))
  assert data.startswith(b"\x89PNG\r\n\x1a\n")
  chunks, at = {}, 8
  while at < len(data):
    size, kind = struct.unpack(">I4s", data[at : at + 8])
    body = data[at + 8 : at + 8 + size]
    assert struct.unpack(">I", data[at + 8 + size : at + 12 + size])[0] == zlib.crc32(kind + body)
    chunks[kind], at = body, at + 12 + size
  assert struct.unpack(">II", chunks[b"IHDR"][:8]) == (7, 5)
  rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(5, 22)
  assert (rows[:, 0] == 0).all() and (rows[:, 1:].reshape(5, 7, 3) == picture).all()


def test_a_large_picture_becomes_smaller_by_a_whole_factor():
  tones = np.arange(2 * 3 * 3).reshape(2, 3, 3).astype(np.uint8)
  large = (2 * tones).repeat(2, 0).repeat(2, 1)
  large[::2, ::2] += 4  # one of four pixels: a mean of one more
  assert charts.png_uri(large, most=3) == charts.png_uri(2 * tones + 1, most=3)
  assert charts.png_uri(large[:, :5], most=3) != charts.png_uri(large, most=6)
  assert charts.png_uri(tones, most=3) == charts.png_uri(tones)

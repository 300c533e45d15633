"""How a state of codes is drawn, and what is measured of a tokenizer."""

import numpy as np
import pytest

from swirl_jax.data import codec, codec_quality
from swirl_jax.data.codec import Codec, renderer

SIDE = 2  # pixels of a patch


def decode(codes):
  """A patch of the colour (10 · code, 0, 0)."""
  reds = 10 * codes.repeat(SIDE, 1).repeat(SIDE, 2)
  return np.stack([reds, 0 * reds, 0 * reds], -1).astype(np.uint8)


def encode(pixels):
  return pixels[:, ::SIDE, ::SIDE, 0].astype(np.int32) // 10


CODEC = Codec(8, SIDE, "digest", encode, decode)


def patch(picture, row, column, side):
  return picture[row * side : (row + 1) * side, column * side : (column + 1) * side]


def test_a_state_is_drawn_enlarged_and_its_marks_outlined():
  draw = renderer(CODEC, 2, 3)
  state = "<1> <2> <3> <4> <5> <6>"
  picture = draw(state)
  side = SIDE * 24  # the shorter side, of 4 pixels, becomes 96
  assert picture.shape == (2 * side, 3 * side, 3) and picture.dtype == np.uint8
  for i in range(6):
    assert (patch(picture, i // 3, i % 3, side) == (10 * (i + 1), 0, 0)).all()
  marked = draw(state, (4,))
  assert (patch(marked, 1, 1, side)[0] == (255, 0, 255)).all()
  assert (patch(marked, 1, 1, side)[2:-2, 2:-2] == (50, 0, 0)).all()
  for edge in (np.s_[:2], np.s_[-2:], np.s_[:, :2], np.s_[:, -2:]):
    assert (patch(marked, 1, 1, side)[edge] == (255, 0, 255)).all()
  assert np.array_equal(patch(marked, 0, 0, side), patch(picture, 0, 0, side))
  assert np.array_equal(draw(state), picture)  # marks spoil no kept picture


def test_the_shorter_side_of_a_drawn_picture_is_96_pixels_or_more():
  for rows, side in ((4, 96), (5, 100), (25, 100), (48, 96), (50, 100)):  # of 2, 4 … pixels
    assert renderer(CODEC, rows, 60)(" ".join(["<1>"] * rows * 60)).shape[0] == side


@pytest.mark.parametrize(
  ("state", "striped", "rows"),
  [
    ("", {0, 1, 2, 3, 4, 5}, 2),
    ("<1> turn <8> <01> <2>", {1, 2, 3, 5}, 2),
    ("<1> <2> <3> <4> <5> <6> <7>", {6, 7, 8}, 3),
  ],
)
def test_what_is_no_code_is_striped(state, striped, rows):
  picture, side = renderer(CODEC, 2, 3)(state, (8,)), SIDE * 24
  assert picture.shape == (rows * side, 3 * side, 3)
  for i in range(rows * 3):
    inner = patch(picture, i // 3, i % 3, side)[2:-2, 2:-2]
    assert (len(np.unique(inner.reshape(-1, 3), axis=0)) == 2) == (i in striped), i


def test_a_picture_is_decoded_once():
  calls = []
  counted = Codec(8, SIDE, "", encode, lambda codes: calls.append(1) or decode(codes))
  draw = renderer(counted, 1, 2)
  draw("<1> <2>"), draw("<1> <2>", (0,)), draw("<1> <3>")
  assert len(calls) == 2


def test_batches_have_one_shape(monkeypatch):
  monkeypatch.setattr(codec, "BATCH", 2)
  shapes = []
  rows = np.arange(10).reshape(5, 2)
  found = codec.in_batches(lambda a: shapes.append(a.shape) or -a, rows)
  np.testing.assert_array_equal(found, -rows)
  assert shapes == [(2, 2)] * 3


def test_decoded_states_are_as_they_come():
  drawn = codec.decoder(CODEC, 1, 2)(["<1> <2>", "<3> <0>"])
  np.testing.assert_array_equal(drawn, decode(np.array([[[1, 2]], [[3, 0]]])))
  for bad in ("<1>", "<1> <8>", "<1> <2> <3> <4>"):
    with pytest.raises(ValueError, match="allowed are 2 codes below 8"):
      codec.decoder(CODEC, 1, 2)([bad])


def test_a_description_encodes_nothing():
  with pytest.raises(ValueError, match="without a folder for its weights"):
    Codec(8, SIDE).encode(np.zeros((1, 2, 2, 3), np.uint8))


def test_quality_of_a_faithful_tokenizer():
  pictures = decode(np.array([[[0, 1], [2, 3]], [[0, 0], [0, 1]]]))
  found = codec_quality.measure(CODEC, pictures)
  assert found.pop("perplexity") == pytest.approx(
    np.exp(-sum(s * np.log(s) for s in (4 / 8, 2 / 8, 1 / 8, 1 / 8)))
  )
  assert found == {
    "pictures": 2, "psnr": None, "exact": 1.0, "used": 4, "kinds": 4, "right": 1.0,
    "right_kinds": 1.0, "codes_per_kind": 1.0, "kinds_per_code": 1.0,
  }  # fmt: skip


def test_quality_of_one_that_takes_two_kinds_for_one():
  """Code 3 is drawn as code 0 is: one patch of eight is wrong, by 30 in one of its channels."""
  blind = Codec(8, SIDE, "", lambda p: np.where(encode(p) == 3, 0, encode(p)), decode)
  pictures = decode(np.array([[[0, 1], [2, 3]], [[0, 0], [0, 1]]]))
  found = codec_quality.measure(blind, pictures)
  assert found["psnr"] == pytest.approx(10 * np.log10(255**2 / (30**2 / 8 / 3)))
  assert (found["exact"], found["used"], found["kinds"]) == (0.5, 3, 4)
  assert (found["right"], found["right_kinds"]) == (7 / 8, 3 / 4)
  assert (found["codes_per_kind"], found["kinds_per_code"]) == (1.0, 4 / 3)


def test_quality_of_one_that_has_two_codes_for_a_kind():
  """Code 1 or 2 in the first column, 5 or 6 in the second; the codes between are never used."""
  twice = Codec(
    8, SIDE, "", lambda p: encode(p) + 1 + 4 * np.arange(2), lambda codes: decode((codes - 1) % 4)
  )
  found = codec_quality.measure(twice, decode(np.array([[[0, 1], [1, 0]]])))
  assert (found["used"], found["kinds"]) == (4, 2) and found["perplexity"] == pytest.approx(4)
  assert (found["codes_per_kind"], found["kinds_per_code"]) == (2.0, 1.0)
  assert (found["exact"], found["right"]) == (1.0, 1.0)


def test_a_sheet_has_the_originals_above():
  a, b = np.full((2, 4, 4, 3), 10, np.uint8), np.full((2, 4, 4, 3), 20, np.uint8)
  sheet = codec_quality.sheet(list(zip(a, b, strict=True)), scale=2)
  assert sheet.shape == (2 * 2 * 8, 2 * 2 * 8, 3)
  assert (sheet[0, 0] == 10).all() and (sheet[16, 0] == 20).all() and (sheet[0, 8] == 255).all()

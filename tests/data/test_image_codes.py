"""Codes as text and back."""

import numpy as np
import pytest

from swirl_jax.data.image_codes import codes_text, is_code, text_codes


def test_a_grid_goes_row_by_row():
  assert codes_text(np.array([[17, 3], [8191, 0]])) == "<17> <3> <8191> <0>"
  assert codes_text([5]) == "<5>"


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32, np.int64])
def test_text_and_back(dtype):
  codes = np.random.default_rng(0).integers(0, 8192, size=(32, 32)).astype(dtype)
  found = text_codes(codes_text(codes))
  assert found.dtype == np.int32 and found.shape == (1024,)
  np.testing.assert_array_equal(found.reshape(32, 32), codes)


def test_white_space_does_not_matter():
  np.testing.assert_array_equal(text_codes(" <1>\n<2>\t<3> "), [1, 2, 3])


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("", "the text '' holds no codes"),
    (" \n", "holds no codes"),
    ("<1> <sep>", "word 2 of 2 is '<sep>', must be a code as in '<17>'"),
    ("<1><2>", "word 1 of 1 is '<1><2>'"),
    ("<01>", "'<01>'"),
    ("<-1>", "'<-1>'"),
    ("<1.0>", "'<1.0>'"),
    ("<٣>", "'<٣>'"),  # a digit, but another spelling of 3
    ("<1234567890>", "'<1234567890>'"),
    ("17", "'17'"),
  ],
)
def test_what_is_no_code_is_an_error(text, said):
  with pytest.raises(ValueError) as error:
    text_codes(text)
  assert said in str(error.value)


@pytest.mark.parametrize(
  ("codes", "said"),
  [
    ([], "must be whole numbers, one at least"),
    ([0.0], "codes are float64 (1,)"),
    ([True], "codes are bool (1,)"),
    ([-1, 3], "codes are from -1 to 3, must be from 0"),
    ([10**9], "must be from 0 to 999999999"),
  ],
)
def test_what_has_no_text_is_an_error(codes, said):
  with pytest.raises(ValueError) as error:
    codes_text(codes)
  assert said in str(error.value)


def test_what_is_a_code():
  assert is_code("<17>") and is_code("<0>")
  assert not any(map(is_code, ("<00>", "<pad>", "17", "<17> ", "")))

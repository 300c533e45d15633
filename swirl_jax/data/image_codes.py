"""A picture's codes as text: what a state is, in a world of pictures.

The codes of a grid, row by row, are the words `<17> <3> <8191>`: code c is the word `<c>`, decimal
and without leading zeros, so that a code has one spelling. Everything that works on words (splits,
exact match, differences by position) then works on the patches of a picture.
"""

import re
from typing import Any

import numpy as np

_CODE = re.compile(r"<(0|[1-9][0-9]{0,8})>")  # nine digits: always an int32


def is_code(word: str) -> bool:
  """Whether a word is that of a code, in whatever codebook."""
  return _CODE.fullmatch(word) is not None


def codes_text(codes: Any) -> str:
  """Codes of any shape, flattened row by row → "<17> <3>", one word each.

  int [...] → str. Raises ValueError for no codes, other numbers than whole ones, and for codes
  outside 0 to 999,999,999.
  """
  codes = np.asarray(codes)
  if codes.dtype.kind not in "iu" or not codes.size:
    raise ValueError(f"codes are {codes.dtype} {codes.shape}, must be whole numbers, one at least")
  low, high = int(codes.min()), int(codes.max())
  if low < 0 or high >= 10**9:
    raise ValueError(f"codes are from {low} to {high}, must be from 0 to {10**9 - 1}")
  return " ".join(f"<{c}>" for c in codes.reshape(-1).tolist())


def text_codes(text: str) -> np.ndarray:
  """The codes of "<17> <3>": str → int32 [N], the inverse of `codes_text`, white space aside.

  Raises ValueError for text without words and for a word that is no code's.
  """
  words = text.split()
  if not words:
    raise ValueError(f"the text {text!r} holds no codes")
  found = [_CODE.fullmatch(word) for word in words]
  if None in found:
    at = found.index(None)
    raise ValueError(f"word {at + 1} of {len(words)} is {words[at]!r}, must be a code as in '<17>'")
  return np.array([int(match[1]) for match in found], np.int32)

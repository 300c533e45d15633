"""What of a text is new against another, where words shift: by alignment. NumPy alone.

`text.compare` goes place by place, which suits worlds of fixed layout. Where a line is put in or
left out everything behind it moves, and there words are aligned instead: a longest common
subsequence of two texts' words (those between white space), Wagner & Fischer 1974.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


def align(a: Sequence[str], b: Sequence[str]) -> list[tuple[int, int]]:
  """The places (i, j), rising, of a longest common subsequence: a[i] = b[j].

  Of several such, always the same one of a given pair of texts, whichever comes first:
  align(b, a) has the pairs of align(a, b) turned round. O(|a| · |b|) between what both texts begin
  and end with.
  """
  if (len(b), list(b)) < (len(a), list(a)):
    return [(i, j) for j, i in align(b, a)]
  start = 0
  while start < len(a) and a[start] == b[start]:
    start += 1
  end = 0
  while end < len(a) - start and a[-1 - end] == b[-1 - end]:
    end += 1
  inner = _longest(a[start : len(a) - end], b[start : len(b) - end])
  return [
    *((i, i) for i in range(start)),
    *((start + i, start + j) for i, j in inner),
    *((len(a) - k, len(b) - k) for k in range(end, 0, -1)),
  ]


def _longest(a: Sequence[str], b: Sequence[str]) -> list[tuple[int, int]]:
  """L[i, j] = max(L[i−1, j], L[i, j−1], L[i−1, j−1] + 1 where a_i = b_j), and the way back."""
  number: dict[str, int] = {}
  a, b = (np.array([number.setdefault(w, len(number)) for w in t], int) for t in (a, b))
  table = np.zeros((len(a) + 1, len(b) + 1), np.int32)
  for i in range(len(a)):  # a row at once: L[i, j−1] is the running maximum of the other two
    step = np.maximum(table[i, 1:], table[i, :-1] + (b == a[i]))
    table[i + 1, 1:] = np.maximum.accumulate(step)
  pairs, i, j = [], len(a), len(b)
  while i and j:
    if a[i - 1] == b[j - 1]:
      i, j = i - 1, j - 1
      pairs.append((i, j))
    elif table[i - 1, j] >= table[i, j - 1]:
      i -= 1
    else:
      j -= 1
  return pairs[::-1]


class Edits(NamedTuple):
  """A prediction p of y against y and x, in words, by example. All int [N].

  new: words of y that its alignment with x leaves out; kept: the others. Of each, how many the
  alignment of y with p has (new_right, kept_right). gone: words of x that the alignment of x with y
  leaves out; gone_right: those that the alignment of x with p leaves out too. predicted: words of
  p; the new_right + kept_right of them that are aligned with y are right, the rest is spurious.

  p = y has all right and nothing spurious. p = x has every kept word, no new one, none gone. An
  empty p has all that is gone and nothing else: read gone_right beside the others.
  """

  new: np.ndarray
  new_right: np.ndarray
  kept: np.ndarray
  kept_right: np.ndarray
  gone: np.ndarray
  gone_right: np.ndarray
  predicted: np.ndarray


def edits(x: Sequence[str], y: Sequence[str], predictions: Sequence[str]) -> Edits:
  """`Edits` of N texts each."""
  rows = [_edits(*(t.split() for t in texts)) for texts in zip(x, y, predictions, strict=True)]
  return Edits(*np.array(rows, int).reshape(-1, len(Edits._fields)).T)


def _edits(x: list[str], y: list[str], p: list[str]) -> tuple[int, ...]:
  both = align(x, y)
  kept = {j for _, j in both}
  right = {i for i, _ in align(y, p)}
  gone = set(range(len(x))) - {i for i, _ in both}
  still = {i for i, _ in align(x, p)}
  new = len(y) - len(kept), len(right - kept)
  return (*new, len(kept), len(right & kept), len(gone), len(gone - still), len(p))

"""Tokenizers of image language models: text by the checkpoint's own tokenizer; the codes of
pictures, words like `<17>` (`image_codes.py`), by their place in the model's vocabulary.

Liquid (arXiv:2412.04332) has its codes behind the text tokenizer's vocabulary, code c at its size
plus c. Chameleon (arXiv:2405.09818) has them inside, in an order that `vocabulary_map` of
config.json tells.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from swirl_jax.data import fast_tokenizers, image_codes
from swirl_jax.data.fast_tokenizers import FastTokenizer
from swirl_jax.data.tokenizers import SPECIAL

NAMED = SPECIAL[:3]  # the special tokens that a checkpoint has itself: padding, begin, end
MARKERS = {"chameleon": ("<racm3:break>", "<eoss>")}  # by model_type: begin and end of an image
LIQUID_MARKERS = ("<boi>", "<eoi>")
PADDING = 512  # the most rows that a model has behind its last code, so that its matrices divide
_IMAGE, _DIGITS = "IMGIMG", str.maketrans("ABCDEFGHIJ", "0123456789")


@dataclasses.dataclass(frozen=True)
class ImageTokenizer:
  """A text tokenizer, and the ids of an image's codes.

  code_ids: the id of code c, for every c: a `range` (Liquid) or a permutation of one (Chameleon).
  boi, eoi: the markers around an image. No token is ever added: its id would stand among the codes.
  """

  text: FastTokenizer
  code_ids: Sequence[int]
  boi: int
  eoi: int

  added = ()

  def __post_init__(self):
    start, stop = self.codes
    if sorted(self.code_ids) != list(range(start, stop)):
      raise ValueError(
        f"code ids: {len(self.code_ids)} ids from {start} to {stop - 1}; allowed is one range of "
        "ids, each of them once."
      )
    for name in ("pad", "bos", "eos", "boi", "eoi"):
      if start <= getattr(self, name) < stop:
        raise ValueError(f"code ids {start} to {stop - 1}: {name} = {getattr(self, name)} is one.")

  pad, bos, eos = (property(lambda self, n=n: getattr(self.text, n)) for n in ("pad", "bos", "eos"))

  @property
  def vocab_size(self) -> int:
    """One more than the greatest id. A model's may be larger: its last rows are then padding."""
    return max(self.text.vocab_size, self.codes[1])

  @property
  def known(self) -> int:
    """The tokens that the model was trained with: all."""
    return self.vocab_size

  @property
  def tokenizer(self) -> Any:
    """That of `transformers`, for the text."""
    return self.text.tokenizer

  @functools.cached_property
  def codes(self) -> tuple[int, int]:
    """The ids of the codes: (start, stop)."""
    return min(self.code_ids), max(self.code_ids) + 1

  @functools.cached_property
  def _id_of(self) -> np.ndarray:
    return np.asarray(self.code_ids, np.int32)

  @functools.cached_property
  def _code_of(self) -> np.ndarray:
    """The code of each id, counted from the first."""
    return np.argsort(self._id_of).astype(np.int32)

  def marker(self, name: str) -> int:
    """The id of a special token of the text tokenizer, by its name. ValueError where it has none.

    (Gemma's <start_of_turn>, Chameleon's <reserved08706>.)
    """
    return marker(self.text, name)

  def markup(self, text: str) -> list[int]:
    """The ids of a text in which the names of special tokens are these tokens."""
    return self.tokenizer.encode(text, add_special_tokens=False)

  def encode(self, text: str) -> list[int]:
    """Image ids of a text that is wholly code words, text ids of any other. ValueError for a code
    that the model doesn't have, and for text with the name of an image's token in it.
    """
    words = text.split()
    if words and all(map(image_codes.is_code, words)):
      found = image_codes.text_codes(text)
      if found.max() >= len(self.code_ids):
        raise ValueError(
          f"the code <{found.max()}> is outside the model's image vocabulary of "
          f"{len(self.code_ids)} codes"
        )
      return self._id_of[found].tolist()
    ids, (start, stop) = self.text.encode(text), self.codes
    if any(start <= i < stop or i in (self.boi, self.eoi) for i in ids):
      raise ValueError(f"the text holds the name of an image's token: {text!r}")
    return ids

  def decode(self, ids: Iterable[int]) -> str:
    """Code words of image ids and text of text ids, up to the first <eos> and without <pad>."""
    start, stop = self.codes
    held = itertools.takewhile(lambda i: i != self.eos, map(int, ids))
    held = [i for i in held if i != self.pad]
    parts = []
    for is_code, run in itertools.groupby(held, lambda i: start <= i < stop):
      run = list(run)
      if is_code:
        parts.append(image_codes.codes_text(self._code_of[np.array(run) - start]))
      else:
        parts.append(self.text.decode(run))
    return " ".join(parts)

  def save_pretrained(self, folder) -> None:
    """The text tokenizer's files: the codes are the model's own."""
    self.text.save_pretrained(folder)


def marker(text: FastTokenizer, name: str) -> int:
  """The id of a token by its name. ValueError where the tokenizer has none of that name."""
  found = text.tokenizer.get_vocab().get(name)
  if found is None:
    raise ValueError(f"the tokenizer has no token {name!r}, which an image model's prompts need.")
  return found


def open_tokenizer(folder, config: Mapping[str, Any], *, codes: int) -> ImageTokenizer:
  """The tokenizer in the folder of a Liquid or Chameleon checkpoint; `config` is its config.json,
  `codes` the number of codes of the image tokenizer (VQ) that the pictures are made with.

  ValueError where the folder lacks the markers, or where the model's image vocabulary has another
  number of codes than the VQ.
  """
  text = fast_tokenizers.open_tokenizer(folder, NAMED)
  if text.added:
    raise ValueError(
      f"tokenizer {str(folder)!r}: it names no padding, begin or end token, and an image model's "
      "vocabulary has no room for new ones: name them in its files."
    )
  boi, eoi = (marker(text, n) for n in MARKERS.get(config["model_type"], LIQUID_MARKERS))
  size = config["vocab_size"]
  if config["model_type"] == "chameleon":
    ids: Sequence[int] = chameleon_ids(config.get("vocabulary_map") or {})
    found, fits = f"{len(ids)}", len(ids) == codes and max(ids) < size
  else:
    start = text.vocab_size
    ids, spare = range(start, start + codes), size - start - codes
    found = f"{size - start} (of {size} rows, {start} are the text's)"
    fits = 0 <= spare <= min(PADDING, codes - 1)
  if not fits:
    raise ValueError(
      f"the image tokenizer (VQ) has {codes} codes; the image vocabulary of {str(folder)!r} has "
      f"{found}. They must be those of one model."
    )
  return ImageTokenizer(text, ids, boi, eoi)


def chameleon_ids(vocabulary_map: Mapping[str, int]) -> tuple[int, ...]:
  """The id of every code, by the names in a Chameleon's `vocabulary_map`: IMGIMG, the code's
  digits as letters (A is 0, J is 9), and Z.

  ValueError where there are none, or a code is missing or there twice.
  """
  found: dict[int, int] = {}
  for name, i in vocabulary_map.items():
    if not name.startswith(_IMAGE):
      continue
    digits = name[len(_IMAGE) : -1].translate(_DIGITS)
    if not name.endswith("Z") or not digits.isdecimal() or int(digits) in found:
      raise ValueError(f"vocabulary_map: {name!r} is no code's name, or names one a second time.")
    found[int(digits)] = i
  if not found or sorted(found) != list(range(len(found))):
    raise ValueError(
      f"vocabulary_map: names of {len(found)} codes ({_IMAGE}...); needed is one for every code "
      "from 0 on."
    )
  return tuple(found[code] for code in range(len(found)))

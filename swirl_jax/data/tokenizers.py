"""Tokenizers: text → token ids and back. Frozen and hashable: they can be static arguments.

A tokenizer has the ids `pad`, `bos`, `eos`, `sep`, `fwm`, `idm`, a `vocab_size`, `encode` (adds no
special tokens and lets no text smuggle them in) and `decode` (up to the first <eos>, no <pad>).
Here are those that need nothing but Python; `fast_tokenizers.py` has those of language models.
"""

import dataclasses
import functools
from collections.abc import Iterable

PAD, BOS, EOS, SEP, FWM, IDM = range(6)
SPECIAL = ("<pad>", "<bos>", "<eos>", "<sep>", "<fwm>", "<idm>")  # at their ids


@dataclasses.dataclass(frozen=True)
class WordTokenizer:
  """One token a word, over a fixed vocabulary: the special tokens 0..5, then `words` in order."""

  words: tuple[str, ...]

  def __post_init__(self):
    if not isinstance(self.words, tuple):
      raise ValueError(f"words is a {type(self.words).__name__}, must be a tuple of str")
    for word in self.words:
      if not isinstance(word, str) or word.split() != [word] or word in SPECIAL:
        raise ValueError(f"{word!r} is no word: non-empty, no white space, not of {SPECIAL}")
    if len(set(self.words)) != len(self.words):
      twice = sorted({w for w in self.words if self.words.count(w) > 1})
      raise ValueError(f"the vocabulary holds words twice: {twice}")

  pad, bos, eos, sep, fwm, idm = PAD, BOS, EOS, SEP, FWM, IDM

  @functools.cached_property
  def _ids(self) -> dict[str, int]:
    return {word: i for i, word in enumerate(self.words, start=len(SPECIAL))}

  @property
  def vocab_size(self) -> int:
    """Special tokens and words."""
    return len(SPECIAL) + len(self.words)

  def encode(self, text: str) -> list[int]:
    """The ids of the words of `text`, no special tokens; an unknown word is an error."""
    try:
      return [self._ids[word] for word in text.split()]
    except KeyError as error:
      raise ValueError(
        f"the word {error.args[0]!r} is not in the vocabulary of {len(self.words)} words "
        f"(text: {text!r})"
      ) from None

  def decode(self, ids: Iterable[int]) -> str:
    """The words of `ids` up to the first <eos>, without <pad>.

    Any other special token is written out (`<sep>`), so that a malformed prediction equals no text.
    """
    words = []
    for i in ids:
      i = int(i)
      if not 0 <= i < self.vocab_size:
        raise ValueError(f"the id {i} is outside the vocabulary, 0 to {self.vocab_size - 1}")
      if i == EOS:
        break
      if i != PAD:
        words.append(SPECIAL[i] if i < len(SPECIAL) else self.words[i - len(SPECIAL)])
    return " ".join(words)


@dataclasses.dataclass(frozen=True)
class ByteTokenizer:
  """One token a byte of UTF-8: the special tokens 0..5, then the 256 bytes. For tests: any text is
  encoded, and nothing is trained or read.
  """

  pad, bos, eos, sep, fwm, idm = PAD, BOS, EOS, SEP, FWM, IDM
  vocab_size = len(SPECIAL) + 256

  def encode(self, text: str) -> list[int]:
    return [byte + len(SPECIAL) for byte in text.encode()]

  def decode(self, ids: Iterable[int]) -> str:
    """The text of `ids` up to the first <eos>, without <pad>; other special tokens are written out,
    bytes that are no UTF-8 become the replacement character.
    """
    found = bytearray()
    for i in ids:
      i = int(i)
      if not 0 <= i < self.vocab_size:
        raise ValueError(f"the id {i} is outside the vocabulary, 0 to {self.vocab_size - 1}")
      if i == EOS:
        break
      if i != PAD:
        found += SPECIAL[i].encode() if i < len(SPECIAL) else bytes([i - len(SPECIAL)])
    return found.decode(errors="replace")

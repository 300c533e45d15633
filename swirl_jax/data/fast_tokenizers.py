"""Tokenizers of language models, through `transformers`: opened from a folder, trained on a world's
text, or made from our own so that a folder can be exported.

`transformers` takes seconds to import, so the functions that need it import it.
"""

import dataclasses
import functools
import hashlib
import itertools
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from swirl_jax.data.tokenizers import SPECIAL, ByteTokenizer, WordTokenizer

_NAMED = ("pad_token", "bos_token", "eos_token")  # what transformers calls SPECIAL's first three
LEAST = len(SPECIAL) + 256  # entries of the smallest BPE vocabulary: special tokens and bytes
_MARK = "\ue000"  # a private character, which templates neither hold nor strip


@dataclasses.dataclass(frozen=True, eq=False)
class FastTokenizer:
  """A fast tokenizer of `transformers`. Those of our special tokens that it lacks have been added
  behind its vocabulary (see `wrap`): `added` are their ids, `known` the size without them.

  Equal and hashed by what it does: the tokenizer's own serialisation and its chat template.
  """

  tokenizer: Any
  ids: tuple[int, ...]  # of SPECIAL, or the first of them, in its order
  known: int
  added: tuple[int, ...]

  pad, bos, eos, sep, fwm, idm = (
    property(lambda self, i=i: self.ids[i]) for i in range(len(SPECIAL))
  )

  @functools.cached_property
  def vocab_size(self) -> int:
    """One more than the greatest id. A model's may be larger: its last rows are then padding."""
    return max(self.tokenizer.get_vocab().values()) + 1

  @functools.cached_property
  def digest(self) -> str:
    template = self.tokenizer.chat_template
    text = f"{self.tokenizer.backend_tokenizer.to_str()}\n{self.ids}\n{template}"
    return hashlib.sha256(text.encode()).hexdigest()

  def __eq__(self, other) -> bool:
    return isinstance(other, FastTokenizer) and self.digest == other.digest

  def __hash__(self) -> int:
    return hash(self.digest)

  def encode(self, text: str) -> list[int]:
    """The ids of `text`; what looks like a special token in it is encoded as the text it is.
    ValueError where that can't be, as of a word that a vocabulary of words lacks.
    """
    try:
      ids = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    except Exception as error:  # the library raises no other class
      raise ValueError(f"{error} (text: {text!r})") from None
    if not set(ids).isdisjoint(self.ids):
      raise ValueError(f"the text holds the name of a special token: {text!r}")
    return ids

  def decode(self, ids: Iterable[int]) -> str:
    """The text of `ids` up to the first <eos>, without <pad>.

    Any other special token is written out, and so is an id that only the model's padding has, so
    that a malformed prediction equals no text.
    """
    held = itertools.takewhile(lambda i: i != self.eos, map(int, ids))
    held = (i for i in held if i != self.pad)
    parts = []
    for is_token, run in itertools.groupby(held, lambda i: 0 <= i < self.vocab_size):
      run = list(run)
      parts.append(self._text(run) if is_token else "".join(f"<unused {i}>" for i in run))
    return "".join(parts)

  def _text(self, ids: list[int]) -> str:
    return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

  def chat(
    self, messages: Sequence[Mapping[str, str]], fields: Sequence[str] = ("x", "y", "z"), **settings
  ) -> tuple[str | tuple[int, ...], ...]:
    """The pieces of a `prompts.Template` by the tokenizer's chat template, up to where the model
    answers: token ids, and in between the names of the fields that stand as {x}, {y}, {z} in the
    messages.

    Fields are encoded apart (`encode`), so no state can pose as a role's turn. `settings` go to the
    chat template (`enable_thinking=False`). ValueError where there is no template, or it doesn't
    render every field once for each time it is named.
    """
    if self.tokenizer.chat_template is None:
      raise ValueError("this tokenizer has no chat template: write the prompt's pieces by hand")
    slot = re.compile(r"\{(" + "|".join(map(re.escape, fields)) + r")\}")
    marked = [{**m, "content": slot.sub(rf"{_MARK}\1{_MARK}", m["content"])} for m in messages]
    text = self.tokenizer.apply_chat_template(
      marked, tokenize=False, add_generation_prompt=True, **settings
    )
    parts = text.split(_MARK)
    wanted = [name for m in messages for name in slot.findall(m["content"])]
    if sorted(parts[1::2]) != sorted(wanted):
      raise ValueError(f"the chat template renders the fields {parts[1::2]}, expected {wanted}")
    pieces = []
    for i, part in enumerate(parts):
      if i % 2:
        pieces.append(part)
      elif part:
        pieces.append(tuple(self.tokenizer.encode(part, add_special_tokens=False)))
    return tuple(pieces)

  def save_pretrained(self, folder) -> None:
    """The files that `transformers.AutoTokenizer` opens, added tokens included.

    For some models it takes a class of its own choice whatever the files say. So they are opened
    once, beside the folder's config.json if there is one: ValueError where other ids come out.
    """
    from transformers import AutoTokenizer

    self.tokenizer.save_pretrained(folder)
    ids = range(0, self.vocab_size, max(1, self.vocab_size // 500))
    words = [self._text([i]) for i in ids if i not in self.ids]
    text = " ".join(word for word in words if "\ufffd" not in word)  # a part of a character is none
    opened = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    as_text = {"add_special_tokens": False, "split_special_tokens": True}
    if opened.encode(text, **as_text) != self.tokenizer.encode(text, **as_text):
      raise ValueError(
        "transformers opens this tokenizer beside the model's config.json as "
        f"{type(opened).__name__}, which gives other ids: choose another family, or a byte-level "
        "BPE tokenizer"
      )


def open_tokenizer(folder, special: Sequence[str] = SPECIAL) -> FastTokenizer:
  """The tokenizer in a checkpoint's folder: tokenizer.json as it stands, or else what
  `transformers` converts. The folder itself is left as it is. `special`: see `wrap`. ValueError
  where there is none.
  """
  from transformers import AutoTokenizer, PreTrainedTokenizerFast

  as_it_stands = (pathlib.Path(folder) / "tokenizer.json").exists()
  cls = PreTrainedTokenizerFast if as_it_stands else AutoTokenizer
  try:
    found = cls.from_pretrained(str(folder), local_files_only=True)
  except (OSError, ValueError, ImportError) as error:
    reason = str(error).strip().splitlines()[0]
    raise ValueError(f"tokenizer {str(folder)!r}: it could not be opened ({reason})") from error
  return wrap(found, special)


def wrap(tokenizer, special: Sequence[str] = SPECIAL) -> FastTokenizer:
  """Adds what the tokenizer lacks of our special tokens, to it: its own padding, begin and end
  tokens serve as <pad>, <bos>, <eos>; the others are looked up by their text. `special`: all of
  SPECIAL, or the first three where the prompts need no others.
  """
  from transformers import AddedToken

  if not getattr(tokenizer, "is_fast", False):
    raise ValueError(f"{type(tokenizer).__name__} is no fast tokenizer (one with tokenizer.json)")
  vocabulary = tokenizer.get_vocab()
  known = max(vocabulary.values()) + 1
  names = [getattr(tokenizer, name) for name in _NAMED] + [None] * (len(special) - len(_NAMED))
  texts = [s if own is None else str(own) for own, s in zip(names, special, strict=True)]
  new = [t for t in texts if t not in vocabulary]
  if new and len(vocabulary) != known:
    raise ValueError(
      f"the tokenizer lacks {', '.join(new)}, and its ids have holes ({len(vocabulary)} tokens, "
      f"ids to {known - 1}), so that none can be added safely: add them to its files"
    )
  tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in new], True)
  for name, own, text in zip(_NAMED, names, texts, strict=False):
    if own is None:
      setattr(tokenizer, name, text)
  ids = tuple(tokenizer.convert_tokens_to_ids(texts))
  return FastTokenizer(tokenizer, ids, known, tuple(tokenizer.convert_tokens_to_ids(new)))


def train_bpe(
  texts: Iterable[str], *, vocab_size: int, chat_template: str | None = None
) -> FastTokenizer:
  """A byte-level BPE tokenizer (arXiv:1508.07909) trained on texts, say a world's states and
  actions: any text is encoded, and decoded to itself in Unicode's normal form NFC. Special tokens
  are 0..5.

  Text is split into words as Qwen2 does, because `transformers` opens a tokenizer beside a Qwen2
  model so, whatever its files say. The vocabulary is smaller than `vocab_size` where the texts hold
  no more pairs to merge.
  """
  from tokenizers import Tokenizer, models, pre_tokenizers, trainers
  from transformers import Qwen2Tokenizer

  if vocab_size < LEAST:
    raise ValueError(f"vocab_size = {vocab_size}: the special tokens and bytes alone are {LEAST}")
  empty, backend = Qwen2Tokenizer().backend_tokenizer, Tokenizer(models.BPE())
  backend.normalizer, backend.pre_tokenizer = empty.normalizer, empty.pre_tokenizer
  backend.decoder = empty.decoder
  backend.train_from_iterator(
    texts,
    trainers.BpeTrainer(
      vocab_size=vocab_size,
      special_tokens=list(SPECIAL),
      initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
      show_progress=False,
    ),
  )
  return wrap(_transformers_tokenizer(backend, chat_template))


def from_own(tokenizer: WordTokenizer | ByteTokenizer) -> FastTokenizer:
  """The same ids by a tokenizer that can be saved for `transformers`.

  It differs in one thing: `transformers` itself, given a special token's name in a text, takes it
  for that token, which a WordTokenizer (and `FastTokenizer.encode`) refuses.
  """
  from tokenizers import Tokenizer, decoders, models, pre_tokenizers

  ids = {text: i for i, text in enumerate(SPECIAL)}
  if isinstance(tokenizer, WordTokenizer):
    words = {word: tokenizer.encode(word)[0] for word in tokenizer.words}
    backend = Tokenizer(models.WordLevel(ids | words))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  else:
    letters = {_byte_letter(b): b + len(SPECIAL) for b in range(256)}
    backend = Tokenizer(models.BPE(vocab=ids | letters, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
  return wrap(_transformers_tokenizer(backend, None))


def _byte_letter(byte: int) -> str:
  """The letter that byte-level tokenizers write for a byte: itself where Latin-1 prints it, the
  others from U+0100 on, in order.
  """
  printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
  if byte in printed:
    return chr(byte)
  return chr(0x100 + sum(b not in printed for b in range(byte)))


def _transformers_tokenizer(backend, chat_template: str | None):
  from transformers import PreTrainedTokenizerFast

  return PreTrainedTokenizerFast(
    tokenizer_object=backend,
    **dict(zip(_NAMED, SPECIAL, strict=False)),
    extra_special_tokens=list(SPECIAL[len(_NAMED) :]),
    unk_token=SPECIAL[0],  # never produced; without one, Qwen2's class adds a token of its own
    chat_template=chat_template,
    clean_up_tokenization_spaces=False,
  )

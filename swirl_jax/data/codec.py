"""What a world of pictures knows of its tokenizer, and how it draws a state of codes.

Where tokenizers come from (a folder, or training on the world's own pictures) is no matter of data:
`swirl_jax/codecs.py` makes the codec, and `builders.get` hands it to the world.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from swirl_jax.data.image_codes import codes_text, is_code, text_codes

BATCH = 100  # pictures of a small model
_LEAST = 96  # pixels that the shorter side of a drawn picture has at least
_MARK = (255, 0, 255)


def _unknown(_: np.ndarray) -> np.ndarray:
  raise ValueError("this codec is a description: it was made without a folder for its weights.")


@dataclasses.dataclass(frozen=True, eq=False)
class Codec:
  """Pictures ↔ codes.

  size: codes are 0 to size − 1. factor: the pixels a side of the square that one code stands for.
  encode: uint8 [N, H, W, 3] → int32 [N, H / factor, W / factor]; decode: int32 [N, h, w] → uint8
  [N, h · factor, w · factor, 3]. digest: the SHA-256 of what decides the codes; "" while the codec
  is only a description, whose functions raise ValueError.
  """

  size: int
  factor: int
  digest: str = ""
  encode: Callable[[np.ndarray], np.ndarray] = _unknown
  decode: Callable[[np.ndarray], np.ndarray] = _unknown


def in_batches(function: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> np.ndarray:
  """`codec.encode` or `codec.decode` of many rows, `BATCH` at once: one shape, one program. What
  the last batch lacks is filled up with its last row.
  """
  found = []
  for first in range(0, len(rows), BATCH):
    part = rows[first : first + BATCH]
    filled = np.concatenate([part, part[-1:].repeat(BATCH - len(part), 0)])
    found.append(function(filled)[: len(part)])
  return np.concatenate(found)


def decoder(codec: Codec, rows: int, columns: int) -> Callable[[Sequence[str]], np.ndarray]:
  """`World.pictures` of such a world: N states → uint8 [N, height, width, 3], as they are decoded.
  ValueError for a state that isn't `rows` × `columns` codes.
  """

  def pictures(states: Sequence[str]) -> np.ndarray:
    codes = [text_codes(state) for state in states]
    for state, found in zip(states, codes, strict=True):
      if len(found) != rows * columns or found.max() >= codec.size:
        raise ValueError(
          f"the state {state!r}: allowed are {rows * columns} codes below {codec.size}."
        )
    return codec.decode(np.stack(codes).reshape(-1, rows, columns))

  return pictures


def encoder(codec: Codec) -> Callable[[np.ndarray], list[str]]:
  """`World.encode` of such a world: pictures uint8 [N, H, W, 3] → their states as texts."""
  return lambda pictures: [codes_text(codes) for codes in codec.encode(pictures)]


def renderer(codec: Codec, rows: int, columns: int) -> Callable[..., np.ndarray]:
  """`World.render` of a world whose states are `rows` × `columns` codes: (state, marks) → uint8
  [height, width, 3], enlarged by a whole factor where it is small.

  The patches at the positions in `marks` are outlined in magenta. A patch whose word is no code is
  striped, as is a missing one; words past the last make the picture higher, striped. What the
  decoder drew is kept.
  """

  @functools.lru_cache(maxsize=1024)
  def decoded(codes: tuple[int, ...]) -> np.ndarray:
    return codec.decode(np.array(codes, np.int32).reshape(1, rows, columns))[0]

  def render(state: str, marks: Sequence[int] = ()) -> np.ndarray:
    words, count = state.split(), rows * columns
    known = [is_code(w) and int(w[1:-1]) < codec.size for w in words[:count]]
    known += [False] * (count - len(known))
    codes = tuple(int(words[i][1:-1]) if known[i] else 0 for i in range(count))
    picture = decoded(codes)
    scale = max(1, -(-_LEAST // min(picture.shape[:2])))
    picture = picture.repeat(scale, 0).repeat(scale, 1)  # a copy, where scale is 1 too
    side = codec.factor * scale
    further = -(-max(0, len(words) - count) // columns)
    picture = np.pad(picture, ((0, further * side), (0, 0), (0, 0)))
    for i in range(count + further * columns):
      top, left = i // columns * side, i % columns * side
      patch = picture[top : top + side, left : left + side]
      if i >= count or not known[i]:
        patch[:] = (60 + 80 * (np.indices((side, side)).sum(0) // 4 % 2))[..., None]
      if i in marks:
        patch[:2], patch[-2:], patch[:, :2], patch[:, -2:] = [_MARK] * 4
    return picture

  return render

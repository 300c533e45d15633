"""How well a tokenizer keeps what its pictures show."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from swirl_jax.data.codec import Codec, in_batches

MOST_KINDS = 4096  # of patches: more, and they aren't compared as kinds


def measure(codec: Codec, pictures: np.ndarray) -> dict[str, Any]:
  """Of pictures uint8 [N, H, W, 3] and what comes back of them:

  psnr (dB; None where every pixel is right) and exact, the share of pictures that come back bit for
  bit; used, the number of codes that occur, and their perplexity. Where the patches that codes
  stand for are of at most `MOST_KINDS` kinds: kinds, their number; right, the share of patches
  whose reconstruction is nearest (in squared distance) to their own kind, and right_kinds, the mean
  of that share over the kinds; codes_per_kind and kinds_per_code, means, both 1 where code and kind
  are one.
  """
  codes = in_batches(codec.encode, pictures)
  back = in_batches(codec.decode, codes)
  error = np.square(back.astype(np.float64) - pictures).mean()
  shares = np.bincount(codes.reshape(-1)) / codes.size
  shares = shares[shares > 0]
  return {
    "pictures": len(pictures),
    "psnr": float(10 * np.log10(255**2 / error)) if error else None,
    "exact": float((back == pictures).all((1, 2, 3)).mean()),
    "used": len(shares),
    "perplexity": float(np.exp(-(shares * np.log(shares)).sum())),
    **_by_kind(codes.reshape(-1), _patches(pictures, codec.factor), _patches(back, codec.factor)),
  }


def _patches(pictures: np.ndarray, side: int) -> np.ndarray:
  """[N, H, W, 3] → uint8 [N · h · w, side · side · 3], in the order of the codes."""
  n, h, w, c = pictures.shape
  cut = pictures.reshape(n, h // side, side, w // side, side, c).swapaxes(2, 3)
  return np.ascontiguousarray(cut.reshape(-1, side * side * c))


def _by_kind(codes: np.ndarray, truth: np.ndarray, back: np.ndarray) -> dict[str, Any]:
  kinds, kind = np.unique(truth, axis=0, return_inverse=True)
  if len(kinds) > MOST_KINDS:
    return {}
  drawn, which = np.unique(back, axis=0, return_inverse=True)
  a, b = kinds.astype(np.float64), drawn.astype(np.float64)
  away = np.square(a).sum(1) - 2 * b @ a.T  # |b − a|² but for |b|², which is one row's
  right = away.argmin(1)[which.reshape(-1)] == kind.reshape(-1)
  pairs = np.unique(np.stack([kind.reshape(-1), codes], 1), axis=0)
  counts = np.bincount(kind.reshape(-1))
  return {
    "kinds": len(kinds),
    "right": float(right.mean()),
    "right_kinds": float((np.bincount(kind.reshape(-1), right) / counts).mean()),
    "codes_per_kind": len(pairs) / len(kinds),
    "kinds_per_code": len(pairs) / len(np.unique(codes)),
  }


def sheet(pairs: Sequence[tuple[np.ndarray, np.ndarray]], *, scale: int = 3) -> np.ndarray:
  """Originals in the upper row, what came back below, enlarged `scale` times. uint8 [H, W, 3]"""
  rows = [
    np.concatenate([np.pad(p, ((0, 4), (0, 4), (0, 0)), constant_values=255) for p in row], 1)
    for row in zip(*pairs, strict=True)
  ]
  return np.concatenate(rows).repeat(scale, 0).repeat(scale, 1)

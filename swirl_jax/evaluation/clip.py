"""CLIP's opinion of pictures: are they alike, and did they change in the same direction?

CLIP (Radford et al. 2021, arXiv:2103.00020) is run by onnxruntime from a local folder as Hugging
Face's exported ones are laid out: `preprocessor_config.json`, and below the folder or its `onnx/`
`vision_model.onnx` (and `text_model.onnx`, with `tokenizer.json` and `tokenizer_config.json`, where
there are captions), or one `model.onnx` of both. B pictures, D dimensions.
"""

import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from swirl_jax.data.transitions import Record
from swirl_jax.evaluation.pictures import Measure

Captions = Mapping[tuple[str, int], tuple[str, str]]  # (episode, turn) → of x, of y


class Preprocessing(NamedTuple):
  """What CLIP is shown of a picture: the shorter side brought to `short` pixels by PIL's filter
  number `resample`, the middle `crop` × `crop` of it, (pixel · scale − mean) / std.
  """

  short: int
  crop: int
  resample: int
  scale: float
  mean: np.ndarray
  std: np.ndarray

  def __call__(self, pictures: np.ndarray) -> np.ndarray:
    """uint8 [B, H, W, 3] → float32 [B, 3, crop, crop]"""
    return np.stack([self._one(Image.fromarray(picture)) for picture in pictures])

  def _one(self, image: Image.Image) -> np.ndarray:
    least = min(image.size)
    size = tuple(int(self.short * side / least) for side in image.size)
    image = image.resize(size, Image.Resampling(self.resample))
    left, top = ((side - self.crop) // 2 for side in size)
    image = image.crop((left, top, left + self.crop, top + self.crop))
    shown = (np.asarray(image, np.float32) * self.scale - self.mean) / self.std
    return shown.transpose(2, 0, 1).astype(np.float32)


class Clip(NamedTuple):
  """vision, text: ONNX sessions, one and the same where the folder has one model."""

  folder: pathlib.Path
  preprocessing: Preprocessing
  vision: Any
  text: Any
  tokenizer: Any

  def pictures(self, pictures: np.ndarray) -> np.ndarray:
    """Embeddings of unit length. uint8 [B, H, W, 3] → float32 [B, D]"""
    shown = self.preprocessing(pictures)
    return _unit(_run(self.vision, "image_embeds", pixel_values=shown))

  def texts(self, texts: Sequence[str]) -> np.ndarray:
    """The same of texts, each run by itself, so that nothing has to be padded. → float32 [N, D]"""
    ids = [np.array([self.tokenizer.encode(text).ids], np.int64) for text in texts]
    return _unit(np.concatenate([_run(self.text, "text_embeds", input_ids=one) for one in ids]))


def load(folder: str, *, texts: bool = False) -> Clip:
  """The model of a folder, for texts too if asked for. ValueError names what is missing or other
  than allowed, and onnxruntime where it isn't installed.
  """
  root = pathlib.Path(folder)
  preprocessing = _preprocessing(root)
  try:
    import onnxruntime
  except ImportError:
    raise ValueError(
      "CLIP is run by onnxruntime, which isn't installed: pip install -e '.[visual]'."
    ) from None

  @functools.cache
  def session(path: pathlib.Path):
    try:
      return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds
      raise ValueError(f"clip = {folder!r}: {path.name}: {' '.join(str(error).split())}") from None

  found, tokenizer = {"text": None}, None
  for part, output in (("vision", "image_embeds"), ("text", "text_embeds"))[: 2 if texts else 1]:
    path = _model(root, part)
    found[part] = session(path)
    outputs = [o.name for o in found[part].get_outputs()]
    if output not in outputs:
      raise ValueError(f"clip = {folder!r}: the outputs of {path.name} are {', '.join(outputs)}; "
                       f"{output} must be among them.")  # fmt: skip
  if texts:
    tokenizer = _tokenizer(root)
  return Clip(root, preprocessing, found["vision"], found["text"], tokenizer)


def measure(folder: str, captions: Captions | None = None) -> Measure:
  """The scores of CLIP, cosines.

    clip                 of the prediction and the truth
    clip_direction       of how the prediction and how the truth differ from x; 0 where the
                         prediction is x to CLIP, none where the truth is
    clip_text_direction  of how the prediction differs from x and how their captions do, of records
                         that have captions, as `captions` says; none where these are the same

  The last two after Gal et al. 2021 (arXiv:2108.00946).
  """
  clip = load(folder, texts=captions is not None)
  names = ("clip", "clip_direction") + ("clip_text_direction",) * (captions is not None)
  told = functools.lru_cache(maxsize=4096)(lambda text: clip.texts([text])[0])

  def scores(records: Sequence[Record], x, prediction, truth) -> dict[str, np.ndarray]:
    moved = prediction - x
    found = {
      "clip": (prediction * truth).sum(-1), "clip_direction": direction(moved, truth - x),
    }  # fmt: skip
    if captions is not None:
      pairs = [captions.get((r.episode, r.turn)) for r in records]
      change = [np.zeros(x.shape[-1]) if p is None else told(p[1]) - told(p[0]) for p in pairs]
      found["clip_text_direction"] = direction(moved, np.stack(change))
    return found

  return Measure(names, clip.pictures, scores)


def direction(moved: np.ndarray, wanted: np.ndarray) -> np.ndarray:
  """cos(moved, wanted); 0 where nothing moved, NaN where nothing should. [B, D] twice → [B]"""
  lengths = np.linalg.norm(moved, axis=-1) * np.linalg.norm(wanted, axis=-1)
  still, none = (np.linalg.norm(a, axis=-1) < 1e-6 for a in (moved, wanted))
  cosine = (moved * wanted).sum(-1) / np.where(still | none, 1.0, lengths)
  return np.where(none, np.nan, np.where(still, 0.0, cosine))


def read_captions(path: str, records: Sequence[Record]) -> Captions:
  """Of a file of JSON lines {"episode", "turn", "x", "y"}: what is seen in the states x and y of
  that transition. ValueError for another line, and where none of the records has captions.
  """
  found, wanted = {}, {"episode": str, "turn": int, "x": str, "y": str}
  try:
    with open(path, encoding="utf-8") as file:
      lines = file.readlines()
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(f"captions = {path!r}: {error}.") from None
  for number, text in enumerate(lines, 1):
    try:
      line = json.loads(text)
    except json.JSONDecodeError as error:
      raise ValueError(f"captions = {path!r}, line {number}: no JSON ({error}).") from None
    if not isinstance(line, dict) or {k: type(v) for k, v in line.items()} != wanted:
      raise ValueError(
        f"captions = {path!r}, line {number}: {text[:80]!r}; allowed is an object with the texts "
        "episode, x and y and the number turn."
      )
    found[line["episode"], line["turn"]] = (line["x"], line["y"])
  if not any((r.episode, r.turn) in found for r in records):
    raise ValueError(f"captions = {path!r}: none of its {len(found)} lines is of these records.")
  return found


def _run(session, output: str, **given: np.ndarray) -> np.ndarray:
  """One output of a session. What else a model of both pictures and texts asks for is made up: one
  token, a black picture; an output doesn't depend on the other side's input.
  """
  (values,) = given.values()
  count, feed = len(values), {}
  for one in session.get_inputs():
    if one.name in given:
      feed[one.name] = given[one.name]
    elif one.name == "attention_mask":
      feed[one.name] = np.ones(given.get("input_ids", np.ones((count, 1))).shape, np.int64)
    elif one.name == "input_ids":
      feed[one.name] = np.zeros((count, 1), np.int64)
    elif one.name == "pixel_values":
      sides = [side if isinstance(side, int) else 224 for side in one.shape[2:]]
      feed[one.name] = np.zeros((count, 3, *sides), np.float32)
    else:
      raise ValueError(f"clip: the model asks for {one.name}, which isn't known.")
  return session.run([output], feed)[0]


def _unit(embeddings: np.ndarray) -> np.ndarray:
  return embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)


def _model(root: pathlib.Path, part: str) -> pathlib.Path:
  names = [f"{part}_model.onnx", "model.onnx"]
  found = [p for n in names for p in (root / "onnx" / n, root / n) if p.is_file()]
  if not found:
    raise ValueError(
      f"clip = {str(root)!r}: neither {' nor '.join(names)} there or in onnx/; allowed is a folder "
      "as Hugging Face's exported CLIP models are laid out."
    )
  return found[0]


def _json(root: pathlib.Path, name: str) -> dict[str, Any]:
  try:
    return json.loads((root / name).read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise ValueError(f"clip = {str(root)!r}: {name}: {error}.") from None


def _preprocessing(root: pathlib.Path) -> Preprocessing:
  """ValueError for a way of preparing pictures that is not CLIP's."""
  c = _json(root, "preprocessor_config.json")

  def refuse(name: str, allowed: str):
    raise ValueError(f"clip = {str(root)!r}: preprocessor_config.json: {name} is {c.get(name)!r}; "
                     f"allowed is {allowed}.")  # fmt: skip

  for name in ("do_resize", "do_center_crop", "do_rescale", "do_normalize"):
    if c.get(name, True) is not True:
      refuse(name, "true")
  size, crop = c.get("size"), c.get("crop_size")
  short = size.get("shortest_edge") if isinstance(size, dict) else size
  if type(short) is not int:
    refuse("size", "a number of pixels, or shortest_edge with one")
  sides = [crop.get("height"), crop.get("width")] if isinstance(crop, dict) else [crop, crop]
  if type(sides[0]) is not int or sides[0] != sides[1] or not 0 < sides[0] <= short:
    refuse("crop_size", f"a square of at most size = {short} pixels a side")
  for name in ("image_mean", "image_std"):
    value = c.get(name)
    if not isinstance(value, list) or len(value) != 3:
      refuse(name, "three numbers")
  mean, std = (np.array(c[name], np.float32) for name in ("image_mean", "image_std"))
  return Preprocessing(short, sides[0], c.get("resample", 3), c.get("rescale_factor", 1 / 255),
                       mean, std)  # fmt: skip


def _tokenizer(root: pathlib.Path):
  import tokenizers

  longest = _json(root, "tokenizer_config.json").get("model_max_length")
  if type(longest) is not int:
    raise ValueError(f"clip = {str(root)!r}: tokenizer_config.json: model_max_length is "
                     f"{longest!r}; allowed is a number of tokens.")  # fmt: skip
  _json(root, "tokenizer.json")
  tokenizer = tokenizers.Tokenizer.from_file(str(root / "tokenizer.json"))
  tokenizer.enable_truncation(longest)
  tokenizer.no_padding()
  return tokenizer

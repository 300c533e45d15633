"""CLIP's scores, run by onnxruntime on models that the tests build: a picture's embedding is its
mean colour, a text's the one-hot of its last token.
"""

import dataclasses
import json

import numpy as np
import pytest
import tokenizers
from PIL import Image

from swirl_jax.data.transitions import Record
from swirl_jax.evaluation import clip

MEAN, STD = [0.5, 0.25, 0.0], [0.5, 0.25, 1.0]
PREPROCESSING = {
  "do_resize": True, "do_center_crop": True, "do_rescale": True, "do_normalize": True,
  "size": {"shortest_edge": 8}, "crop_size": {"height": 4, "width": 4}, "resample": 3,
  "rescale_factor": 1 / 255, "image_mean": MEAN, "image_std": STD,
}  # fmt: skip
WORDS = ("red", "green", "blue")
COLORS = np.array([[200, 60, 20], [40, 250, 30], [10, 20, 240]], np.uint8)


def solid(*colors, size=(10, 20)):
  return np.stack([np.broadcast_to(COLORS[WORDS.index(c)], (*size, 3)) for c in colors])


def unit(color):
  """A solid picture's embedding by hand."""
  shown = (COLORS[WORDS.index(color)] / 255 - MEAN) / STD
  return shown / np.linalg.norm(shown)


def models():
  """{file: ONNX model}"""
  onnx = pytest.importorskip("onnx")
  pytest.importorskip("onnxruntime")
  h, t = onnx.helper, onnx.TensorProto

  def model(nodes, inputs, outputs, constants):
    graph = h.make_graph(nodes, "tiny", inputs, outputs, constants)
    return h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)

  axes = [2, 3]
  vision = h.make_node("ReduceMean", ["pixel_values"], ["image_embeds"], axes=axes, keepdims=0)
  pixels = h.make_tensor_value_info("pixel_values", t.FLOAT, ["n", 3, 4, 4])
  seen = h.make_tensor_value_info("image_embeds", t.FLOAT, ["n", 3])
  words = h.make_tensor_value_info("input_ids", t.INT64, ["n", "s"])
  mask = h.make_tensor_value_info("attention_mask", t.INT64, ["n", "s"])
  read = h.make_tensor_value_info("text_embeds", t.FLOAT, ["n", 3])
  text = [
    h.make_node("Mul", ["input_ids", "attention_mask"], ["ids"]),
    h.make_node("Slice", ["ids", "last", "end", "one"], ["word"]),
    h.make_node("Squeeze", ["word", "one"], ["flat"]),
    h.make_node("OneHot", ["flat", "depth", "values"], ["text_embeds"], axis=-1),
  ]
  ints = {"last": [-1], "end": [2**31], "one": [1], "depth": [3]}
  constants = [h.make_tensor(n, t.INT64, [1], v) for n, v in ints.items()]
  constants.append(h.make_tensor("values", t.FLOAT, [2], [0.0, 1.0]))
  return {
    "vision_model.onnx": model([vision], [pixels], [seen], []),
    "text_model.onnx": model(text, [words, mask], [read], constants),
    "model.onnx": model([vision, *text], [words, mask, pixels], [seen, read], constants),
  }


def write(folder, *names, **changes):
  """A folder with those models, and a tokenizer of three words."""
  built = models()
  (folder / "onnx").mkdir(parents=True)
  for name in names:
    (folder / "onnx" / name).write_bytes(built[name].SerializeToString())
  (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSING | changes))
  words = tokenizers.Tokenizer(
    tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="red")
  )
  words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  words.save(str(folder / "tokenizer.json"))
  (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 2}))
  return str(folder)


def records(count=1):
  return [Record("x", "y", "z", f"e{i}", 0, "a", "l") for i in range(count)]


def score(measure, x, prediction, truth):
  found = measure.scores(records(len(x)), *map(measure.features, (x, prediction, truth)))
  assert tuple(found) == measure.names
  return {name: np.asarray(values).tolist() for name, values in found.items()}


@pytest.mark.visual
@pytest.mark.parametrize("names", [("vision_model.onnx", "text_model.onnx"), ("model.onnx",)])
def test_scores_by_hand(tmp_path, names):
  """Two models or one of both; the third of the texts is cut to two tokens, "blue red"."""
  folder = write(tmp_path / "clip", *names)
  captions = {("e0", 0): ("a red", "a green"), ("e2", 0): ("green", "blue red blue")}
  measure = clip.measure(folder, captions)
  x, said, truth = (solid(*c) for c in (
    ("red", "red", "green", "red"), ("blue", "red", "blue", "blue"),
    ("green", "green", "blue", "red")))  # fmt: skip
  found = score(measure, x, said, truth)
  red, green, blue = map(unit, WORDS)

  def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

  assert found["clip"] == pytest.approx([blue @ green, red @ green, 1.0, blue @ red], abs=1e-5)
  directions = found["clip_direction"]
  assert directions[:3] == pytest.approx([cosine(blue - red, green - red), 0.0, 1.0], abs=1e-5)
  assert np.isnan(directions[3])  # nothing was to change
  eye, texts = np.eye(3), found["clip_text_direction"]
  assert texts[0] == pytest.approx(cosine(blue - red, eye[1] - eye[0]), abs=1e-5)
  assert texts[2] == pytest.approx(cosine(blue - green, eye[0] - eye[1]), abs=1e-5)
  assert np.isnan(texts[1]) and np.isnan(texts[3])  # no captions


@pytest.mark.visual
def test_without_captions_there_is_no_text_model(tmp_path):
  folder = write(tmp_path / "clip", "vision_model.onnx")
  found = score(clip.measure(folder), *(solid(c) for c in ("red", "green", "green")))
  assert found["clip"] == pytest.approx([1.0]) and set(found) == {"clip", "clip_direction"}
  with pytest.raises(ValueError, match=r"neither text_model.onnx nor model.onnx there or in onnx/"):
    clip.measure(folder, {})


@pytest.mark.visual
def test_refused_models(tmp_path):
  folder = write(tmp_path / "clip", "text_model.onnx")
  with pytest.raises(ValueError, match="neither vision_model.onnx nor model.onnx"):
    clip.load(folder)
  (tmp_path / "clip/onnx/text_model.onnx").rename(tmp_path / "clip/vision_model.onnx")
  with pytest.raises(ValueError, match="the outputs of vision_model.onnx are text_embeds; im"):
    clip.load(folder)
  (tmp_path / "clip/vision_model.onnx").write_bytes(b"none")
  with pytest.raises(ValueError, match="clip = .*vision_model.onnx: "):
    clip.load(folder)


@pytest.mark.parametrize("change, complaint", [
  ({"size": {"height": 8}}, "size is {'height': 8}; allowed is a number of pixels"),
  ({"crop_size": 9}, "crop_size is 9; allowed is a square of at most size = 8"),
  ({"do_center_crop": False}, "do_center_crop is False; allowed is true"),
  ({"image_std": 1}, "image_std is 1; allowed is three numbers"),
])  # fmt: skip
def test_refused_preprocessing(tmp_path, change, complaint):
  (tmp_path / "preprocessor_config.json").write_text(json.dumps(PREPROCESSING | change))
  with pytest.raises(ValueError, match=complaint):
    clip.load(str(tmp_path))
  (tmp_path / "preprocessor_config.json").unlink()
  with pytest.raises(ValueError, match="clip = .*preprocessor_config.json: .*No such file"):
    clip.load(str(tmp_path))


def test_preprocessing_by_hand(tmp_path):
  """The shorter side becomes 8 and the middle 4 × 4 is left: of a picture whose columns are steps
  of one size, those in the middle.
  """
  (tmp_path / "preprocessor_config.json").write_text(json.dumps(
    PREPROCESSING | {"size": 8, "crop_size": 4, "resample": 0}))  # fmt: skip
  prepare = clip._preprocessing(tmp_path)
  picture = np.zeros((16, 32, 3), np.uint8) + 8 * np.arange(32, dtype=np.uint8).reshape(1, 32, 1)
  found = prepare(picture[None])
  assert found.shape == (1, 3, 4, 4) and found.dtype == np.float32
  columns = 8 * np.arange(32)[1::2][6:10]  # by nearest neighbours, of 16 the middle four
  for c in range(3):
    expected = np.broadcast_to((columns / 255 - MEAN[c]) / STD[c], (4, 4))
    np.testing.assert_allclose(found[0, c], expected, rtol=1e-5)
  tall = prepare(picture.transpose(1, 0, 2)[None])
  np.testing.assert_array_equal(tall, found.transpose(0, 1, 3, 2))


def test_preprocessing_of_sides_that_do_not_divide_and_of_an_old_folder(tmp_path):
  """8 · 13 / 7 = 14.9 pixels are 14, as in transformers; openai's own folders name no factor, and
  pixels are then divided by 255.
  """
  old = {k: v for k, v in PREPROCESSING.items() if k not in ("rescale_factor", "resample")}
  (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
  picture = np.random.default_rng(0).integers(0, 256, (7, 13, 3)).astype(np.uint8)
  found = clip._preprocessing(tmp_path)(picture[None])[0]
  wide = np.asarray(Image.fromarray(picture).resize((14, 8), Image.Resampling.BICUBIC))
  expected = (wide[2:6, 5:9] / 255 - MEAN) / STD
  np.testing.assert_allclose(found, expected.transpose(2, 0, 1), rtol=1e-5, atol=1e-6)


def test_direction():
  """Rows: 45°, nothing moved, nothing should, neither."""
  moved, wanted = (np.array(v, float) for v in (
    [[2, 0], [0, 0], [1, 0], [0, 0]], [[3, 3], [1, 0], [0, 0], [0, 0]]))  # fmt: skip
  found = clip.direction(moved, wanted)
  assert found[:2] == pytest.approx([np.sqrt(0.5), 0.0]) and np.isnan(found[2:]).all()


def test_captions(tmp_path):
  path, mine = tmp_path / "captions.jsonl", records(2)
  line = {"episode": "e1", "turn": 0, "x": "a cat", "y": "a dog"}
  path.write_text(json.dumps(line) + "\n")
  assert clip.read_captions(str(path), mine) == {("e1", 0): ("a cat", "a dog")}
  other = [dataclasses.replace(r, turn=1) for r in mine]
  with pytest.raises(ValueError, match="none of its 1 lines is of these records"):
    clip.read_captions(str(path), other)
  for bad, complaint in (("{", "line 2: no JSON"), ('{"x": 1}', "line 2: .* allowed is an object")):
    path.write_text(json.dumps(line) + "\n" + bad)
    with pytest.raises(ValueError, match=complaint):
      clip.read_captions(str(path), mine)
  with pytest.raises(ValueError, match="captions = .*No such file"):
    clip.read_captions(str(tmp_path / "missing"), mine)

"""Pictures before a judge: which files are taken, what is sent of them, and that it arrives."""

import base64
import io
import json

import judge_server as js
import numpy as np
import pytest
from PIL import Image
from test_judge import command, finished, written

from swirl_jax.evaluation import judge, judge_pictures
from swirl_jax.evaluation.judge_templates import TEMPLATES


def draw(path, width=8, height=8, colour=(10, 200, 30), **saving):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new("RGB", (width, height), colour).save(path, **saving)
  return path


def sent(part):
  """A part's picture and its bytes."""
  assert part["type"] == "image_url"
  head, encoded = part["image_url"]["url"].split(",")
  data = base64.b64decode(encoded)
  opened = Image.open(io.BytesIO(data))
  assert head == f"data:image/{opened.format.lower()};base64"
  return opened, data


def pictures(folder, *names, longest=16):
  return judge_pictures.named({"images": list(names)}, folder, longest)


def test_a_plain_picture_that_fits_is_sent_byte_for_byte(tmp_path):
  for name in ("a.png", "a.jpg"):
    path = draw(tmp_path / name, 16, 12)
    (part,) = pictures(tmp_path, name)()
    assert sent(part)[1] == path.read_bytes()
  assert pictures(tmp_path, str(path))() == [part]  # by its absolute path


def test_what_does_not_fit_is_scaled_down_and_other_kinds_become_png(tmp_path):
  half = np.zeros((20, 40, 3), np.uint8)
  half[:, 20:] = 250
  Image.fromarray(half).save(tmp_path / "wide.png")
  opened, _ = sent(pictures(tmp_path, "wide.png")()[0])
  assert (opened.format, opened.size) == ("PNG", (16, 8))
  for width, height, size in ((40, 8, (16, 3)), (8, 40, (3, 16)), (100, 1, (16, 1))):
    draw(tmp_path / "long.png", width, height)
    assert sent(pictures(tmp_path, "long.png")()[0])[0].size == size
  assert np.asarray(opened)[:, 0].max() < 10 and np.asarray(opened)[:, -1].min() > 240
  draw(tmp_path / "a.bmp", 4, 4)
  Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
  red = Image.new("RGB", (4, 4), (255, 0, 0))
  red.save(tmp_path / "key.png", transparency=(255, 0, 0))
  Image.new("CMYK", (4, 4), (0, 0, 0, 0)).save(tmp_path / "ink.jpg")  # no ink
  Image.new("L", (4, 4), 70).save(tmp_path / "grey.png")
  white = (255, 255, 255)
  for name, colour in (("a.bmp", (10, 200, 30)), ("clear.png", white), ("key.png", white),
                       ("ink.jpg", white), ("grey.png", (70, 70, 70))):  # fmt: skip
    opened, _ = sent(pictures(tmp_path, name)()[0])
    assert (opened.format, opened.mode, opened.getpixel((3, 3))) == ("PNG", "RGB", colour)
  turned = Image.Exif()
  turned[0x0112] = 6
  draw(tmp_path / "turned.jpg", 8, 4, exif=turned)
  assert sent(pictures(tmp_path, "turned.jpg")()[0])[0].size == (4, 8)


def test_a_strip_by_hand(tmp_path):
  """Half of the longest side each, one height, 8 pixels of white between."""
  for name, colour, size in (("a", (200, 0, 0), (8, 8)), ("b", (0, 200, 0), (32, 16)),
                             ("c", (0, 0, 200), (4, 4))):  # fmt: skip
    draw(tmp_path / f"{name}.png", *size, colour)
  found = pictures(tmp_path, "a.png", "b.png", "c.png")
  assert [path.name for path in found.larger] == ["b.png"]
  strip = np.asarray(sent(found()[0])[0])
  assert strip.shape == (4, 4 + 8 + 8 + 8 + 4, 3)  # b is 8 × 4
  for at, colour in ((0, (200, 0, 0)), (4, (255,) * 3), (12, (0, 200, 0)), (20, (255,) * 3),
                     (28, (0, 0, 200))):  # fmt: skip
    np.testing.assert_array_equal(strip[0, at], colour)
    np.testing.assert_array_equal(strip[-1, at + 3], colour)


def test_what_is_told(tmp_path):
  for name, side in (("a.png", 8), ("b.png", 20), ("c.png", 30)):
    draw(tmp_path / name, side, side)
  fields = [pictures(tmp_path, "a.png"), "text", None, pictures(tmp_path, "b.png"),
            pictures(tmp_path, "c.png", "b.png")]  # fmt: skip
  assert judge_pictures.told(fields, 16) == {"files": 3, "scaled_down": 2, "longest_side": 16}
  draw(tmp_path / "d.png", 12, 12)  # fits alone, and not into half of 16 pixels
  assert judge_pictures.told([pictures(tmp_path, "d.png")], 16)["scaled_down"] == 0
  assert judge_pictures.told([pictures(tmp_path, "d.png", "a.png")], 16)["scaled_down"] == 1


def line(**fields):
  shown = {name: {"images": [f"{name}.png"]} for name in ("x", "y", "prediction")}
  return shown | {"z": "turn"} | fields


@pytest.mark.parametrize(
  ("bad", "what"),
  [
    (line(x={"images": ["gone.png"]}), "x is .*gone.png.*: picture '.*gone.png' must be a file"),
    (line(y={"images": ["y.png", "cut.png"]}), "y is .*cut.png' is a PNG picture .* must be whole"),
    (line(prediction={"images": ["text.png"]}), "prediction is .*text.png' has .* must be a pict"),
    (line(x={"images": []}), 'x is .*: must be text or {"images": .*one file or more'),
    (line(x={"image": "x.png"}), 'x is .*: must be text or {"images"'),
    (line(x={"images": ["x.png"], "alt": "a"}), 'x is .*: must be text or {"images"'),
    (line(x={"images": ["x.png", 3]}), "x is .*: must name its files by text"),
    (line(x={"images": "x.png"}), 'x is .*: must be text or {"images"'),
  ],
)
def test_a_bad_picture_is_named_by_line_and_field(tmp_path, bad, what):
  for name in ("x", "y", "prediction"):
    draw(tmp_path / f"{name}.png")
  whole = draw(tmp_path / "cut.png", 64, 64).read_bytes()
  (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
  (tmp_path / "text.png").write_text("no picture")
  path = written(tmp_path / "p.jsonl", [line(), bad])
  with pytest.raises(ValueError, match=rf"p\.jsonl, line 2: .*{what}"):
    judge.read_predictions(path, TEMPLATES["aurora"])


def test_only_aurora_does_without_the_truth(tmp_path):
  for name in ("x", "prediction"):
    draw(tmp_path / f"{name}.png")
  path = written(tmp_path / "p.jsonl", [{k: v for k, v in line().items() if k != "y"}])
  (found,) = judge.read_predictions(path, TEMPLATES["aurora"])
  assert found.y is None and found.z == "turn"
  with pytest.raises(ValueError, match="line 1: y is missing, must be text or pictures"):
    judge.read_predictions(path, TEMPLATES["bytemorph"])
  with pytest.raises(ValueError, match="longest_side is 1, must be 2 pixels or more"):
    judge.read_predictions(path, TEMPLATES["aurora"], longest=1)


@pytest.mark.multiprocess
def test_the_command_sends_pictures_or_nothing(tmp_path):
  """A strip of the truth, one of the prediction, x: in their places. And with a file cut, not one
  request."""
  colours = {"x": (1, 2, 3), "y1": (9, 0, 0), "y2": (0, 9, 0), "p1": (0, 0, 9), "p2": (9, 9, 0)}
  for name, colour in colours.items():
    draw(tmp_path / "shown" / f"{name}.png", 600, 600, colour)
  files = lambda *names: {"images": [f"shown/{n}.png" for n in names]}  # noqa: E731
  rows = [{"x": files("x"), "z": "1. go\n2. stop", "y": files("y1", "y2"),
           "prediction": files("p1", "p2"), "episode": 1}]  # fmt: skip
  path = written(tmp_path / "p.jsonl", rows)
  (tmp_path / "shown" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
  bad = written(tmp_path / "bad.jsonl", rows + [rows[0] | {"x": files("broken")}])
  given = ("--template=worldprediction",)
  with js.serving({"": [js.scores(6)]}) as server:
    refused = command(server.url, bad, tmp_path / "bad", *given)
    code, _, err = finished(refused)
    assert code == 1 and "bad.jsonl, line 2: x is" in err and "Traceback" not in err
    assert not server.log
    code, _, err = finished(command(server.url, path, tmp_path / "out", *given))
    assert code == 0, err
    ((_, _, _, body),) = server.log
  content = body["messages"][1]["content"]
  kinds = ["text", "image_url", "text", "image_url", "text", "image_url", "text"]
  assert [part["type"] for part in content] == kinds
  x, y, prediction = (sent(content[i])[0] for i in (1, 3, 5))
  assert x.size == (512, 512) and x.getpixel((5, 5)) == colours["x"]
  for strip, names in ((y, ("y1", "y2")), (prediction, ("p1", "p2"))):
    assert strip.size == (2 * 256 + 8, 256)
    assert [strip.getpixel((at, 5)) for at in (5, 500)] == [colours[name] for name in names]
  assert "1. go\n2. stop" in content[2]["text"] and "truly followed" in content[2]["text"]
  found = json.loads((tmp_path / "out" / "summary.json").read_text())
  assert found["all"]["score"] == 6 and found["scale"] == [0, 10]
  assert found["pictures"] == {"files": 5, "scaled_down": 5, "longest_side": 512}

"""Pictures and videos that tests draw, and what the command makes of them."""

import fractions
import io
import json

import numpy as np
from PIL import Image

from swirl_jax.data import tokenized
from swirl_jax.data.official import __main__ as command


def picture(path, grey=0, size=(8, 6)):
  """A file of one grey; its path."""
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new("RGB", size, (grey,) * 3).save(path)
  return path


def data(grey=0, kind="PNG"):
  """The bytes of such a file."""
  file = io.BytesIO()
  Image.new("RGB", (8, 6), (grey,) * 3).save(file, format=kind)
  return file.getvalue()


def grey(path):
  """The first pixel's red, to which a file of one grey comes down."""
  with Image.open(path) as image:
    return image.convert("RGB").getpixel((0, 0))[0]


def video(path, frames=20, rate=10, begin=0):
  """A video whose frame n < 25 has grey 10 n (lossless in .mkv), with a key frame in ten. Its clock
  shows `begin` frames at the first one.
  """
  import av

  path.parent.mkdir(parents=True, exist_ok=True)
  codec, layout = ("ffv1", "gray") if path.suffix == ".mkv" else ("mpeg4", "yuv420p")
  with av.open(str(path), "w") as container:
    stream = container.add_stream(codec, rate=rate)
    stream.width, stream.height, stream.pix_fmt = 32, 32, layout
    stream.codec_context.gop_size = 10
    for n in range(frames):
      pixels = np.full((32, 32, 3), 10 * n % 250, np.uint8)
      frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
      frame.pts, frame.time_base = begin + n, fractions.Fraction(1, rate)
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  return path


def lines(path):
  if not path.exists():
    return []
  return [json.loads(line) for line in path.read_text().splitlines()]


def converted(name, folder, out, **settings):
  """What the command wrote: the lines, {set: its lines}, and the counts, {reason: records}.

  The reader of the tokenizing job accepts the lines, and every picture of theirs is there.
  """
  out.parent.mkdir(parents=True, exist_ok=True)
  command.run(name, str(folder), str(out), **settings)
  found = lines(out)
  if found:
    assert len(tokenized.read_lines(out, name="lines")[1]) == len(found)
  sets = {to: lines(out.with_suffix(f".{to}.jsonl")) for to in ("candidates", "actions")}
  for line in [*found, *sets["candidates"], *sets["actions"]]:
    paths = [line["x"], *([line["y"]] if "y" in line else [])]
    if "z" in line and "candidates" in line:
      paths += line["candidates"]
    assert all((out.parent / path).is_file() for path in paths), line
  counts = json.loads(out.with_suffix(".counts.json").read_text())
  kept = {**counts["kept"]}
  for to, written in sets.items():
    assert sum(kept.pop(to, {}).values()) == len(written)
  assert sum(n for levels in kept.values() for n in levels.values()) == len(found)
  left = {reason: n["records"] for reason, n in counts["left_out"].items()}
  return found, sets, left, counts

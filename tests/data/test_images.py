"""Pictures of every kind become RGB squares, and what is no picture is one error."""

import io
import os
import pathlib
import struct
import zlib

import jax
import numpy as np
import pytest
from PIL import Image

from swirl_jax.data import images

RGB = np.random.default_rng(0).integers(0, 256, size=(6, 9, 3), dtype=np.uint8)


def encoded(image, kind="PNG", **options):
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


def opened(data):
  image = images.open_image(data, name="a.png")
  assert image.mode == "RGB"
  return np.asarray(image)


def png(width, height, *, depth=8, colour=2, rows=b"", key=None):
  """A PNG with a true header, whatever its rows are."""

  def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

  header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
  parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
  if key is not None:
    parts.insert(1, (b"tRNS", key))
  return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


# -- to RGB --------------------------------------------------------------------------------------


def test_a_path_and_its_bytes_are_the_same_picture(tmp_path):
  data = encoded(Image.fromarray(RGB))
  path = tmp_path / "a.png"
  path.write_bytes(data)
  np.testing.assert_array_equal(opened(data), RGB)
  np.testing.assert_array_equal(np.asarray(images.open_image(path, name="a")), RGB)


@pytest.mark.parametrize("kind", ["BMP", "PPM", "TIFF", "GIF", "WEBP", "JPEG"])
def test_formats(kind):
  flat = Image.new("RGB", (8, 8), (250, 10, 20))
  options = {"lossless": True} if kind == "WEBP" else {}
  np.testing.assert_allclose(opened(encoded(flat, kind, **options)), np.asarray(flat), atol=2)


def test_grey_and_palette_and_two_colours():
  grey = Image.fromarray(RGB[..., 0])
  np.testing.assert_array_equal(opened(encoded(grey)), np.repeat(RGB[..., :1], 3, -1))
  palette = Image.fromarray(RGB).convert("P")
  found = opened(encoded(palette))
  np.testing.assert_array_equal(found, np.asarray(palette.convert("RGB")))
  two = Image.fromarray(RGB[..., 0] > 100)
  np.testing.assert_array_equal(opened(encoded(two))[..., 0], 255 * (RGB[..., 0] > 100))


def test_cmyk():
  ink = Image.new("CMYK", (8, 8), (255, 0, 0, 0))  # cyan
  np.testing.assert_array_equal(opened(encoded(ink, "TIFF"))[0, 0], (0, 255, 255))


def test_the_high_byte_of_sixteen_bits_counts():
  values = np.array([[0, 255, 256], [0x1234, 0xFEFF, 0xFFFF]], np.uint16)
  wide = encoded(Image.fromarray(values))
  np.testing.assert_array_equal(opened(wide)[..., 0], [[0, 0, 1], [0x12, 0xFE, 0xFF]])
  rows = b"".join(b"\0" + struct.pack(">3H", 0x1234, 0xFEFF, n) for n in (0, 0xFFFF))
  colour = png(1, 2, depth=16, rows=rows)  # red, green, blue of 16 bits
  np.testing.assert_array_equal(opened(colour)[:, 0], [[0x12, 0xFE, 0], [0x12, 0xFE, 0xFF]])


def test_what_is_transparent_lies_on_white():
  """(1 − α) 255 + α v, cut to whole numbers, as Chameleon's tokenizer has it."""
  rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [100, 0, 201, 128]]], np.uint8)
  expected = [[10, 20, 30], [255, 255, 255], [177, 127, 227]]
  for kind in ("PNG", "TIFF"):
    np.testing.assert_array_equal(opened(encoded(Image.fromarray(rgba), kind))[0], expected)
  grey = Image.fromarray(np.array([[[10, 255], [10, 0]]], np.uint8), "LA")
  np.testing.assert_array_equal(opened(encoded(grey))[0, :, 0], [10, 255])
  palette = Image.new("P", (2, 1))
  palette.putpalette([9, 8, 7, 1, 2, 3])
  palette.putdata([0, 1])
  found = opened(encoded(palette, transparency=1))
  np.testing.assert_array_equal(found[0], [[9, 8, 7], [255, 255, 255]])
  wide = png(3, 1, depth=16, colour=0, rows=b"\0" + struct.pack(">3H", 0x1234, 0x1235, 0x8000),
             key=struct.pack(">H", 0x1234))  # fmt: skip
  np.testing.assert_array_equal(opened(wide)[0, :, 0], [255, 0x12, 0x80])


def test_a_cameras_orientation_is_applied():
  exif = Image.Exif()
  exif[0x0112] = 6  # the top of what was seen is the right of what is stored
  found = opened(encoded(Image.fromarray(RGB), exif=exif))
  np.testing.assert_array_equal(found, np.rot90(RGB, -1))


def test_a_cameras_previews_are_no_frames():
  first, second = Image.new("RGB", (8, 8), (200, 0, 0)), Image.new("RGB", (4, 4))
  data = encoded(first, "MPO", save_all=True, append_images=[second])
  np.testing.assert_allclose(opened(data)[0, 0], (200, 0, 0), atol=2)


# -- what is refused -----------------------------------------------------------------------------

JPEG = encoded(Image.fromarray(RGB).resize((64, 64)), "JPEG")
FRAMES = {"save_all": True, "append_images": [Image.fromarray(255 - RGB)]}


@pytest.mark.parametrize(
  ("data", "kind", "said"),
  [
    (b"", "no picture", "a.png has no bytes, must be a picture of one pixel or more: BMP, "),
    (b"hello world", "no picture", "a.png has 11 bytes that begin with b'hello wo', must be"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture", "begin with b'%!PS-Ado'"),
    (JPEG[:-200], "corrupt", "a.png is a JPEG picture of 64 x 64 that must be whole: "),
    (encoded(Image.fromarray(RGB))[:60], "corrupt", "a.png is a PNG picture of 9 x 6 that must"),
    (png(9, 6, rows=b"\0"), "corrupt", "a.png is a PNG picture of 9 x 6 that must be whole: "),
    (png(0, 6), "no picture", "must be a picture of one pixel or more: BMP, GIF"),
    (png(12_000, 5), "too large", "is 12000 x 5 pixels, 144000000 as a square; allowed are 1000"),
    (png(10_001, 9_000), "too large", "a.png is 10001 x 9000 pixels, 100020001 as a square; "),
    (png(60_000, 60_000), "too large", "a.png has 3600000000 pixels, allowed are 100000000"),
    (encoded(Image.fromarray(RGB), "GIF", **FRAMES), "animated", "is a GIF of 2 frames, must have"),
    (encoded(Image.fromarray(RGB), "PNG", **FRAMES), "animated", "is a PNG of 2 frames"),
    (encoded(Image.fromarray(RGB), "WEBP", **FRAMES), "animated", "is a WEBP of 2 frames"),
    (encoded(Image.fromarray(RGB), "TIFF", **FRAMES), "animated", "is a TIFF of 2 frames"),
    (encoded(Image.new("F", (2, 2)), "TIFF"), "no colours", "has numbers with a fraction"),
    (encoded(Image.new("I", (2, 2), 70_000), "TIFF"), "no colours", "has values from 70000 to 700"),
  ],
)
def test_what_is_refused(data, kind, said):
  with pytest.raises(images.Unreadable) as error:
    images.open_image(data, name="a.png")
  assert said in str(error.value) and error.value.kind == kind


@pytest.mark.parametrize("path", ["none.png", ".", "nul\0l.png"])
def test_what_is_no_file(tmp_path, path):
  with pytest.raises(images.Unreadable, match="^a.png must be a file that can be read: ") as error:
    images.open_image(os.path.join(tmp_path, path), name="a.png")
  assert error.value.kind == "missing"


def test_the_greatest_picture_is_read():
  rows = b"\0" + b"\7" * 30_000
  assert opened(png(10_000, 1, rows=rows)).shape == (1, 10_000, 3)


def test_a_worker_returns_the_refusal(tmp_path):
  (tmp_path / "a.png").write_bytes(encoded(Image.fromarray(RGB)))
  found = images.read(str(tmp_path / "a.png"), "a.png", 16)
  assert found.pixels.shape == (16, 16, 3) and not found.kind
  found = images.read(str(tmp_path / "b.png"), "b.png", 16)
  assert found.pixels is None and found.kind == "missing" and found.reason.startswith("b.png must")


# -- prepared ------------------------------------------------------------------------------------


def test_a_wide_and_a_high_picture_are_padded_in_the_middle():
  """7 x 4: one row above and two below; 4 x 7 the same, turned."""
  picture = np.full((4, 7, 3), 200, np.uint8)
  expected = np.broadcast_to(np.uint8([122, 116, 104]), (7, 7, 3)).copy()
  expected[1:5] = 200
  np.testing.assert_array_equal(images.prepare(Image.fromarray(picture), 7), expected)
  turned = picture.transpose(1, 0, 2).copy()
  np.testing.assert_array_equal(
    images.prepare(Image.fromarray(turned), 7), expected.transpose(1, 0, 2)
  )


def test_resizing_is_lanczos():
  square = Image.fromarray(RGB[:, :6])
  expected = np.asarray(square.resize((4, 4), Image.Resampling.LANCZOS))
  found = images.prepare(square, 4)
  np.testing.assert_array_equal(found, expected)
  assert found.dtype == np.uint8
  np.testing.assert_array_equal(images.prepare(square, 6), RGB[:, :6])  # its own size: as it is


def test_pixels_and_back():
  values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
  pixels = images.to_pixels(values)
  assert pixels.dtype == np.float32 and pixels.min() == -1 and pixels.max() == 1
  np.testing.assert_array_equal(images.to_uint8(pixels), values)
  np.testing.assert_array_equal(images.to_uint8(np.float32([-3, -1, 0, 0.999, 5])),
                                [0, 0, 128, 255, 255])  # fmt: skip
  there = jax.jit(images.to_pixels)(values)
  assert there.dtype == np.float32
  np.testing.assert_allclose(there, pixels, rtol=0, atol=1.2e-7)
  np.testing.assert_array_equal(jax.jit(images.to_uint8)(there), values)


@pytest.mark.skipif("SWIRL_OFFICIAL_DATA" not in os.environ, reason="needs official records")
def test_auroras_own_pictures():
  folder = pathlib.Path(os.environ["SWIRL_OFFICIAL_DATA"]) / "aurora-bench" / "data"
  found = [path for path in sorted(folder.rglob("*")) if path.suffix in (".jpg", ".png")]
  for path in found[::8]:
    assert images.read(str(path), path.name, 64).pixels.shape == (64, 64, 3)
  assert found

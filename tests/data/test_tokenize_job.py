"""The job that tokenises pictures: what it writes and refuses, and that a kill doesn't show."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from swirl_jax.data import images, tokenize_job, tokenized
from swirl_jax.data.codec import Codec

ROOT = pathlib.Path(__file__).resolve().parents[2]
SIZE, FACTOR, CODES = 8, 4, 300


def encode(pixels):
  """The mean of a patch of 4 x 4, red and a little green: one code a patch."""
  n = len(pixels)
  patches = pixels.reshape(n, 2, FACTOR, 2, FACTOR, 3).astype(np.int32)
  return patches[..., 0].mean((2, 4)).astype(np.int32) + (patches[..., 1].max((2, 4)) > 250) * 44


FAKE = Codec(CODES, FACTOR, "d1", encode, None)


def picture(path, colour, side=SIZE):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new("RGB", (side, side), colour).save(path)


def lines_of(folder, count=12, bad=(), **last):
  """Frames 0 to `count`, consecutive ones a pair, those in `bad` no pictures; a line without y."""
  for i in range(count + 1):
    path = folder / "frames" / f"motion {i}.png"
    picture(path, (3 * i, 0, 0))
    if i in bad:
      path.write_bytes(b"nothing")
  lines = [
    {"x": f"frames/motion {i}.png", "y": f"frames/motion {i + 1}.png", "episode": i // 3,
     "z": f"go {i}"}
    for i in range(count)
  ]  # fmt: skip
  lines.append({"x": "frames/../frames/motion 0.png", "episode": "alone", "z": "go", **last})
  path = folder / "pairs.jsonl"
  path.write_text("".join(json.dumps(n) + "\n" for n in lines))
  return path


def tokenize(lines, out, codec=FAKE, **settings):
  settings = {"size": SIZE, "batch": 2, "part": 5, **settings}
  return tokenize_job.tokenize(lines, out, codec, **settings)


def contents(folder):
  return {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


# -- what it writes ------------------------------------------------------------------------------


def test_every_picture_is_tokenised_once_by_its_own_codes(tmp_path):
  calls = []

  def counted(pixels):
    calls.append(len(pixels))
    return encode(pixels)

  lines = lines_of(tmp_path, bad=(7,))
  summary = tokenize(lines, tmp_path / "out", Codec(CODES, FACTOR, "d1", counted, None))
  assert calls == [2, 2, 2, 2, 2, 2, 2]  # 5 pictures, 4 and 3 in parts, in batches of two
  assert summary["counts"] == {
    "pictures": {"distinct": 13, "tokenized": 12, "refused": 1},
    "lines": {"all": 13, "usable": 10, "without_y": 1, "refused": 2},
  }
  assert summary["unusable"] == {"without_y": [13], "refused": [7, 8]}
  (name,) = summary["refused"]["no picture"]
  assert name == "frames/motion 7.png" and summary["refused"]["no picture"][name].startswith(name)
  found = tokenized.read_folder(tmp_path / "out")
  assert found.codes.dtype == np.uint16 and found.codes.shape == (12, 4)
  for i in {*range(13)} - {7}:
    assert found.codes[found.rows[f"frames/motion {i}.png"]].tolist() == [3 * i] * 4
  assert len(found.rows) == 12
  assert (tmp_path / "out" / "pairs.jsonl").read_bytes() == lines.read_bytes()


def test_codes_stand_row_by_row(tmp_path):
  for name, side in (("a", 0), ("b", 1)):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4, :4], pixels[:4, 4:], pixels[4:, :4], pixels[4:, 4:] = 10, 20, 30, 40 + side
    Image.fromarray(pixels).save(tmp_path / f"{name}.png")
  (tmp_path / "l").write_text('{"x": "a.png", "y": "b.png", "episode": 1}')
  tokenize(tmp_path / "l", tmp_path / "out")
  assert tokenized.read_folder(tmp_path / "out").codes.tolist() == [
    [10, 20, 30, 40], [10, 20, 30, 41],
  ]  # fmt: skip


def test_pictures_are_padded_and_resized_before(tmp_path):
  picture(tmp_path / "a.png", (200, 0, 0))
  Image.new("RGB", (16, 8), (200, 0, 0)).save(tmp_path / "b.png")
  (tmp_path / "l").write_text('{"x": "a.png", "y": "b.png", "episode": 1}')
  tokenize(tmp_path / "l", tmp_path / "out")
  expected = encode(images.prepare(Image.open(tmp_path / "b.png"), SIZE)[None])
  found = tokenized.read_folder(tmp_path / "out").codes
  np.testing.assert_array_equal(found[1], expected.reshape(-1))
  assert found[0].tolist() == [200] * 4 and found[1].max() < 200


# -- kills ---------------------------------------------------------------------------------------


class Killed(BaseException):
  pass


@pytest.mark.parametrize("after", range(1, 8))
def test_a_job_that_stopped_gives_the_same_bytes(tmp_path, after):
  lines = lines_of(tmp_path, bad=(7,))
  whole = tokenize(lines, tmp_path / "whole")
  calls = [0]

  def killed(pixels):
    calls[0] += 1
    if calls[0] == after:
      raise Killed
    return encode(pixels)

  with pytest.raises(Killed):
    tokenize(lines, tmp_path / "out", Codec(CODES, FACTOR, "d1", killed, None))
  with pytest.raises(ValueError, match="tokenized.json: No such file.* the job writes last"):
    tokenized.read_folder(tmp_path / "out")
  calls[0] = -100
  assert tokenize(lines, tmp_path / "out", Codec(CODES, FACTOR, "d1", killed, None)) == whole
  assert calls[0] == -100 + 7 - [0, 0, 0, 3, 3, 5, 5][after - 1]  # whole parts aren't made again
  assert contents(tmp_path / "out") == contents(tmp_path / "whole")
  assert tokenize(lines, tmp_path / "out", Codec(CODES, FACTOR, "d1", None, None)) == whole  # done


def test_what_a_kill_left_half_is_removed(tmp_path):
  lines = lines_of(tmp_path)
  tokenize(lines, tmp_path / "whole")
  out = tmp_path / "out"
  tokenize(lines, out)
  (out / "tokenized.json").unlink()
  (out / "parts" / "00001.json").unlink()  # its records were whole, its JSON not yet there
  (out / "parts" / "00001.array_record").write_bytes(b"half")
  (out / "parts" / ".00002.json.99.tmp").write_text('{"sha')
  tokenize(lines, out)
  assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.multiprocess
def test_a_killed_process_with_workers(tmp_path):
  """SIGKILL behind the first part: nothing is left running, and the job goes on behind it."""
  lines, out = lines_of(tmp_path, bad=(7,)), tmp_path / "out"
  tokenize(lines, tmp_path / "whole")
  program = (
    "import sys, time\n"
    "from tests.data import test_tokenize_job as t\n"
    "def slow(pixels):\n"
    "  time.sleep(0.2)\n"
    "  return t.encode(pixels)\n"
    "if __name__ == '__main__':\n"
    "  codec = t.Codec(t.CODES, t.FACTOR, 'd1', slow, None)\n"
    "  t.tokenize(sys.argv[1], sys.argv[2], codec, workers=1)\n"
  )
  script = tmp_path / "job.py"
  script.write_text(program)
  environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
  command = [sys.executable, str(script), str(lines), str(out)]
  process = subprocess.Popen(command, env=environment, start_new_session=True)
  try:
    end = time.monotonic() + 60
    while not (out / "parts" / "00000.json").exists():
      assert process.poll() is None and time.monotonic() < end
      time.sleep(0.01)
  finally:
    process.send_signal(signal.SIGKILL)
    process.wait()
  assert not (out / "tokenized.json").exists()
  while True:  # its worker ends with it
    try:
      os.killpg(process.pid, 0)
    except ProcessLookupError:
      break
    assert time.monotonic() < end
    time.sleep(0.05)
  tokenize(lines, out, workers=0)
  assert contents(out) == contents(tmp_path / "whole")


# -- what is refused -----------------------------------------------------------------------------


def test_ten_in_a_row_end_the_job(tmp_path):
  lines = lines_of(tmp_path, count=20, bad=range(2, 12))
  with pytest.raises(tokenize_job.JobError) as error:
    tokenize(lines, tmp_path / "out", most_refused=1)
  assert str(error.value).startswith(
    "10 pictures one after the other can't be read; the last: frames/motion 9.png has 7 bytes"
  )
  lines = lines_of(tmp_path, count=20, bad={*range(2, 13)} - {6})
  assert tokenize(lines, tmp_path / "b", most_refused=1)["counts"]["pictures"]["refused"] == 10
  (tmp_path / "b" / "tokenized.json").unlink()  # counted alike over parts that are there
  tokenize(lines, tmp_path / "b", most_refused=1)


def test_more_than_a_share_end_the_job(tmp_path):
  lines = lines_of(tmp_path, count=9, bad=(1, 4))
  (tmp_path / "frames" / "motion 6.png").unlink()
  said = r"^3 of 10 pictures can't be read \(2 no picture, 1 missing\), more than most_refused all"
  with pytest.raises(tokenize_job.JobError, match=said):
    tokenize(lines, tmp_path / "out", most_refused=0.29)
  assert tokenize(lines, tmp_path / "out", most_refused=0.3)["counts"]["pictures"]["refused"] == 3


def test_the_share_counts_what_parts_that_are_there_refused(tmp_path):
  lines, out = lines_of(tmp_path, bad=(1, 7)), tmp_path / "out"
  tokenize(lines, out, most_refused=1)
  (out / "tokenized.json").unlink()
  with pytest.raises(tokenize_job.JobError, match="^2 of 13 pictures can't be read"):
    tokenize(lines, out, most_refused=0.1)


def test_a_line_that_is_unusable_twice_counts_once(tmp_path):
  summary = tokenize(lines_of(tmp_path, bad=(0,)), tmp_path / "out")  # the last one names frame 0
  assert summary["unusable"] == {"without_y": [13], "refused": [1]}
  assert summary["counts"]["lines"] == {"all": 13, "usable": 11, "without_y": 1, "refused": 1}


@pytest.mark.parametrize(
  ("line", "said"),
  [
    ({"x": "a.png", "y": "./a.png", "episode": 1}, "line 14: y is 'a.png', must be another pictu"),
    ({"x": "a.png", "z": "put <17> there", "episode": 1},
     "line 14: z is 'put <17> there', must be free of a picture's codes (<17>)"),
    ({"y": "a.png", "episode": 1}, "line 14: x is missing, must be text"),
    ({"x": "a.png", "y": "", "episode": 1}, "line 14: y is '', must be text with a word in it"),
    ({"x": "a.png", "picture": "b.png", "episode": 1}, "line 14: a field is 'picture', must be on"),
  ],
)  # fmt: skip
def test_a_bad_line_is_named(tmp_path, line, said):
  lines = lines_of(tmp_path)
  lines.write_text(lines.read_text() + json.dumps(line))
  with pytest.raises(ValueError) as error:
    tokenize(lines, tmp_path / "out")
  assert str(error.value).startswith(f"{lines}, {said}") and not (tmp_path / "out").exists()


def test_a_file_of_somebody_elses_is_left_alone(tmp_path):
  lines = lines_of(tmp_path)
  (tmp_path / "mine").mkdir()
  mine = tmp_path / "mine" / "pairs.jsonl"
  mine.write_text("mine")
  with pytest.raises(ValueError, match="mine' holds 'pairs.jsonl': choose a new or empty folder"):
    tokenize(lines, tmp_path / "mine")
  assert mine.read_text() == "mine"


def test_no_file_of_lines(tmp_path):
  with pytest.raises(ValueError, match="^lines = '.*none.jsonl': No such file or directory"):
    tokenize(tmp_path / "none.jsonl", tmp_path / "out")


@pytest.mark.parametrize(
  ("settings", "said"),
  [
    ({"size": 10}, "size = 10: allowed is a multiple of 4, the pixels a side"),
    ({"batch": 0}, "batch = 0: allowed is a whole number from 1"),
    ({"workers": -1}, "workers = -1: allowed is a whole number from 0"),
    ({"most_refused": 2}, "most_refused = 2: allowed is a share from 0 to 1"),
    ({"codec": Codec(2**16 + 1, 4)}, "vq has 65537 codes: allowed are 65536 at most"),
  ],
)
def test_settings_that_cannot_be(tmp_path, settings, said):
  with pytest.raises(ValueError) as error:
    tokenize(tmp_path / "none.jsonl", tmp_path / "out", **settings)
  assert said in str(error.value)


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"batch": 3}, "was begun with batch = 2, now it is 3: restore that, or choose another"),
    ({"codec": Codec(CODES, FACTOR, "d2", encode, None)}, 'with vq = "d1", now it is "d2"'),
    ({"versions": {"pillow": "9"}}, 'with versions = {}, now it is {"pillow": "9"}'),
  ],
)
def test_another_jobs_folder_is_refused(tmp_path, change, said):
  lines = lines_of(tmp_path)
  tokenize(lines, tmp_path / "out")
  with pytest.raises(ValueError) as error:
    tokenize(lines, tmp_path / "out", **change)
  assert said in str(error.value)


def test_the_same_lines_elsewhere_name_other_pictures(tmp_path):
  lines, out = lines_of(tmp_path), tmp_path / "out"
  whole = tokenize(lines, out)
  other = lines_of(tmp_path / "other")
  assert other.read_bytes() == lines.read_bytes()
  said = f'was begun with root = "{tmp_path}", now it is "{other.parent}": restore that, or choose'
  with pytest.raises(ValueError, match=re.escape(said)):
    tokenize(other, out)
  assert tokenize(other, tmp_path / "again") == whole  # where it was made isn't in the summary
  out.rename(tmp_path / "moved")
  assert len(tokenized.read_folder(tmp_path / "moved").rows) == 13


def test_another_spelling_of_the_path_is_the_same_job(tmp_path, monkeypatch):
  lines = lines_of(tmp_path)
  monkeypatch.chdir(tmp_path)
  whole = tokenize("pairs.jsonl", "out")
  assert tokenize(lines, tmp_path / "out") == whole
  assert tokenize(tmp_path / "frames" / ".." / "pairs.jsonl", "out") == whole


def test_names_of_files_stay_as_they_are(tmp_path):
  for name in ("e\u0301.png", "\u00e8.png"):
    picture(tmp_path / name, (200, 0, 0))
  (tmp_path / "l").write_text('{"x": "e\\u0301.png", "y": "\u00e8.png", "episode": 1}')
  assert tokenize(tmp_path / "l", tmp_path / "out")["counts"]["pictures"]["tokenized"] == 2


def test_a_folder_with_other_things_is_refused(tmp_path):
  lines = lines_of(tmp_path)
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / "notes.txt").write_text("mine")
  with pytest.raises(ValueError, match="holds 'notes.txt': choose a new or empty folder"):
    tokenize(lines, tmp_path / "out")


@pytest.mark.parametrize(
  ("wrong", "said"),
  [
    (lambda p: encode(p) + 290, "the encoder gave codes from 302 to 302, must be from 0 to 299"),
    (lambda p: encode(p) + 288, "the encoder gave codes from 300 to 300, must be from 0 to 299"),
    (lambda p: encode(p)[:, 0], r"the encoder gave int64 \(2, 2\), must be whole numbers \(2, 2, "),
    (lambda p: encode(p) * 1.0, "the encoder gave float64"),
  ],
)
def test_what_is_no_code_is_an_error(tmp_path, wrong, said):
  lines = lines_of(tmp_path, 4)
  with pytest.raises(tokenize_job.JobError, match=said):
    tokenize(lines, tmp_path / "out", Codec(CODES, FACTOR, "d1", wrong, None))


# -- a folder that isn't what it was -------------------------------------------------------------


def damage(out, name, change):
  path = out / name
  path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
  ("name", "change", "said"),
  [
    ("parts/00001.array_record", lambda b: b[:-1], "00001.array_record: SHA-256 is"),
    ("parts/00001.array_record", lambda b: b[:200] + b"x" + b[201:], "must be"),
    ("parts/00001.json", lambda b: b.replace(b"motion", b"motion "), "00001.json: its SHA-256 is"),
    ("pairs.jsonl", lambda b: b.replace(b"go 1", b"go 2"), "pairs.jsonl: SHA-256 is"),
    ("tokenized.json", lambda b: b.replace(b'"format": 1', b'"format": 2'), "format is 2, must be"),
    ("tokenized.json", lambda b: b.replace(b'"codes": 300', b'"codes": 30'),
     "code 1 of 'frames/motion 10.png' is 30, must be from 0 to 29; 12 codes are outside"),
  ],
)  # fmt: skip
def test_damage_is_found(tmp_path, name, change, said):
  tokenize(lines_of(tmp_path), tmp_path / "out")
  damage(tmp_path / "out", name, change)
  with pytest.raises(ValueError) as error:
    tokenized.read_folder(tmp_path / "out")
  assert said in str(error.value)

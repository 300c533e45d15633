"""Frames of videos: the right ones, once, and only of videos that are whole."""

import shutil
import sys
import types

import pytest
from PIL import Image

from swirl_jax.data.official import pictures, videos
from swirl_jax.data.official.records import Unusable
from tests.data.official import drawn

pytest.importorskip("av")


def reason(error):
  return error.value.reason


@pytest.mark.parametrize(("stride", "numbers"), [(1, range(20)), (7, (0, 7, 14)), (50, (0,))])
def test_every_so_many_frames(tmp_path, stride, numbers):
  video = drawn.video(tmp_path / "a.mkv")
  found = videos.every(video, tmp_path / "frames", stride)
  assert [path.name for path in found] == [f"{n:07d}.png" for n in numbers]
  assert [drawn.grey(path) for path in found] == [10 * n for n in numbers]


def test_frames_are_made_once(tmp_path):
  video, folder = drawn.video(tmp_path / "a.mkv"), tmp_path / "frames"
  drawn.picture(folder / "0000010.png", 77)  # as an earlier run has left it
  found = videos.every(video, folder, 5)
  assert [drawn.grey(path) for path in found] == [0, 50, 77, 150]
  video.unlink()  # a video that was read whole isn't opened again
  assert videos.every(video, folder, 5) == found
  with pytest.raises(Unusable):
    videos.every(video, folder, 2)


def test_a_run_that_is_killed_leaves_whole_frames_and_no_record(tmp_path, monkeypatch):
  video, folder, save = drawn.video(tmp_path / "a.mkv"), tmp_path / "frames", Image.Image.save

  def dies(self, path, **kwargs):
    save(self, path, **kwargs)
    if len(list(folder.glob("*.png"))) == 3:
      path.write_bytes(path.read_bytes()[:20])
      raise KeyboardInterrupt

  monkeypatch.setattr(Image.Image, "save", dies)
  with pytest.raises(KeyboardInterrupt):
    videos.every(video, folder, 1)
  assert sorted(p.name for p in folder.iterdir()) == [f"{n:07d}.png" for n in range(3)]
  monkeypatch.undo()
  assert [drawn.grey(path) for path in videos.every(video, folder, 1)] == list(range(0, 200, 10))


def test_the_frame_that_is_shown_at_a_time(tmp_path):
  for name, near in (("a.mkv", 0), ("b.mp4", 3)):
    video = drawn.video(tmp_path / name)
    for seconds, n in ((0, 0), (0.04, 0), (0.1, 1), (0.95, 9), (1.0, 10), (1.29, 12), (1.9, 19),
                       (2.5, 19)):  # fmt: skip
      path = videos.at(video, tmp_path / f"{name}.frames", seconds)
      assert abs(drawn.grey(path) - 10 * n) <= near, (name, seconds)
    with pytest.raises(Unusable, match="3.5 s of .*, which ends at 1.9") as error:
      videos.at(video, tmp_path / f"{name}.frames", 3.5)
    assert reason(error) == "time beyond the video"


def test_a_clock_that_does_not_begin_at_zero(tmp_path):
  """Seconds are from the first frame on, as the authors of a benchmark count them."""
  video = drawn.video(tmp_path / "a.mkv", begin=50)
  for seconds, n in ((0, 0), (0.1, 1), (1.29, 12), (1.9, 19)):
    assert drawn.grey(videos.at(video, tmp_path / "frames", seconds)) == 10 * n
  with pytest.raises(Unusable, match="which ends at 1.9"):
    videos.at(video, tmp_path / "frames", 5.0)
  assert len(videos.every(video, tmp_path / "frames", 10)) == 2
  cut = drawn.video(tmp_path / "b.mkv", frames=60, begin=50)
  cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
  with pytest.raises(Unusable, match="b.mkv ends at .* s, must last 6.00 s"):
    videos.every(cut, tmp_path / "frames of b", 10)


def test_what_is_no_whole_video_is_named(tmp_path):
  whole = drawn.video(tmp_path / "a.mkv", frames=60)
  cut = tmp_path / "cut.mkv"
  cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
  headless = drawn.video(tmp_path / "headless.mp4")  # an MP4 has its index at the end
  headless.write_bytes(headless.read_bytes()[:300])
  (tmp_path / "text.avi").write_text("no video")
  expected = {"cut.mkv": "cut video", "headless.mp4": "undecodable video",
              "text.avi": "undecodable video"}  # fmt: skip
  for name, why in expected.items():
    with pytest.raises(Unusable, match=name) as error:
      videos.every(tmp_path / name, tmp_path / "frames" / name, 10)
    assert reason(error) == why
    assert not list((tmp_path / "frames").rglob("every*"))
  assert len(videos.every(whole, tmp_path / "frames" / "whole", 10)) == 6


def test_a_video_without_pictures(tmp_path):
  import av

  with av.open(str(tmp_path / "a.mkv"), "w") as container:
    stream = container.add_stream("pcm_s16le", rate=8000)
    frame = av.AudioFrame(format="s16", layout="mono", samples=80)
    frame.sample_rate = 8000
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  with pytest.raises(Unusable, match="a.mkv has no pictures"):
    videos.at(tmp_path / "a.mkv", tmp_path, 0)


def test_a_display_matrix_turns_a_frame():
  image = Image.new("L", (2, 1))
  image.putpixel((1, 0), 255)
  frame = types.SimpleNamespace(to_image=lambda: image, rotation=90)
  turned = videos.upright(frame)  # counterclockwise: the right end is on top
  assert turned.size == (1, 2) and turned.getpixel((0, 0)) == 255
  frame.rotation = 0
  assert videos.upright(frame) is image


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "av", None)
  with pytest.raises(ValueError, match=r"pip install -e '\.\[visual\]'"):
    videos.at(tmp_path / "a.mkv", tmp_path, 0)


def test_a_videos_folder_is_its_own(tmp_path):
  made = pictures.Made(tmp_path / "made")
  one = drawn.video(tmp_path / "one" / "a b.mkv")
  folders = {made.of(one, "one/a b.mkv"), made.of(one, "two/a b.mkv")}
  drawn.video(one, frames=21)
  folders.add(made.of(one, "one/a b.mkv"))  # another video by that name
  assert len(folders) == 3 and all(f.name.startswith("a_b-") for f in folders)
  shutil.rmtree(tmp_path / "one")
  with pytest.raises(Unusable, match="'one/a b.mkv'") as error:
    made.of(one, "one/a b.mkv")
  assert reason(error) == "missing video"

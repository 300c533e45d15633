"""Unlabelled video: pairs of frames that follow each other."""

import pytest
from PIL import Image

from swirl_jax.data import transitions
from tests.data.official import drawn


def numbers(path):
  return [drawn.grey(path.parent / n[name]) for n in drawn.lines(path) for name in "xy"]


def test_folders_of_numbered_frames(tmp_path):
  folder, out = tmp_path / "in", tmp_path / "f.jsonl"
  for n in (0, 2, 10, 9, 1):
    drawn.picture(folder / "ucf" / "v_a" / f"motion_{n}.jpg", 10 * n)
  for n in range(2):
    drawn.picture(folder / "VidGen_video_1" / f"frame_{n}.png", n)
  drawn.picture(folder / "VidGen_video_1" / "concat_frame.png")
  drawn.picture(folder / "ucf" / "v_b" / "motion_0.jpg")
  found, _, left, counts = drawn.converted("frames", folder, out)
  assert [n["episode"] for n in found] == ["VidGen_video_1/frame_*"] + ["ucf/v_a/motion_*"] * 4
  assert [n["turn"] for n in found] == [0, 0, 1, 2, 3]
  assert {(n["episode"], n["level"]) for n in found} == {
    ("VidGen_video_1/frame_*", "all"), ("ucf/v_a/motion_*", "ucf")}  # fmt: skip
  assert all("z" not in n and "split" not in n for n in found)
  shown = numbers(out)[2:]
  assert all(abs(a - b) < 4 for a, b in zip(shown, (0, 10, 10, 20, 20, 90, 90, 100), strict=True))
  assert left == {"no frame": 1, "one frame": 1}
  assert counts["noted"] == {"without z": 5}


def test_turns_chain(tmp_path):
  drawn.video(tmp_path / "in" / "v.mkv")
  found, *_ = drawn.converted("frames", tmp_path / "in", tmp_path / "f.jsonl", stride=5)
  records = [transitions.Record(x=n["x"], y=n["y"], z="", episode=n["episode"], turn=n["turn"],
                                level=n["level"], action="") for n in found]  # fmt: skip
  assert transitions.chains(records, 3) == [(0, 1, 2)]
  assert numbers(tmp_path / "f.jsonl") == [0, 50, 50, 100, 100, 150]
  assert all(n["x"].startswith("f.pictures/v-") for n in found)


def test_stride_and_alike(tmp_path):
  folder, out = tmp_path / "in", tmp_path / "f.jsonl"
  for n, grey in enumerate((0, 1, 2, 3, 200, 201, 100)):
    drawn.picture(folder / f"{n}.png", grey)
  drawn.converted("frames", folder, out, stride=2)
  assert numbers(out) == [0, 2, 2, 200, 200, 100]
  _, _, left, counts = drawn.converted("frames", folder, out, stride=2, least_difference=0.1)
  assert numbers(out) == [2, 200, 200, 100] and left == {"too alike": 1}
  assert counts["left_out"]["too alike"]["first"] == ["*, frame 0.png: 0.0078 to 2.png"]
  assert (counts["stride"], counts["least_difference"]) == (2, 0.1)


def test_what_is_broken_is_counted(tmp_path):
  folder = tmp_path / "in"
  for n in range(5):
    drawn.picture(folder / f"v/motion_{n}.png", 9 * n)
  (folder / "v" / "motion_2.png").write_text("no picture")
  drawn.picture(folder / "v" / "motion_03.png")
  (folder / "bad.mp4").write_text("no video")
  for least in (0.0, 0.001):
    found, _, left, counts = drawn.converted("frames", folder, tmp_path / "f.jsonl",
                                             least_difference=least)  # fmt: skip
    assert [n["turn"] for n in found] == [0, 3]
    assert left == {"no picture": 2, "a number twice": 1, "undecodable video": 1}
  (said,) = counts["left_out"]["a number twice"]["first"]
  assert said == "v/motion_3.png: motion_03.png has it too"


def test_videos_of_classes(tmp_path):
  drawn.video(tmp_path / "in" / "Archery" / "v.mp4")
  drawn.video(tmp_path / "in" / "Surfing" / "v.mp4")
  found, *_ = drawn.converted("frames", tmp_path / "in", tmp_path / "f.jsonl", stride=10)
  assert [(n["episode"], n["level"]) for n in found] == [
    ("Archery/v.mp4", "Archery"), ("Surfing/v.mp4", "Surfing")]  # fmt: skip
  assert found[0]["x"] != found[1]["x"]


def test_alike_are_neighbours_and_not_what_was_kept_last(tmp_path):
  for n, grey in enumerate((0, 20, 40, 60, 200)):
    drawn.picture(tmp_path / "in" / f"{n}.png", grey)
  _, _, left, _ = drawn.converted("frames", tmp_path / "in", tmp_path / "f.jsonl",
                                  least_difference=0.1)  # fmt: skip
  assert numbers(tmp_path / "f.jsonl") == [60, 200] and left == {"too alike": 3}


def test_pictures_of_one_brightness_may_differ(tmp_path):
  left_half = Image.new("L", (64, 64))
  left_half.paste(255, (0, 0, 32, 64))
  (tmp_path / "in").mkdir()
  for n in range(3):
    left_half.rotate(180 * (n % 2)).save(tmp_path / "in" / f"{n}.png")
  found, *_ = drawn.converted("frames", tmp_path / "in", tmp_path / "f.jsonl", least_difference=0.9)
  assert len(found) == 2


def test_a_video_deep_below_has_the_level_of_its_first_folder(tmp_path):
  drawn.video(tmp_path / "in" / "Archery" / "group 1" / "v.mkv")
  found, *_ = drawn.converted("frames", tmp_path / "in", tmp_path / "f.jsonl", stride=10)
  assert [(n["episode"], n["level"]) for n in found] == [("Archery/group 1/v.mkv", "Archery")]


@pytest.mark.parametrize("name", ["notes.txt", "frames.json"])
def test_a_folder_without_frames(tmp_path, name):
  (tmp_path / "in").mkdir()
  (tmp_path / "in" / name).write_text("{}")
  with pytest.raises(ValueError, match="lacks files of unlabelled video: folders of numbered pict"):
    drawn.converted("frames", tmp_path / "in", tmp_path / "f.jsonl")

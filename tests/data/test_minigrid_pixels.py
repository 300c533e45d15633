"""MiniGrid as pictures: what is drawn, and what becomes of the text world's records."""

import dataclasses
import itertools

import numpy as np
import pytest
from PIL import Image

from swirl_jax.data import builders, transitions
from swirl_jax.data.builders import minigrid, minigrid_pixels
from swirl_jax.data.codec import Codec
from swirl_jax.data.image_codes import text_codes
from swirl_jax.data.pipeline import Split
from swirl_jax.data.transitions import Record

TINY = {"labelled": 60, "unlabelled": 120, "validation": 20, "test": 40, "heldout": 20}
TILES = np.stack(list(minigrid_pixels._tiles().values()))  # [kinds, 8, 8, 3]
ROOM = "agent_up red_key" + " empty" * 14 + " carrying_blue_ball"


def encode(pixels):
  """Each tile's place in the list of tiles: a tokenizer that tells all of them apart."""
  squares = pixels.reshape(len(pixels), 5, 8, 4, 8, 3).swapaxes(2, 3)
  same = (squares[:, :, :, None] == TILES).all((-1, -2, -3))
  assert same.any(-1).all()
  return same.argmax(-1).astype(np.int32)


def decode(codes):
  tiles = TILES[np.minimum(codes, len(TILES) - 1)].swapaxes(2, 3)
  return tiles.reshape(len(codes), 40, 32, 3)


PERFECT = Codec(40, 8, "perfect", encode, decode)


def open_world(codec, **settings):
  return builders.get(
    "minigrid_pixels", {**TINY, **settings}, codecs=lambda settings, data_dir, pictures: codec
  )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """(folder, world, builder, records by split, those of the text world)"""
  folder = tmp_path_factory.mktemp("data")
  world = open_world(PERFECT)
  text = builders.get("minigrid", TINY).prepare(folder)
  builder = world.prepare(folder)
  splits, texts = ({n: list(Split(b, n)) for n in TINY} for b in (builder, text))
  return folder, world, builder, splits, texts


def test_a_picture_is_the_room_and_what_is_carried():
  (picture,) = minigrid_pixels.draw([ROOM])
  assert picture.shape == (40, 32, 3) and picture.dtype == np.uint8
  tiles = picture.reshape(5, 8, 4, 8, 3).swapaxes(1, 2)
  kinds = [["agent_up", "red_key", "empty", "empty"], *[["empty"] * 4] * 3,
           ["blue_ball", "wall", "wall", "wall"]]  # fmt: skip
  for row, column in itertools.product(range(5), range(4)):
    assert np.array_equal(tiles[row, column], minigrid.tile(kinds[row][column], 8))


def test_tiles_of_different_cells_differ_by_more_than_rounding():
  """Objects, colours, directions, what lies under the agent: at 8 pixels still told apart."""
  flat = TILES.reshape(len(TILES), -1).astype(np.int32)
  assert len(flat) == len(minigrid.CELLS)
  for a, b in itertools.combinations(flat, 2):
    assert np.abs(a - b).mean() > 5


def test_different_states_have_different_pictures(data):
  *_, texts = data
  states = sorted({s for rs in texts.values() for r in rs for s in (r.x, r.y)})
  pictures = minigrid_pixels.draw(states)
  assert len(states) > 200 and len({p.tobytes() for p in pictures}) == len(states)


def test_records_are_the_text_worlds_in_codes(data):
  _, world, _, splits, texts = data
  assert {name: len(records) for name, records in splits.items()} == TINY
  for name in TINY:
    for found, text in zip(splits[name], texts[name], strict=True):
      assert dataclasses.replace(found, x=text.x, y=text.y) == text
      for codes, state in ((found.x, text.x), (found.y, text.y)):
        grid = text_codes(codes).reshape(5, 4)
        cells = state.split()
        assert [minigrid.CELLS[c] for c in grid[:4].reshape(-1)] == cells[:16]
      ids = world.tokenizer.encode(found.x)
      assert len(ids) == world.state_len == 20
      assert all(world.codes[0] <= i < world.codes[1] for i in ids)
      if found.z:
        ids = world.tokenizer.encode(found.z)
        assert not any(world.codes[0] <= i < world.codes[1] for i in ids)


def test_a_state_may_be_named_by_its_picture(tmp_path):
  """40 pixels high and 32 wide; one that lies on its side is no state of this world."""
  world, (picture,) = open_world(PERFECT), minigrid_pixels.draw([ROOM])
  Image.fromarray(picture).save(tmp_path / "room.png")
  found = text_codes(world.state("room.png", tmp_path))
  np.testing.assert_array_equal(found, encode(picture[None]).reshape(-1))
  Image.fromarray(picture.swapaxes(0, 1)).save(tmp_path / "aside.png")
  with pytest.raises(ValueError, match=r"'aside.png' has \(40, 32\) pixels; this .* \(32, 40\)"):
    world.state("aside.png", tmp_path)


def test_turns_chain_as_in_the_text_world(data):
  *_, splits, texts = data
  chains = transitions.chains(splits["test"], 2)
  assert chains and chains == transitions.chains(texts["test"], 2)


def test_what_a_run_asks_of_a_world(data):
  _, world, builder, splits, _ = data
  assert world.name == "minigrid_pixels" and world.source == "perfect"
  assert world.action_class("grab the red key") == "pickup red key"
  assert builder.info.metadata["pictures"]["states"] == builder.info.metadata["pictures"]["grids"]
  assert builder.info.metadata["test"]["same_codes"] == 0
  record = splits["test"][0]
  marks = world.differences(record.x, record.y)
  assert marks and world.render(record.x, marks).shape == (120, 96, 3)
  plain = world.render(record.x)
  assert np.array_equal(plain[::3, ::3], decode(text_codes(record.x).reshape(1, 5, 4))[0])


def test_pictures_to_train_on_are_of_training_alone(data):
  folder, *_, texts = data
  settings = {**minigrid_pixels.DEFAULTS, **TINY}
  found = {p.tobytes() for p in minigrid_pixels.pictures(settings, str(folder))}
  for name in TINY:
    drawn = {p.tobytes() for p in minigrid_pixels.draw([r.x for r in texts[name]])}
    assert drawn <= found if name in transitions.TRAIN_SPLITS else not drawn & found


def test_what_the_tokenizer_confuses_is_lost_and_counted(data, tmp_path):
  """Blind to the agent's direction: turns change nothing, and rooms that training met come back."""
  *_, texts = data
  right = minigrid.CELLS.index("agent_right")

  def blind(pixels):
    codes = encode(pixels)
    return np.where((codes >= right) & (codes < right + 4), right, codes)

  found, counts = minigrid_pixels.encode(texts, Codec(40, 8, "blind", blind, decode))
  turns = [r.action in ("left", "right") and " agent_" in f" {r.x}" for r in texts["labelled"]]
  assert counts["labelled"]["same_codes"] == sum(turns) > 0
  assert counts["pictures"]["grids"] < counts["pictures"]["states"]
  for name, records in found.items():
    lost = counts[name]["same_codes"] + counts[name]["met_codes"]
    assert len(records) == counts[name]["kept"] == TINY[name] - lost
  met = {s for n in transitions.TRAIN_SPLITS for r in found[n] for s in (r.x, r.y)}
  assert not met & {s for n in ("validation", "test") for r in found[n] for s in (r.x, r.y)}
  with pytest.raises(ValueError, match="leaves nothing of the split 'labelled'"):
    minigrid_pixels.encode(texts, Codec(40, 8, "", lambda p: 0 * encode(p), decode))


def test_codes_of_both_states_of_both_training_splits_count_as_met(monkeypatch):
  """States are numbers, and 2 n and 2 n + 1 look the same to the tokenizer. Training goes from 0 to
  2 and from 4 to 6: evaluation's steps from or to 1, 3, 5 and 7 have codes that it has met.
  """
  monkeypatch.setattr(minigrid_pixels, "draw", lambda states: np.array([[int(s)] for s in states]))
  halves = Codec(10, 1, "", lambda numbers: (numbers // 2).astype(np.int32), None)

  def record(x, y):
    return Record(str(x), str(y), "go", "e", 0, "forward", "l")

  bare = dataclasses.replace(record(4, 6), z="", action="")
  offered = [record(s, 8) for s in (1, 3, 5, 7)] + [record(8, s) for s in (1, 3, 5, 7)]
  offered += [record(8, 10), record(10, 11)]
  found, counts = minigrid_pixels.encode(
    {"labelled": [record(0, 2)], "unlabelled": [bare], "test": offered}, halves
  )
  assert [(r.x, r.y) for r in found["test"]] == [("<4>", "<5>")]
  assert counts["test"] == {"kept": 1, "same_codes": 1, "met_codes": 8}
  assert counts["labelled"]["kept"] == counts["unlabelled"]["kept"] == 1


def test_other_tokenizer_other_folder(data):
  folder, _, builder, *_ = data
  assert open_world(PERFECT).prepare(folder).data_dir == builder.data_dir
  other = dataclasses.replace(PERFECT, digest="other")
  assert open_world(other).builder(str(folder), None).data_dir != builder.data_dir


@pytest.mark.parametrize(
  ("codec", "settings", "message"),
  [
    (None, {}, "there is no tokenizer for them"),
    (Codec(40, 16), {}, "stands for 16 pixels a side, which must divide .*40 and 32"),
    (PERFECT, {"test": 0}, "test is 0, must be an integer from 1"),
    (PERFECT, {"tiles": 0}, "has no setting 'tiles'; it has labelled, .*, vq, vq_training"),
  ],
)
def test_bad_settings_are_named(codec, settings, message):
  with pytest.raises(ValueError, match=message):
    open_world(codec, **settings)


def test_worlds_without_pictures_say_so():
  with pytest.raises(ValueError, match="'minigrid' draws no pictures"):
    builders.pictures("minigrid", {}, "nowhere")

"""Splits, tokenised arrays and batches."""

import dataclasses
import os
import shutil
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds

from swirl_jax.data import pipeline
from swirl_jax.data.builders import get
from swirl_jax.data.pipeline import Batches, Lengths, Split
from swirl_jax.data.tokenizers import WordTokenizer
from swirl_jax.data.transitions import Record

TOKENIZER = WordTokenizer(tuple(f"s{i}" for i in range(12)) + ("go", "on"))
LENGTHS = Lengths(x=3, y=2, z=2)
RECORDS = [
  Record(f"s{i}", f"s{i + 1} s0", "go on" if i % 2 else "go", "e", i, "go", "l") for i in range(10)
]
DATA = pipeline.tokenize(RECORDS, TOKENIZER, LENGTHS)


def equal(a, b):
  return all(
    np.array_equal(s.tokens, t.tokens) and np.array_equal(s.mask, t.mask)
    for s, t in zip(a, b, strict=True)
  )


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
  sizes = {"labelled": 30, "unlabelled": 30, "validation": 10, "test": 10, "heldout": 10}
  return get("minigrid", sizes).prepare(tmp_path_factory.mktemp("data"))


def test_tokens_are_padded_on_the_right():
  data = pipeline.tokenize(RECORDS[:2], TOKENIZER, LENGTHS)
  assert data.x.tokens.tolist() == [[6, 0, 0], [7, 0, 0]]
  assert data.y.tokens.tolist() == [[7, 6], [8, 6]]
  assert data.z.mask.tolist() == [[True, False], [True, True]]
  assert data.x.tokens.dtype == np.int32 and data.x.mask.dtype == bool
  assert pipeline.tokenize(RECORDS, TOKENIZER, LENGTHS, actions=False).z is None


def test_what_does_not_fit_is_named():
  with pytest.raises(ValueError, match="episode 'e', turn 0: y has 2 tokens, the limit y_len is 1"):
    pipeline.tokenize(RECORDS, TOKENIZER, Lengths(x=3, y=1, z=2))
  with pytest.raises(ValueError, match="episode 'e', turn 1: z: the word 'on' is not in"):
    pipeline.tokenize(RECORDS, WordTokenizer(TOKENIZER.words[:-1]), LENGTHS)
  with pytest.raises(ValueError, match="z_len is 0"):
    Lengths(x=1, y=1, z=0)


def test_a_batch_is_a_function_of_seed_and_step():
  batches = Batches(DATA, 4, 7)
  again = Batches(DATA, 4, 7)
  later = again[23]  # out of order, before the others
  for step in (0, 1, 2, 23):
    assert equal(batches[step], again[step])
  assert equal(batches[23], later)
  other = Batches(DATA, 4, 8)
  assert any(not equal(batches[i], other[i]) for i in range(5))


def test_every_epoch_holds_every_record_once_in_an_order_of_its_own():
  batches = Batches(DATA, 4, 0)
  rows = np.concatenate([batches.rows(i) for i in range(10)]).reshape(4, 10)
  assert (np.sort(rows) == np.arange(10)).all()
  assert len({tuple(epoch) for epoch in rows}) == 4
  assert batches[0].x.tokens[:, 0].tolist() == [6 + i for i in batches.rows(0)]


def chained(*turns):
  """Records of one episode at the given turns: s0 → s1 → s2 ..."""
  z = ("go", "go on")
  return [Record(f"s{i}", f"s{i + 1}", z[i % 2], "e", i, "go", "l") for i in turns]


def test_batches_of_turns_pass_over_every_transition_once():
  records = chained(4, 0, 7, 1, 2, 5, 9)  # in the order of disk: 0 1 2, 4 5, 7, 9
  data = pipeline.tokenize(records, TOKENIZER, LENGTHS)
  rows = pipeline.rows_of_turns(records, 2)
  assert rows.tolist() == [[1, 3], [4, -1], [0, 5], [2, -1], [6, -1]]
  batches = Batches(data, 5, 3, turns=rows)
  first, again = batches[0], Batches(data, 5, 3, turns=rows)[0]
  assert first.x.tokens.shape == (5, 3) and first.z.tokens.shape == first.y.mask.shape == (5, 2, 2)
  assert sorted(first.x.tokens[:, 0] - 6) == [0, 2, 4, 7, 9] and equal(first, again)
  there = first.y.mask[..., 0]
  assert sorted(first.y.tokens[..., 0][there] - 6) == [1, 2, 3, 5, 6, 8, 10]
  assert not first.y.tokens[~first.y.mask].any() and not first.z.mask[~there].any()
  for b in range(5):  # the second turn begins where the first ended
    if there[b, 1]:
      np.testing.assert_array_equal(first.y.tokens[b, 1] - first.y.tokens[b, 0], [1, 0])
  one = Batches(data, 4, 3, turns=pipeline.rows_of_turns(records, 1))[2]
  assert one.y.tokens.shape == (4, 1, 2) and one.y.mask[..., 0].all()


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"batch": 0}, "batch is 0"),
    ({"batch": 4, "seed": -1}, "seed is -1"),
  ],
)
def test_bad_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    Batches(DATA, **{"seed": 0, **arguments})


def test_no_step_is_before_the_first():
  with pytest.raises(IndexError, match="batch -1: steps count from 0"):
    Batches(DATA, 4, 0)[-1]


def test_a_split_by_index(builder):
  labelled = Split(builder, "labelled")
  assert len(labelled) == 30 and labelled[-1] == labelled[29] == list(labelled)[-1]
  limited = Split(builder, "labelled", limit=7)
  assert list(limited) == labelled[:7]  # nested
  assert limited[-1] == labelled[6]
  with pytest.raises(IndexError, match="record 7 of split 'labelled', which has 7"):
    limited[7]
  for limit in (0, 31):
    with pytest.raises(ValueError, match=f"limit {limit} of split 'labelled': must be from 1 to"):
      Split(builder, "labelled", limit=limit)
  with pytest.raises(ValueError, match="no split 'train'; the data has .*unlabelled"):
    Split(builder, "train")


def test_a_damaged_file_names_its_folder(builder, tmp_path):
  copy = shutil.copytree(builder.data_dir, tmp_path / "copy")
  (file,) = copy.glob("*-test.array_record*")
  again = tfds.builder_from_directory(copy)
  assert Split(again, "test")[0] == Split(builder, "test")[0]
  os.truncate(file, 100)
  with pytest.raises(ValueError, match=f"{copy}: record 0 of split 'test' can't be read .* 64KB"):
    Split(tfds.builder_from_directory(copy), "test")[0]


def test_no_actions_from_the_unlabelled_split(builder):
  world = get("minigrid")
  lengths = Lengths(x=world.state_len, y=world.state_len, z=world.action_len)
  unlabelled = Split(builder, "unlabelled")
  data = pipeline.tokenize(unlabelled, world.tokenizer, lengths, actions=False)
  assert Batches(data, 4, 0)[0].z is None
  with pytest.raises(ValueError, match="split 'unlabelled' holds no actions"):
    pipeline.tokenize(unlabelled, world.tokenizer, lengths)


def test_one_record_without_its_action_is_refused():
  bare = [*RECORDS[:4], dataclasses.replace(RECORDS[4], z="", action="")]
  with pytest.raises(ValueError, match="z is empty in 1 of 5 records"):
    pipeline.tokenize(bare, TOKENIZER, LENGTHS)


def test_an_action_in_the_unlabelled_split_is_refused_as_it_is_read():
  example = {k: v.encode() if isinstance(v, str) else v for k, v in vars(RECORDS[0]).items()}
  splits = {name: types.SimpleNamespace(num_examples=1) for name in ("labelled", "unlabelled")}
  builder = types.SimpleNamespace(
    info=types.SimpleNamespace(splits=splits),
    data_dir="data",
    as_data_source=lambda split: [example],
  )
  assert Split(builder, "labelled")[0] == RECORDS[0]
  with pytest.raises(ValueError, match="split 'unlabelled', .* this split holds no actions"):
    Split(builder, "unlabelled")[0]


def test_an_empty_split_is_an_error():
  empty = types.SimpleNamespace(num_examples=0)
  builder = types.SimpleNamespace(info=types.SimpleNamespace(splits={"test": empty}))
  with pytest.raises(ValueError, match="split 'test' is empty"):
    Split(builder, "test")
  with pytest.raises(ValueError, match="is empty"):
    pipeline.tokenize([], TOKENIZER, LENGTHS)


def test_ordered_batches_cover_the_split_once():
  data = pipeline.tokenize(RECORDS, TOKENIZER, LENGTHS)
  batches = list(pipeline.ordered(data, 4))
  assert [b.x.tokens.shape[0] for b, _ in batches] == [4, 4, 4]
  assert [mask.sum() for _, mask in batches] == [4, 4, 2]
  rows = np.concatenate([b.x.tokens[mask] for b, mask in batches])
  assert np.array_equal(rows, data.x.tokens)

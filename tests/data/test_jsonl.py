"""A user's own file: what is refused and where, the splits, the vocabulary, and a whole run."""

import collections
import dataclasses
import json
import os
import pathlib
import random
import subprocess
import sys
import unicodedata

import pytest

from swirl_jax import start, train
from swirl_jax.data import builders, fast_tokenizers, transition_lines, transitions
from swirl_jax.data.builders import jsonl, text_world
from swirl_jax.data.pipeline import Split
from swirl_jax.predict import Predictor
from swirl_jax.settings import from_config

ROOT = pathlib.Path(__file__).resolve().parents[2]


def dials(episodes=60, turns=6, seed=0):
  """Lines of a world of four dials, each turned up or down; two episodes in three have actions."""
  draw, lines = random.Random(seed), []
  for episode in range(episodes):
    state = [draw.randrange(10) for _ in "abcd"]
    for _ in range(turns):
      after, at, up = list(state), draw.randrange(4), draw.choice((1, -1))
      after[at] = (after[at] + up) % 10
      x, y = (" ".join(f"{n}{v}" for n, v in zip("abcd", s, strict=True)) for s in (state, after))
      line = {"x": x, "y": y, "episode": episode}
      if episode % 3:
        line["z"] = f"{'raise' if up > 0 else 'lower'} {'abcd'[at]}"
      lines.append(line)
      state = after
  return lines


def write(path, lines):
  """Dicts as JSON; bytes and text as they are."""
  parts = [json.dumps(n) if isinstance(n, dict) else n for n in lines]
  path.write_bytes(b"\n".join(p if isinstance(p, bytes) else p.encode() for p in parts) + b"\n")
  return str(path)


def world(folder, lines, **settings):
  path = write(folder / "own.jsonl", lines)
  return builders.get("jsonl", {"path": path, **settings}, str(folder / "data"))


def prepared(folder, lines, **settings):
  """(the records by split, the counts)"""
  builder = world(folder, lines, **settings).prepare(str(folder / "data"))
  return {name: list(Split(builder, name)) for name in builder.info.splits}, builder.info.metadata


def same(text):
  return " ".join(text.split())


def test_a_byte_order_mark_is_no_part_of_a_line(tmp_path):
  splits = ("train", "train", "validation", "test")
  lines = [
    {"x": f"a {i}", "y": f"b {i}", "z": "go", "episode": i, "split": split}
    for i, split in enumerate(splits)
  ]
  marked = [b"\xef\xbb\xbf" + json.dumps(lines[0]).encode(), *lines[1:]]
  (tmp_path / "plain").mkdir()
  found, counts = prepared(tmp_path, marked, labelled=1)
  assert counts["labelled"]["kept"] == counts["test"]["kept"] == 1
  assert found == prepared(tmp_path / "plain", lines, labelled=1)[0]


# -- what is refused -----------------------------------------------------------------------------

GOOD = {"x": "a", "y": "b", "z": "go", "episode": 1}


def without(name):
  return {k: v for k, v in GOOD.items() if k != name}


@pytest.mark.parametrize(
  ("line", "said"),
  [
    ('{"x": "a",', 'the line is \'{"x": "a",\', must be one JSON object (Expecting'),
    ("", "the line is '', must be one JSON object"),
    ("[1]", "the line is [1], must be one JSON object"),
    ("[" * 10**5, "must be one JSON object"),
    (b'{"x": "\xff"}', "the line has the byte 0xff at place 8, must be UTF-8"),
    ('{"x": "a", "x": "b"}', "x is there 2 times, must be there once"),
    ('{"x": "a", "turn": NaN}', "a number is 'NaN', must be finite"),
    ('{"x": "a", "episode": 1e999}', "a number is '1e999', must be finite"),
    (without("x"), "x is missing, must be text"),
    (without("y"), "y is missing, must be text"),
    (without("episode"), "episode is missing, must be text or a number"),
    (GOOD | {"levl": "a"}, "a field is 'levl', must be one of x, y, episode, z, turn, level, spl"),
    (GOOD | {"x": 1}, "x is 1, must be text"),
    (GOOD | {"z": None}, "z is None, must be text"),
    (GOOD | {"episode": True}, "episode is True, must be text or a number"),
    (GOOD | {"turn": 1.0}, "turn is 1.0, must be a whole number"),
    (GOOD | {"turn": -1}, "turn is -1, must be from 0 to 2147483647"),
    (GOOD | {"turn": 2**31}, "turn is 2147483648, must be from 0"),
    (GOOD | {"x": " \n"}, "x is ' \\n', must be text with a word in it"),
    (GOOD | {"episode": ""}, "episode is '', must be text with a word in it"),
    (GOOD | {"level": ""}, "level is '', must be text with a word in it"),
    (GOOD | {"x": "b "}, "y is 'b', must be another state than x"),
    (GOOD | {"x": "\u00e9", "y": "e\u0301"}, "y is '\u00e9', must be another state than x"),
    (GOOD | {"x": "a\x00b"}, "x is 'a\\x00b', must be free of control characters ('\\x00')"),
    (GOOD | {"z": "go\x1b"}, "must be free of control characters ('\\x1b')"),
    (GOOD | {"x": "a\x7fb"}, "x is 'a\\x7fb', must be free of control characters ('\\x7f')"),
    (GOOD | {"y": "\ud800"}, "must be free of control characters ('\\ud800')"),
    (GOOD | {"y": "b <eos> c"}, "y is 'b <eos> c', must be free of special tokens (<eos>)"),
    (GOOD | {"z": "go <fwm>"}, "z is 'go <fwm>', must be free of special tokens (<fwm>)"),
    (GOOD | {"split": "dev"}, "must be one of train, validation, test, heldout, failing"),
    (GOOD | {"split": "test", "level": "ice"}, "must be 'heldout', 'failing' or left out (h"),
    (without("z") | {"action": "go"}, "action is 'go', must be left out where z is"),
    (GOOD | {"split": "train"}, "split is train, must be test, as in line 1 of episode '1'"),
    (GOOD | {"level": "b"}, "level is b, must be all, as in line 1 of episode '1'"),
    (GOOD | {"turn": 3}, "turn is given, must be left out, as in line 1 of episode '1'"),
    (GOOD | {"action": "run"}, "action is 'run', must be 'walk', as in line 1 for the same z"),
  ],
)
def test_a_bad_line_is_named(tmp_path, line, said):
  first = GOOD | {"split": "test", "action": "walk"}
  if isinstance(line, dict) and "action" in line and "z" in line:
    first["episode"] = 2
  settings = {"heldout_levels": ("ice",)}
  with pytest.raises(ValueError) as error:
    world(tmp_path, [first, first, line, line, GOOD, b"{"], **settings)
  message = str(error.value)
  assert message.startswith(f"{tmp_path / 'own.jsonl'}, line 3: ") and said in message
  assert message.endswith(" (2 more lines have an error.)")
  assert not (tmp_path / "data").exists()


def test_a_checkpoints_tokenizer_refuses_what_is_too_long(tmp_path):
  lines = dials()
  reader = fast_tokenizers.train_bpe([lines[0]["x"]], vocab_size=262)  # bytes
  own = dataclasses.replace(world(tmp_path, lines), reader=reader, state_len=11, action_len=6)
  with pytest.raises(ValueError) as error:
    own.prepare(str(tmp_path / "data"))
  first = next(i for i, n in enumerate(lines, start=1) if "z" in n)
  said = f"own.jsonl, line {first}: z is 7 tokens, must be at most config.data.action_len = 6. ("
  assert said in str(error.value)
  assert f"({sum('z' in n for n in lines) - 1} more lines have an error.)" in str(error.value)
  assert not list((tmp_path / "data").rglob("*.json"))
  own = dataclasses.replace(own, action_len=7)
  assert own.prepare(str(tmp_path / "data")).info.splits["test"].num_examples > 0


def test_a_tokenizer_that_has_no_words_is_refused(tmp_path, monkeypatch):
  reader = fast_tokenizers.train_bpe(["dial"], vocab_size=262)
  # What transformers makes of a folder without tokenizer.json.
  monkeypatch.setattr(fast_tokenizers.FastTokenizer, "encode", lambda self, text: [])
  own = dataclasses.replace(world(tmp_path, dials()), reader=reader, state_len=11, action_len=6)
  with pytest.raises(ValueError, match="own.jsonl, line 1: x is 0 tokens by this tokenizer, must"):
    own.prepare(str(tmp_path / "data"))


@pytest.mark.parametrize(
  ("settings", "said"),
  [
    ({"path": ""}, "config.world.path = '': allowed is the path of a file"),
    ({"path": "nowhere.jsonl"}, "config.world.path = 'nowhere.jsonl': No such file"),
    ({"seed": -1}, "config.world.seed = -1: allowed is a whole number from 0"),
    ({"labelled": 1.5}, "config.world.labelled = 1.5: allowed is a whole number from 0"),
    ({"test": 1.0}, "config.world.test = 1.0: allowed is a share from 0, below 1"),
    ({"validation": 0.5, "test": 0.5}, "config.world.test = 0.5: allowed is less than 1 together"),
    ({"heldout_levels": "ice"}, "config.world.heldout_levels = 'ice': allowed is a tuple of names"),
    ({"heldout_levels": ("ice",)}, "config.world.heldout_levels has 'ice': the levels of"),
    ({"met": "x"}, "config.world.met = 'x': allowed is 'state' or 'prompt'"),
    ({"met": ["state"]}, "config.world.met = ['state']: allowed is 'state' or 'prompt'"),
    ({"sede": 1}, "world 'jsonl' has no setting 'sede'; it has path, seed"),
  ],
)
def test_bad_settings_are_named(tmp_path, settings, said):
  with pytest.raises(ValueError, match="^") as error:
    world(tmp_path, dials(10), **settings)
  assert said in str(error.value)


def test_an_empty_file_is_an_error(tmp_path):
  (tmp_path / "own.jsonl").write_text("")
  with pytest.raises(ValueError, match="own.jsonl': the file is empty"):
    builders.get("jsonl", {"path": str(tmp_path / "own.jsonl")})


def bare(line):
  return {k: v for k, v in line.items() if k != "z"}


def alike(line):
  """One of seven transitions, by episode, all of them with actions."""
  return line | {"x": f"{line['episode'] % 7}", "y": "off", "z": "go"}


@pytest.mark.parametrize(
  ("change", "settings", "said"),
  [
    (bare, {}, "split 'labelled': no transition of training has z; give some lines"),
    (lambda n: n, {"validation": 0.6, "test": 0.39},
     "split 'labelled': config.world.validation = 0.6, config.world.test = 0.39, "
     "config.world.heldout_levels = () and the field split leave training none of the 50 episodes"),
    (alike, {"labelled": 999},
     "split 'unlabelled': all 7 of training have z, and config.world.labelled = 999 keeps them; "
     "set it below 7, from 1, or leave z out"),
    (alike, {"labelled": 5},
     "split 'validation': 0 had no z, and of 30 training has met x or y; raise "
     "config.world.validation = 0.1, or give it other episodes by the field split"),
    (lambda n: n, {"validation": 0},
     "split 'validation': 0 had no z, and of 0 training has met x or y; raise "
     "config.world.validation = 0, or give it other episodes by the field split"),
    (lambda n: n if n["episode"] else n | {"split": "heldout"}, {},
     "split 'heldout': 6 had no z, and of 0 training has met x or y; give it other episodes"),
  ],
)  # fmt: skip
def test_a_split_that_would_be_empty_says_what_to_change(tmp_path, change, settings, said):
  lines = [change(n) for n in dials(50)]
  with pytest.raises(ValueError) as error:
    world(tmp_path, lines, **settings)
  assert f"no transition is left for the {said}" in str(error.value)


# -- the splits ----------------------------------------------------------------------------------


def test_counts_add_up_and_nothing_of_a_test_episode_is_in_training(tmp_path):
  lines = dials(200)
  splits, counts = prepared(tmp_path, lines, validation=0.1, test=0.2)
  assert set(splits) == {"labelled", "unlabelled", "validation", "test"}
  assert {name: len(found) for name, found in splits.items()} == {
    name: counts[name]["kept"] for name in splits
  }
  lost = [counts[n][c] for n in ("validation", "test") for c in ("without_z", "dropped")]
  assert all(n > 0 for n in lost) and counts["file"]["duplicates"] > 0
  kept = sum(len(found) for found in splits.values())
  assert kept + sum(lost) + counts["file"]["duplicates"] == counts["file"]["lines"] == len(lines)
  assert counts["file"]["episodes"] == 200
  episodes = {name: {r.episode for r in found} for name, found in splits.items()}
  training = episodes["labelled"] | episodes["unlabelled"]
  assert not training & (episodes["validation"] | episodes["test"])
  assert not episodes["validation"] & episodes["test"]
  met = {s for n in transitions.TRAIN_SPLITS for r in splits[n] for s in (r.x, r.y)}
  for name in ("validation", "test"):
    assert not met & {s for r in splits[name] for s in (r.x, r.y)}
    assert all(r.z and r.action == r.z.split()[0] for r in splits[name])
  own = collections.Counter((n["x"], n["y"], n.get("z"), str(n["episode"])) for n in lines)
  for name in ("labelled", "validation", "test"):
    assert all((r.x, r.y, r.z, r.episode) in own for r in splits[name])


def test_calls_of_one_document_are_told_apart_by_what_is_asked(tmp_path):
  def line(split, x, z, y):
    return {"x": x, "y": y, "z": z, "episode": f"{split} {x} {z}", "split": split}

  trained = [line("train", "doc", f"call {n}", f"answer {n}") for n in range(4)]
  met = [
    line(split, "doc", z, y)
    for split in ("validation", "test")
    for z, y in (("call 2", "fresh"), ("other", "answer 1"))  # the FWM's prompt, the IDM's
  ]
  new = [
    line(split, x, z, y)
    for split in ("validation", "test")
    for x, z, y in (("doc", "other 2", "fresh"), ("doc 2", "call 2", "answer 2"))
  ]
  splits, counts = prepared(tmp_path, trained + met + new, met="prompt", labelled=2)
  for split in ("validation", "test"):
    assert {(r.x, r.z) for r in splits[split]} == {("doc", "other 2"), ("doc 2", "call 2")}
    assert counts[split] == {"kept": 2, "episodes": 2, "without_z": 0, "dropped": 2}
  with pytest.raises(ValueError, match="split 'validation': .* of 4 training has met x or y"):
    world(tmp_path, trained + met + new, labelled=2)
  with pytest.raises(ValueError, match="of 2 training has met x with z or x with y; raise"):
    world(tmp_path, trained + met, labelled=3, met="prompt")


def test_shares_are_of_the_episodes_and_follow_the_seed(tmp_path):
  path = write(tmp_path / "own.jsonl", dials(50))
  _, lines = transition_lines.read(jsonl.DEFAULTS | {"path": path})
  settings = jsonl.DEFAULTS | {"validation": 0.1, "test": 0.3}
  where = text_world.assign(lines, settings)
  assert collections.Counter(where.values()) == {"train": 30, "validation": 5, "test": 15}
  assert text_world.assign(lines[::-1], settings) == where
  assert text_world.assign(lines, settings | {"seed": 1}) != where
  few = text_world.assign(lines[: 3 * 6], jsonl.DEFAULTS)  # of three episodes one for each
  assert sorted(few.values()) == ["test", "train", "validation"]


def test_the_same_file_and_seed_give_the_same_records(tmp_path):
  folders = [tmp_path / name for name in "abc"]
  for folder in folders:
    folder.mkdir()
  one, again, other = (
    prepared(folder, dials(), labelled=50, seed=seed)[0]
    for folder, seed in zip(folders, (3, 3, 4), strict=True)
  )
  assert one == again != other
  assert len(one["labelled"]) == 50
  for name in transitions.TRAIN_SPLITS:
    assert len({r.episode for r in one[name][:20]}) > 5  # the first n are a sample
  assert all(not r.z and not r.action for r in one["unlabelled"])


def test_the_first_of_an_evaluation_split_are_whole_episodes_of_all_levels(tmp_path):
  lines = [
    {"x": f"s{e} {t}", "y": f"s{e} {t + 1}", "z": "go", "episode": f"{e:02}",
     "split": ("train", "validation", "test")[e % 3], "level": "early" if e < 30 else "late"}
    for e in range(60) for t in range(4)
  ]  # fmt: skip
  orders = []
  for seed in (0, 1):
    folder = tmp_path / str(seed)
    folder.mkdir()
    test = prepared(folder, lines, seed=seed, labelled=20)[0]["test"]
    order = [r.episode for r in test]
    names = list(dict.fromkeys(order))
    assert len(names) == 20 and order == [name for name in names for _ in range(4)]
    assert [r.turn for r in test] == [*range(4)] * 20
    assert {r.level for r in test[:32]} == {"early", "late"}
    assert transitions.chains(test, 4) == [tuple(range(at, at + 4)) for at in range(0, 80, 4)]
    orders.append(names)
  assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])


def test_a_line_may_name_its_split_and_levels_are_held_out_whole(tmp_path):
  lines = []
  for n in dials(40):
    episode = n["episode"]
    named = {1: "test", 2: "train", 4: "validation", 35: "failing"}.get(episode)
    n |= {"split": named} if named else {}
    n |= {"level": "ice"} if episode > 30 else {}
    lines.append(n)
  for n in [n for n in lines if n["episode"] == 1][1:]:
    del n["split"]  # the first line of an episode speaks for the others
  splits, _ = prepared(tmp_path, lines, heldout_levels=["ice"])
  where = {r.episode: name for name, found in splits.items() for r in found}
  assert where["1"] == "test" and where["2"] in transitions.TRAIN_SPLITS
  assert where["4"] == "validation"
  assert where["35"] == "failing" and "heldout" in where.values()
  for name, found in splits.items():
    assert {r.level for r in found} == {"ice" if name in transitions.OPTIONAL else "all"}


def test_turns_and_classes(tmp_path):
  lines = [
    {"x": "a", "y": "b", "z": "go  north", "episode": "e", "split": "test", "action": "north"},
    {"x": "b", "y": "c", "z": "walk up", "episode": "e", "action": "north"},
    {"x": "c", "y": "d", "z": "dig", "episode": "e"},
    {"x": "k", "y": "l", "z": "go north", "episode": "v", "split": "validation", "turn": 7},
    {"x": "j", "y": "k", "z": "dig", "episode": "v", "turn": 0},  # the first turn is 0
    {"x": "q", "y": "r", "z": "dig", "episode": "t", "split": "train"},
    {"x": "q", "y": "s", "episode": "t"},
  ]
  splits, _ = prepared(tmp_path, lines, validation=0, test=0)
  assert [r.turn for r in splits["test"]] == [0, 1, 2]
  assert [r.action for r in splits["test"]] == ["north", "north", "dig"]
  assert [(r.turn, r.action) for r in splits["validation"]] == [(7, "north"), (0, "dig")]
  for own in (world(tmp_path, lines), builders.get("jsonl", {"path": str(tmp_path / "own.jsonl")})):
    assert own.action_class("go north") == own.action_class(" walk\tup ") == "north"
    assert own.action_class("dig") == "dig"
    assert own.action_class("fly") is None and own.action_class("") is None


def test_texts_are_composed(tmp_path):
  """Whether a letter is one character or two doesn't show, in texts or in what training has met."""
  apart = lambda text: unicodedata.normalize("NFD", text)  # noqa: E731

  def line(n, split, form=str):
    x, y, z = map(form, (f"tür {n}", f"tür {n} auf", "öffne"))
    return {"x": x, "y": y, "z": z, "episode": f"{split} {n}", "split": split}

  lines = [line(n, "train", apart) for n in range(9)]
  lines += [line(n, split) for n in (8, 9) for split in ("validation", "test")]
  splits, counts = prepared(tmp_path, lines, labelled=5)
  own = world(tmp_path, lines, labelled=5)
  texts = [text for rs in splits.values() for r in rs for text in (r.x, r.y, r.z)]
  assert all(unicodedata.is_normalized("NFC", text) for text in (*texts, *own.words))
  assert counts["test"]["kept"] == counts["test"]["dropped"] == 1
  assert own.action_class("öffne") == own.action_class(apart("öffne")) == "öffne"


# -- the vocabulary, and a file that changes -----------------------------------------------------


def test_the_vocabulary_is_that_of_the_file_or_of_the_data(tmp_path):
  own = world(tmp_path, [*dials(), {"x": "ä " * 9, "y": "b0", "episode": "e"}])
  words = {f"{name}{v}" for name in "abcd" for v in range(10)} | {*"abcdä", "raise", "lower"}
  assert own.words == tuple(sorted(words))
  assert (own.state_len, own.action_len) == (9, 2)
  own.prepare(str(tmp_path / "data"))
  path = tmp_path / "own.jsonl"
  path.unlink()
  again = builders.get("jsonl", {"path": str(path)}, str(tmp_path / "data"))
  same_as = ("words", "state_len", "action_len", "source")
  assert all(getattr(again, name) == getattr(own, name) for name in same_as)
  assert again.prepare(str(tmp_path / "data")).info.splits["test"].num_examples > 0


def test_a_changed_file_is_refused(tmp_path):
  own = world(tmp_path, dials())
  folder = own.prepare(str(tmp_path / "data")).data_dir
  settings = {"path": write(tmp_path / "own.jsonl", dials(seed=1))}
  for data_dir in (str(tmp_path / "data"), None):
    with pytest.raises(ValueError, match="own.jsonl has changed: its SHA-256 is .* and the") as e:
      builders.get("jsonl", settings, data_dir).prepare(str(tmp_path / "data"))
    assert own.source in str(e.value) and folder in str(e.value)


# -- a whole run ---------------------------------------------------------------------------------

TINY = (  # phase I alone: every program takes seconds to compile
  "weights=shared", "compare=()", "pretrain.steps=0", "warmup_fwm.steps=0", "world.labelled=150",
  "swirl.iterations=1", "swirl.order=('phase1',)", "phase1.steps=1", "phase1.prompts=4",
  "phase1.keep=0", "phase1.group=2", "phase1.anchor=0", "phase1.beta=0.0",
  "model.d_model=16", "model.n_layers=1", "model.n_heads=2", "model.n_kv_heads=1",
  "model.head_dim=8", "model.d_ff=16",
  "evaluation.batch=16", "evaluation.best_of=2", "evaluation.turns=2", "evaluation.chains=2",
)  # fmt: skip


def test_a_file_becomes_a_run_with_one_command(tmp_path):
  path, workdir = tmp_path / "own.jsonl", tmp_path / "run"
  write(path, dials())
  command = [sys.executable, "-m", "swirl_jax.main", "--config=configs/jsonl.py",
             f"--config.world.path={path}", f"--workdir={workdir}",
             *(f"--config.{o}" for o in TINY)]  # fmt: skip
  done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
  assert done.returncode == 0, done.stdout + done.stderr
  assert "heldout" not in done.stdout and "SWIRL" in done.stdout
  report = (workdir / "report.html").read_text()
  assert "held-out level" not in report and "<mark>" in report and "duplicates" in report
  counts = json.loads((workdir / "dataset.json").read_text())
  assert counts["fwm_labels"] == counts["splits"]["labelled"] > 0

  config = json.loads((workdir / "config.json").read_text())
  config["mesh"]["data"] = 8  # the devices of this process; may change
  write(path, dials(seed=1))
  with pytest.raises(ValueError, match="own.jsonl has changed"):
    train.prepare(config, str(workdir))
  answers = Predictor(str(workdir)).actions("a1 b2 c3 d4", "a2 b2 c3 d4")  # the file isn't read
  assert len(answers) == 1
  (workdir / "data").rename(tmp_path / "elsewhere")
  with pytest.raises(ValueError, match="was begun with a file whose SHA-256 is"):
    start.world_of(from_config(config), workdir)

"""A whole scorecard of players whose answers are known; that it is JSON, a table and a page."""

import dataclasses
import functools
import json
import re

import jax
import pytest

from swirl_jax import sharding
from swirl_jax.evaluation import one_step, overlap, page, scorecard
from tests.evaluation.test_one_step import FWM, IDM, LENGTHS, PERFECT, RECORDS, WORLD

ONE = {"value": 1.0, "low": 1.0, "high": 1.0}
RECORDS = [
  dataclasses.replace(r, level="deep" if r.episode == "b" else "flat",
                      action="made" if r.z.startswith("make") else "painted")
  for r in RECORDS
]  # fmt: skip


@pytest.fixture(autouse=True)
def mesh():
  with jax.set_mesh(sharding.make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])):
    yield


def measure(done=lambda step: None, turns=2, **fwm):
  split = one_step.examples(RECORDS, WORLD.tokenizer, LENGTHS)
  players = scorecard.Player(FWM, PERFECT | fwm, 1.0), scorecard.Player(IDM, PERFECT, 1.0)
  return scorecard.measure(
    *players, PERFECT, split, turns=turns, best_of=2, batch=2, world=WORLD, done=done,
    key=jax.random.key(0))  # fmt: skip


@pytest.fixture(scope="module")
def perfect():
  with jax.set_mesh(sharding.make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])):
    return measure()


def test_perfect_players(perfect):
  forward, inverse = perfect["fwm"], perfect["idm"]
  for name in ("exact", "changed_exact", "sampled_exact", "changed_accuracy", "new_words",
               "kept_words", "gone_words", "complete"):  # fmt: skip
    assert forward[name] == ONE, name
  assert forward["spurious_words"]["value"] == 0.0
  assert forward["rouge_l"]["value"] == pytest.approx(100.0)
  assert forward["logp_token"]["value"] == -1.0 and forward["logp_sequence"]["value"] == -4.0
  assert inverse["match"] == inverse["sampled_match"] == ONE
  assert inverse["phrase_match"]["value"] == 3 / 5
  assert inverse["logp_token"]["value"] == -1.0 and inverse["logp_sequence"]["value"] == -3.0
  assert perfect["turns"]["exact"] == perfect["turns"]["words"] == [ONE, ONE]
  assert perfect["counts"] == {"transitions": 5, "episodes": 2, "levels": 2, "chains": 2}


def test_words_that_repeating_the_first_state_keeps(perfect):
  chains = [one["rows"] for one in perfect["rollouts"]]
  for turn, found in enumerate(perfect["turns"]["words_kept"]):
    pairs = [(RECORDS[rows[0]].x.split(), RECORDS[rows[turn]].y.split()) for rows in chains]
    same = [a == b for x, y in pairs for a, b in zip(x, y, strict=True)]
    assert found["value"] == pytest.approx(sum(same) / len(same))
  assert found["value"] < 1.0


def test_every_part_draws_with_a_key_of_its_own(monkeypatch):
  keys = {}

  def noted(name, real, *args, key, **kwargs):
    keys[name] = tuple(jax.random.key_data(key).tolist())
    return real(*args, key=key, **kwargs)

  for name in ("fwm", "best_of", "idm", "latents"):
    real = getattr(one_step, name)
    monkeypatch.setattr(one_step, name, functools.partial(noted, name, real))
  measure()
  assert len(keys) == len(set(keys.values())) == 4


def test_repeating_x_has_what_stays_and_nothing_new(perfect):
  same = perfect["repeating_x"]
  assert set(same) == {"unchanged_accuracy", *scorecard.COMPARED}
  assert same["unchanged_accuracy"] == same["kept_words"] == ONE
  assert same["new_words"]["value"] == same["gone_words"]["value"] == 0.0
  references = [r.y for r in RECORDS]
  expected = overlap.scores([r.x for r in RECORDS], references, [r.episode for r in RECORDS])
  assert {n: same[n] for n in overlap.NAMES} == expected


def test_a_model_that_likes_every_text_as_much_is_at_chance(perfect):
  found = perfect["discedit"]
  assert found["unchanged"]["count"] == 5 and found["episode"]["count"] > 1
  for kind in ("unchanged", "episode"):
    assert found[kind]["mean"]["value"] == found[kind]["sum"]["value"] == 0.5
  assert found["level"]["count"] == 0  # a level has one episode


def test_by_level_and_action(perfect):
  spoilt = measure(place=0)
  for found, value in ((perfect, 1.0), (spoilt, 0.0)):
    levels, actions = found["by_level"], found["by_action"]
    assert [(n, v["count"], v["episodes"]) for n, v in levels.items()] == [
      ("deep", 2, 1), ("flat", 3, 1)]  # fmt: skip
    assert {n: v["count"] for n, v in actions.items()} == {"made": 2, "painted": 3}
    for one in (*levels.values(), *actions.values()):
      assert one["exact"]["value"] == value and one["match"] == ONE
  assert spoilt["fwm"]["spurious_words"]["value"] == 5 / 15
  assert spoilt["turns"]["exact"][0]["value"] == 0.0


def test_latent_actions(perfect):
  found = perfect["latents"]
  assert found["known"] == ONE and found["length"]["value"] == 2.0
  assert found["naturalness"]["value"] == pytest.approx(1.0)
  assert (found["phrases"], found["unique"], found["unique_reference"]) == (3, 3 / 5, 1.0)


def test_what_the_idm_picks(perfect):
  """Of two samples the second is right; the judge sees what is spoilt (see `Painter`)."""
  found = measure(place=0, good=1)["verification"]
  assert found["picks"]["2"] == {"exact": ONE, "changed_accuracy": ONE} and found["pass"] == ONE
  assert found["picks"]["1"]["exact"]["value"] == 0.0 and found["single"]["value"] == 0.5
  assert 0.0 < found["picks"]["1"]["changed_accuracy"]["value"] < 1.0
  assert perfect["verification"]["single"] == ONE and perfect["pictures"] is None


def test_steps_are_reported_in_their_order():
  seen = []
  found = measure(done=seen.append, turns=9)
  assert tuple(seen) == scorecard.STEPS
  assert found["turns"] == {"exact": [], "words": [], "words_kept": []}
  assert found["rollouts"] == []


def test_rollouts_are_what_was_predicted_turn_by_turn(perfect):
  for one in perfect["rollouts"]:
    assert one["prediction"] == [RECORDS[row].y for row in one["rows"]]
  assert len(perfect["rollouts"]) == perfect["counts"]["chains"] > 0


def result(card):
  return {"world": "paint <3", "split": "test", "model": "final",
          "models": {"y": "fwm", "z": "idm"}, "scores": card}  # fmt: skip


@pytest.mark.parametrize(
  ("names", "scale"),
  [
    ("exact match ssim clip", 1.0),
    ("bleu chrf sentence_bleu sentence_chrf rouge_l bert_score", 100.0),
    ("logp_token logp_sequence psnr lpips clip_direction clip_text_direction", None),
  ],
)
def test_the_scales_of_scores(names, scale):
  """Shares are of 1, overlaps of 100; None is for what is no share."""
  assert {page._scale(name) for name in names.split()} == {scale}


def test_table_and_page(perfect):
  spoilt = measure(place=0, complete=False)
  for card in (perfect, spoilt, measure(turns=9)):
    assert json.loads(json.dumps(card, allow_nan=False)) == card
    lines = page.table(result(card)).split("\n")
    assert max(map(len, lines[1:])) <= 100
    text = "\n".join(lines)
    assert ("turn 2" in text) == bool(card["turns"]["exact"])
    drawn = page.page(result(card))
    assert "paint &lt;3" in drawn and "paint <3" not in drawn
    assert "<script" not in drawn and not re.search(r"(src|href)=", drawn)
    assert "nan" not in drawn and "None" not in drawn
  line = next(v for v in page.table(result(perfect)).split("\n") if "new words had" in v)
  assert line.split()[-4:] == ["1.000", "–", "1.000", "0.000"]


def test_every_score_is_shown(perfect):
  assert set(perfect["fwm"]) == set(page.FORWARD) - {"bert_score"}
  assert set(perfect["idm"]) == set(page.INVERSE)
  assert set(perfect["latents"]) == {*page.LATENTS, "logp_token", "classes", "classes_reference"}
  assert set(perfect["discedit"]) == set(page.KINDS)


@pytest.mark.parametrize(
  "value, words", [(None, "–"), (3, "3"), (0.25, "0.250"), (6e12, "6.00e+12")]
)
def test_numbers(value, words):
  assert page.number(value) == words


def test_a_figure_that_is_not_finite_is_none():
  points = dict.fromkeys(scorecard._POINTS, 1.5) | {"effective_actions": float("inf")}
  found = scorecard.figures(points)
  assert found.pop("effective_actions") is None and set(found.values()) == {1.5}

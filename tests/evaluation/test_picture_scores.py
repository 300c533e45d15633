"""A scorecard of a world of images whose pictures and players are known; its table and its page."""

import json
import re

import image_world as iw
import jax
import numpy as np
import pytest

from swirl_jax import sharding
from swirl_jax.data import transitions
from swirl_jax.evaluation import (
  candidates,
  one_step,
  page,
  picture_page,
  picture_scores,
  pictures,
  scorecard,
)

ONE = {"value": 1.0, "low": 1.0, "high": 1.0}
CAP = pictures.PSNR_CAP


@pytest.fixture(autouse=True, scope="module")
def mesh():
  with jax.set_mesh(sharding.make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])):
    yield


def measure(measures=(), world=iw.WORLD, asked=None, **fwm):
  split = one_step.examples(iw.RECORDS, iw.WORLD.tokenizer, iw.LENGTHS)
  players = scorecard.Player(iw.FWM, iw.PERFECT | fwm, 1.0), scorecard.Player(
    iw.IDM, iw.PERFECT, 1.0)  # fmt: skip
  return scorecard.measure(*players, iw.PERFECT, split, turns=2, best_of=4, done=lambda step: None,
                           measures=measures, asked=asked, **iw.KEY | {"world": world})  # fmt: skip


@pytest.fixture(scope="module")
def perfect():
  return measure()


@pytest.fixture(scope="module")
def spoilt():
  """Code 0 in the first place, but for the fourth sample of a group."""
  return measure(place=0, good=3)


def decibels(a, b):
  """PSNR by hand: a code's patch is a quarter of the picture, its grey the same in all channels."""
  codes = [[int(w[1:-1]) for w in s.split()] for s in (a, b)]
  errors = [(float(iw.GREYS[i]) - float(iw.GREYS[j])) ** 2 for i, j in zip(*codes, strict=True)]
  return min(CAP, 10 * np.log10(255**2 / np.mean(errors))) if any(errors) else CAP


def spoiled(record):
  return " ".join(["<0>", *record.y.split()[1:]])


def test_a_perfect_player(perfect):
  found = perfect["pictures"]
  assert perfect["places"] == "patches" and found["truth"] == "decoded" and found["psnr_cap"] == CAP
  assert found["fwm"]["psnr"]["value"] == CAP and found["fwm"]["ssim"]["value"] == pytest.approx(1)
  assert perfect["fwm"]["changed_accuracy"] == perfect["fwm"]["unchanged_accuracy"] == ONE
  assert not {"new_words", "bleu"} & {*perfect["fwm"], *perfect["repeating_x"]}
  same = [decibels(r.x, r.y) for r in iw.RECORDS]
  assert found["repeating_x"]["psnr"]["value"] == pytest.approx(np.mean(same), abs=1e-3)
  assert found["repeating_x"]["ssim"]["value"] < 1.0
  assert perfect["verification"] == {
    "picks": {n: {"exact": ONE, "changed_accuracy": ONE} for n in ("1", "2", "4")},
    "single": ONE, "pass": ONE}  # fmt: skip
  assert perfect["discedit"]["unchanged"]["mean"] == ONE
  assert perfect["discedit"]["level"] == {"count": 4, "mean": ONE, "sum": ONE}


def test_accuracy_counts_patches(spoilt):
  """By place of the codes: what is spoilt is one patch of four, where the true code isn't 0."""
  changed = unchanged = changed_right = unchanged_right = 0
  for r in iw.RECORDS:
    for i, (a, b, c) in enumerate(zip(r.x.split(), r.y.split(), spoiled(r).split(), strict=True)):
      assert i == 0 or b == c
      changed, changed_right = changed + (a != b), changed_right + (a != b and b == c)
      unchanged, unchanged_right = unchanged + (a == b), unchanged_right + (a == b and b == c)
  assert changed + unchanged == 4 * len(iw.RECORDS) and changed_right < changed
  assert spoilt["fwm"]["changed_accuracy"]["value"] == pytest.approx(changed_right / changed)
  assert spoilt["fwm"]["unchanged_accuracy"]["value"] == pytest.approx(unchanged_right / unchanged)


def test_a_player_that_spoils_a_patch(spoilt):
  found, by_hand = spoilt["pictures"], [decibels(spoiled(r), r.y) for r in iw.RECORDS]
  assert found["fwm"]["psnr"]["value"] == pytest.approx(np.mean(by_hand), abs=1e-3)
  assert found["fwm"]["psnr"]["low"] < found["fwm"]["psnr"]["value"] < found["fwm"]["psnr"]["high"]
  for level in ("easy", "hard"):
    rows = [i for i, r in enumerate(iw.RECORDS) if r.level == level]
    one = found["by_level"][level]
    assert (one["count"], one["episodes"]) == (len(rows), len(rows) // 2)
    expected = np.mean([by_hand[i] for i in rows])
    assert one["scores"]["psnr"]["value"] == pytest.approx(expected, abs=1e-3)
    same = np.mean([decibels(iw.RECORDS[i].x, iw.RECORDS[i].y) for i in rows])
    assert one["repeating_x"]["psnr"]["value"] == pytest.approx(same, abs=1e-3)
    assert set(one["scores"]) == {"psnr", "ssim", "changed_accuracy", "unchanged_accuracy"}
    for kind in (True, False):  # the patches that change, and those that stay
      right = [b == c for i in rows for a, b, c in zip(
        *(s.split() for s in (iw.RECORDS[i].x, iw.RECORDS[i].y, spoiled(iw.RECORDS[i]))),
        strict=True) if (a != b) == kind]  # fmt: skip
      accuracy = one["scores"]["changed_accuracy" if kind else "unchanged_accuracy"]
      assert accuracy["value"] == pytest.approx(np.mean(right))


def test_the_idm_picks_better_pictures(spoilt):
  """The fourth of four samples is right; this judge reads the last code alone and takes the first
  of equals, so it never finds it.
  """
  found, whole = spoilt["pictures"]["verification"], spoilt["verification"]
  assert whole["pass"] == ONE and whole["picks"]["4"]["exact"]["value"] < 1.0
  assert found["1"] == found["2"] == found["4"]
  assert found["1"]["psnr"] == spoilt["pictures"]["fwm"]["psnr"]


def test_turns_beside_the_first_picture(spoilt):
  """The code that is spoilt is shifted out by the next turn, which spoils one of its own."""
  found, chains = spoilt["pictures"]["turns"], transitions.chains(iw.RECORDS, 2)
  assert len(chains) == 3 and set(found) == {"psnr", "ssim", "psnr_kept", "ssim_kept"}
  for t in range(2):
    kept = np.mean([decibels(iw.RECORDS[c[0]].x, iw.RECORDS[c[t]].y) for c in chains])
    assert found["psnr_kept"][t]["value"] == pytest.approx(kept, abs=1e-3)
    mine = np.mean([decibels(spoiled(iw.RECORDS[c[t]]), iw.RECORDS[c[t]].y) for c in chains])
    assert found["psnr"][t]["value"] == pytest.approx(mine, abs=1e-3)


def test_batches_change_nothing(monkeypatch):
  x, said = [r.x for r in iw.RECORDS], [spoiled(r) for r in iw.RECORDS]
  arguments = (iw.WORLD, [pictures.PIXELS], iw.RECORDS, x, {"fwm": said, "x": x})
  found = picture_scores.compare(*arguments)
  monkeypatch.setattr(picture_scores, "BATCH", 4)
  again = picture_scores.compare(*arguments)
  for who in ("fwm", "x"):
    for name in ("psnr", "ssim"):
      np.testing.assert_allclose(found[who][name], again[who][name], rtol=1e-6)
  np.testing.assert_allclose(
    found["x"]["psnr"], [decibels(r.x, r.y) for r in iw.RECORDS], atol=1e-3)  # fmt: skip


def test_a_score_that_isnt_defined_is_left_out():
  found = picture_scores.estimates({"a": np.array([1.0, np.nan, 3.0, np.nan])}, "abab")
  assert found["a"] == {"value": 2.0, "low": 2.0, "high": 2.0}
  assert picture_scores.estimates({"a": np.full(4, np.nan)}, "abab")["a"]["value"] is None


def test_what_cant_be_compared_is_said_at_once():
  picture_scores.check(iw.WORLD, [], iw.RECORDS[0])
  small = iw.dataclasses.replace(iw.WORLD, pictures=lambda states: iw.pictures(states)[:, :8])
  with pytest.raises(ValueError, match="ssim: pictures of 8 × 12 pixels; allowed are 11 × 11"):
    picture_scores.check(small, [], iw.RECORDS[0])


def test_further_measures_are_scored_and_shown():
  """One that is the red of the picture's corner: of the prediction, less that of the truth."""
  corner = pictures.Measure(
    ("lpips",), lambda shown: shown[:, 0, 0, 0].astype(float),
    lambda records, x, prediction, truth: {"lpips": prediction - truth})  # fmt: skip
  found = measure(place=0, measures=[corner])["pictures"]
  expected = [-float(iw.GREYS[int(r.y[1])]) for r in iw.RECORDS]
  assert found["fwm"]["lpips"]["value"] == pytest.approx(np.mean(expected))
  same = [float(iw.GREYS[int(r.x[1])]) - float(iw.GREYS[int(r.y[1])]) for r in iw.RECORDS]
  assert found["repeating_x"]["lpips"]["value"] == pytest.approx(np.mean(same))
  assert "lpips" in found["verification"]["4"] and "lpips" not in found["turns"]


def test_a_world_whose_codes_cant_be_drawn():
  card = measure(world=iw.dataclasses.replace(iw.WORLD, pictures=None))
  assert card["places"] == "patches" and card["pictures"] is None
  assert "bleu" not in card["fwm"]
  result = {"world": "greys", "split": "test", "model": "final",
            "models": {"y": "fwm", "z": "idm"}, "scores": card}  # fmt: skip
  assert "changed patches right" in page.table(result) and "PSNR" not in page.page(result)


def test_cases_are_ranked_by_psnr():
  found = picture_scores.cases(np.arange(20.0)[::-1])
  assert [one["row"] for one in found["best"]] == [0, 1, 2]
  assert [one["row"] for one in found["worst"]] == [19, 18, 17]
  assert [one["row"] for one in found["median"]] == [8, 9, 10]
  equal = picture_scores.cases(np.arange(100) % 2.0)
  assert [one["row"] for one in equal["best"]] == [1, 3, 5]
  few = picture_scores.cases(np.array([3.0, 1.0, 2.0, 2.0]))
  assert {case: [one["row"] for one in rows] for case, rows in few.items()} == {
    "best": [0], "median": [2], "worst": [1]}  # fmt: skip
  assert picture_scores.cases(np.array([1.0])) == {"best": [], "median": [], "worst": []}


def test_candidates_are_part_of_the_card():
  r = iw.RECORDS[0]
  questions = [candidates.Question(r.x, r.z, "", (r.x, r.y, iw.RECORDS[2].y), 1, "task", "e")]
  asked = candidates.ask(questions, iw.WORLD.tokenizer, iw.LENGTHS)
  card = measure(asked=asked)
  assert card["candidates"]["states"]["all"]["scores"]["fwm_sum"].items() >= ONE.items()
  result = {"world": "greys", "split": "test", "model": "final",
            "models": {"y": "fwm", "z": "idm"}, "scores": card}  # fmt: skip
  for words in (page.table(result), page.page(result)):
    assert "FWM, choice of a state, task: 1" in words and "log P (1, chance 0.333)" in words


def test_table_and_page(perfect, spoilt):
  for card in (perfect, spoilt):
    assert json.loads(json.dumps(card, allow_nan=False)) == card
    result = {"world": "greys", "split": "test", "model": "final",
              "models": {"y": "fwm", "z": "idm"}, "scores": card}  # fmt: skip
    lines = page.table(result).split("\n")
    assert max(map(len, lines[1:])) <= 100
    text = "\n".join(lines)
    for words in ("changed patches right", "PSNR, dB", "SSIM, best of 4", "pictures of hard: 2",
                  "pictures at turn 2"):  # fmt: skip
      assert words in text, words
    assert "words" not in text.replace("words a phrase", "").replace("same words", "")
    shown = picture_page.cases(
      card["pictures"], iw.RECORDS, card["predictions"]["fwm"], iw.WORLD)  # fmt: skip
    drawn = page.page(result, shown)
    assert "<script" not in drawn and "nan" not in drawn and "None" not in drawn
    assert set(re.findall(r'src="([^,]*),', drawn)) == {"data:image/png;base64"}
    assert drawn.count("<img") == 3 * sum(map(len, card["pictures"]["cases"].values())) == 18
  line = next(v for v in page.table(result).split("\n") if v.startswith("  PSNR, dB "))
  assert len(line.split()) == 7


def test_where_the_prediction_differs_is_outlined(spoilt):
  drawn = []
  world = iw.dataclasses.replace(
    iw.WORLD, render=lambda s, marks: drawn.append((s, marks)) or iw.render(s, marks))  # fmt: skip
  picture_page.cases(spoilt["pictures"], iw.RECORDS, spoilt["predictions"]["fwm"], world)
  rows = [one["row"] for rows in spoilt["pictures"]["cases"].values() for one in rows]
  for i, row in enumerate(rows):
    r = iw.RECORDS[row]
    wrong = (0,) if r.y.split()[0] != "<0>" else ()
    assert drawn[3 * i : 3 * i + 3] == [(r.x, ()), (spoiled(r), wrong), (r.y, ())]

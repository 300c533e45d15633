"""What is measured, on models whose answers are known; and that real ones go through unharmed."""

import dataclasses
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from swirl_jax import prompts, roles, sampling, sharding
from swirl_jax.data.pipeline import Lengths
from swirl_jax.data.tokenizers import EOS, WordTokenizer
from swirl_jax.data.transitions import Record
from swirl_jax.evaluation import detectors, multi_turn, one_step
from swirl_jax.models import transformer
from swirl_jax.types import Rollout, Segment

STATE, ACTION = 3, 2
COLORS = ("red", "green", "blue")


class World:
  """A state is three colours; "paint red" or "make red" sets the first one and moves it last."""

  tokenizer = WordTokenizer((*COLORS, "paint", "make"))
  codes = None

  @staticmethod
  def action_class(phrase):
    verb, _, color = phrase.partition(" ")
    return f"paint {color}" if verb in ("paint", "make") and color in COLORS else None


WORLD = World()
LENGTHS = Lengths(STATE, STATE, ACTION)


def record(x, z, episode="e", turn=0):
  y = " ".join([*x.split()[1:], z.split()[1]])
  return Record(x, y, z, episode, turn, "paint", "level")


RECORDS = [
  record("red red green", "paint blue", "a", 0),
  record("red green blue", "make red", "a", 1),
  record("green blue red", "paint green", "a", 2),
  record("blue blue green", "make blue", "b", 0),
  record("blue green blue", "paint red", "b", 1),
]


@dataclasses.dataclass(frozen=True)
class Painter:
  """Plays both parts by rule, with the errors that its parameters ask for.

  As the FWM: shifts x and adds the colour of z. As the IDM: says params["verb"] and the colour that
  y ends with. Every sample but number params["good"] has a wrong token in place params["place"]
  (none where that is negative); logp is −1 a token, less for the IDM where y does not fit z.
  """

  field: str
  decoding: sampling.Decoding = sampling.Decoding(length=STATE + 1, group=1, end=EOS)

  def rollout(self, params, transition, key, temperature):
    if self.field == "y":
      color = transition.z.tokens[:, 1:2]
      right = jnp.concatenate([transition.x.tokens[:, 1:STATE], color], 1)
    else:
      verb = jnp.broadcast_to(params["verb"], (len(transition.x.tokens), 1))
      right = jnp.concatenate([verb, transition.y.tokens[:, STATE - 1 : STATE]], 1)
    b, n = right.shape
    g = self.decoding.group
    tokens = jnp.broadcast_to(right[:, None], (b, g, n))
    spoilt = (jnp.arange(n) == params["place"]).reshape(1, 1, n)
    spoilt &= (jnp.arange(g) != params["good"]).reshape(1, g, 1)
    tokens = jnp.where(spoilt, 3, tokens)  # <sep>, which is no word
    tokens = jnp.concatenate([tokens, jnp.full((b, g, 1), EOS)], 2).astype(jnp.int32)
    mask = jnp.ones(tokens.shape, bool)
    whole = jnp.broadcast_to(params["complete"], (b, g))
    return Rollout(tokens, mask, -1.0 * mask, -1.0 * mask, whole)

  def logprobs(self, params, transition, target, *, sampled=False):
    logp = -jnp.ones(target.mask.shape)
    if self.field == "z" and transition.y.tokens.ndim == 3:  # as a judge: does y hold a <sep>?
      logp -= (transition.y.tokens == 3).any(-1, keepdims=True)
    return logp, jnp.zeros_like(logp)

  def target(self, segment):
    return prompts.with_end(segment, (EOS,))

  def content(self, rollout):
    return prompts.content(rollout, EOS)


FWM, IDM = Painter("y"), Painter("z")
PAINT = WORLD.tokenizer.encode("paint")[0]
PERFECT = {"place": -1, "good": -1, "complete": True, "verb": PAINT}


@pytest.fixture(autouse=True)
def mesh():
  with jax.set_mesh(sharding.make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])):
    yield


@pytest.fixture(scope="module")
def split():
  return one_step.examples(RECORDS, WORLD.tokenizer, LENGTHS)


def setting(batch=2):
  return {"key": jax.random.key(0), "temperature": 1.0, "batch": batch, "world": WORLD}


def test_a_perfect_fwm(split):
  found = one_step.fwm(FWM, PERFECT, split, **setting())
  m = found["metrics"]
  for name in ("exact", "changed_exact", "changed_accuracy", "unchanged_accuracy"):
    assert m[name] == 1.0, name
  assert m["exact_low"] == m["exact_high"] == m["sampled_exact"] == m["complete"] == 1.0
  assert m["logp_token"] == -1.0 and m["logp_sequence"] == -(STATE + 1)
  assert (m["count"], m["episodes"]) == (5, 2)
  assert found["by_episode"] == {"correct": [3, 2], "size": [3, 2]}
  assert found["examples"]["prediction"] == [r.y for r in RECORDS]
  assert found["by_example"]["logp"] == [-(STATE + 1.0)] * 5
  assert found["by_example"]["count"] == [STATE + 1] * 5
  assert json.loads(json.dumps(found)) == found


def test_an_fwm_that_spoils_the_first_place(split):
  found = one_step.fwm(FWM, PERFECT | {"place": 0}, split, **setting())
  m = found["metrics"]
  assert not any(found["by_example"]["exact"]) and all(found["by_example"]["complete"])
  # Unchanged at place 0: records 0 (red red ...) and 3 (blue blue ...).
  assert m["exact"] == 0.0 and m["changed_exact"] == 2 / 5
  changed = sum(a != b for r in RECORDS for a, b in zip(r.x.split(), r.y.split(), strict=True))
  assert m["changed_accuracy"] == pytest.approx((changed - 3) / changed)
  assert m["unchanged_accuracy"] == pytest.approx((15 - changed - 2) / (15 - changed))


def test_a_cut_prediction_is_not_exact(split):
  params = PERFECT | {"complete": False}
  m = one_step.fwm(FWM, params, split, **setting())["metrics"]
  assert m["exact"] == m["sampled_exact"] == m["complete"] == 0.0
  assert one_step.quick(FWM, params, split, batch=2, world=WORLD) == 0.0
  assert one_step.idm(IDM, params, split, **setting())["metrics"]["match"] == 0.0


def test_an_idm_is_judged_by_what_it_means(split):
  found = one_step.idm(IDM, PERFECT, split, **setting())
  m = found["metrics"]
  assert m["match"] == m["sampled_match"] == 1.0
  assert m["phrase_match"] == 3 / 5  # it never says "make"
  assert m["by_class"] == {"paint": {"count": 5, "match": 1.0}}
  assert found["examples"]["prediction"][1] == "paint red"
  assert found["by_example"]["phrase_match"] == [True, False, True, False, True]
  assert one_step.quick(IDM, PERFECT, split, batch=2, world=WORLD) == 1.0
  wrong = one_step.idm(IDM, PERFECT | {"place": 0}, split, **setting())
  assert wrong["metrics"]["match"] == 0.0
  assert wrong["examples"]["prediction"][0] == "<sep> blue"


def test_best_of_picks_what_the_idm_likes(split):
  n = 4
  params = PERFECT | {"place": 0, "good": 2}  # one sample in four is right
  found = one_step.best_of(FWM, params, IDM, PERFECT, split, n=n, **setting())
  m = found["metrics"]
  assert m["pick"] == m["pass"] == m["changed_pick"] == m["changed_pass"] == 1.0
  assert m["single"] == 1 / n
  assert m["changed_single"] == pytest.approx((2 + 3 / n) / 5)
  assert (m["n"], m["count"]) == (n, 5)
  assert found["by_example"] == {"single": [1 / n] * 5, "pass": [True] * 5}
  assert found["by_episode"]["single"] == found["by_episode"]["size"]  # one of n, of each
  picked = found["picked"]  # the third of four samples is right: two are not enough
  assert {m: one["exact"] for m, one in picked.items()} == {
    "1": [False] * 5, "2": [False] * 5, "4": [True] * 5}  # fmt: skip
  assert picked["4"]["prediction"] == [r.y for r in RECORDS]
  assert all(p.startswith("<sep> ") for p in picked["2"]["prediction"])
  assert m["picks"] == {"2": 0.0, "4": 1.0}
  none = one_step.best_of(FWM, params | {"good": -1}, IDM, PERFECT, split, n=n, **setting())
  assert none["metrics"]["pick"] == none["metrics"]["pass"] == 0.0


def test_latents():
  bare = [dataclasses.replace(r, z="", action="") for r in RECORDS]
  pairs = one_step.examples(bare, WORLD.tokenizer, LENGTHS, actions=False)
  reference = ["paint red", "make red", "make red"]
  found = one_step.latents(IDM, PERFECT, pairs, shown=2, reference=reference, **setting())
  m = found["metrics"]  # paint blue, red, green, blue, red
  assert (m["phrases"], m["meanings"], m["count"], m["known"], m["length"]) == (3, 3, 5, 1.0, 2.0)
  assert m["unique"] == 1.0 and m["unique_reference"] == 2 / 3  # of the first three
  assert m["classes"] == m["classes_reference"] == {"paint": 1.0}
  first = RECORDS[0]
  assert found["examples"][0] == {"x": first.x, "y": first.y, "z": "paint blue", "true": None}
  assert len(found["examples"]) == 2
  assert found["by_example"]["phrase"] == found["by_example"]["meaning"]
  assert found["by_example"]["phrase"][:2] == ["paint blue", "paint red"]
  spoilt = one_step.latents(IDM, PERFECT | {"place": 0}, pairs, shown=0, **setting())["metrics"]
  assert spoilt["known"] == spoilt["meanings"] == 0 and spoilt["classes"] == {"(unknown)": 1.0}
  assert spoilt["unique"] == 3 / 5


def test_gallery(split):
  found = one_step.gallery(split, ["p"] * 5, [3], method="swirl", split_name="test")
  assert found == [{"x": RECORDS[3].x, "z": "make blue", "prediction": "p",
                    "truth": RECORDS[3].y, "method": "swirl", "split": "test"}]  # fmt: skip


def test_multi_turn_goes_on_from_its_own_predictions(split):
  run = {"batch": 2, "world": WORLD, "shown": 1}
  found = multi_turn.multi_turn(FWM, PERFECT, split, [(0, 1), (3, 4)], **run)
  assert found["metrics"]["exact"] == found["metrics"]["cells"] == [1.0, 1.0]
  assert [t["prediction"] for t in found["chains"][0]] == [RECORDS[0].y, RECORDS[1].y]
  assert [t["x"] for t in found["chains"][0]] == [RECORDS[0].x, RECORDS[1].x]
  # What it spoils in the middle of turn 1 has moved to the front in turn 2.
  found = multi_turn.multi_turn(FWM, PERFECT | {"place": 1}, split, [(0, 1), (3, 4)], **run)
  assert found["chains"][0][1]["prediction"] == "<sep> <sep> red"
  assert found["metrics"]["exact"] == [0.0, 0.0]
  assert found["metrics"]["cells"] == pytest.approx([2 / 3, 1 / 3])
  kept = [sum(a == b for r, s in pairs for a, b in zip(r.x.split(), s.y.split(), strict=True)) / 6
          for pairs in ([(RECORDS[0], RECORDS[0]), (RECORDS[3], RECORDS[3])],
                        [(RECORDS[0], RECORDS[1]), (RECORDS[3], RECORDS[4])])]  # fmt: skip
  assert found["metrics"]["kept_cells"] == pytest.approx(kept)
  by_chain = found["by_chain"]
  assert by_chain["episodes"] == ["a", "b"] and by_chain["words"] == [[3, 3], [3, 3]]
  assert by_chain["exact"] == [[False, False], [False, False]]
  for name, share in (("right", "cells"), ("kept_right", "kept_cells")):
    assert np.sum(by_chain[name], 1) / 6 == pytest.approx(found["metrics"][share])


def test_a_turn_that_is_cut_is_not_exact(split):
  found = multi_turn.multi_turn(FWM, PERFECT | {"complete": False}, split, [(0, 1), (3, 4)],
                                batch=2, world=WORLD, shown=0)  # fmt: skip
  assert found["metrics"]["exact"] == [0.0, 0.0] and found["metrics"]["cells"] == [1.0, 1.0]
  assert found["by_chain"]["exact"] == [[False, False], [False, False]]


def test_multi_turn_without_chains_or_with_ragged_ones(split):
  run = {"batch": 2, "world": WORLD, "shown": 1}
  empty = {"metrics": {"chains": 0, "turns": 0}, "chains": [], "by_chain": {"episodes": []}}
  assert multi_turn.multi_turn(FWM, PERFECT, split, [], **run) == empty
  with pytest.raises(ValueError, match="lengths"):
    multi_turn.multi_turn(FWM, PERFECT, split, [(0, 1), (3,)], **run)


def test_states_are_cut_or_padded_to_go_on():
  long = Segment(np.array([[1, 2, 3, 4]]), np.array([[True, True, True, True]]))
  assert multi_turn.fit(long, 3).tokens.tolist() == [[1, 2, 3]]
  short = Segment(np.array([[1, 2]]), np.array([[True, False]]))
  assert multi_turn.fit(short, 3).tokens.tolist() == [[1, 0, 0]]
  assert multi_turn.fit(short, 3).mask.tolist() == [[True, False, False]]


# -- with transformers -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def players():
  ids = types.SimpleNamespace(bos=1, eos=EOS, sep=3, fwm=4, idm=5)
  config = transformer.TransformerConfig(
    vocab_size=WORLD.tokenizer.vocab_size, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1,
    head_dim=8, d_ff=16, max_len=16)  # fmt: skip
  templates = prompts.fwm_template(ids), prompts.idm_template(ids)
  lengths = STATE + 1, ACTION + 1
  return [
    roles.TransformerRole(config, template, sampling.Decoding(n, 1, template.end[-1]))
    for template, n in zip(templates, lengths, strict=True)
  ], transformer.init_params(config, jax.random.key(3))


def test_the_batch_size_changes_nothing(players, split):
  (fwm, idm), params = players
  for role, measure in ((fwm, one_step.fwm), (idm, one_step.idm)):
    found = [measure(role, params, split, **setting(batch)) for batch in (2, 5)]
    assert found[0]["examples"] == found[1]["examples"]
    for name, value in found[0]["metrics"].items():
      if "sampled" not in name and not isinstance(value, dict):
        assert value == pytest.approx(found[1]["metrics"][name], abs=1e-5), name


def test_signs_of_collapse_are_those_of_every_action_under_every_pair(players, split):
  """Against one score at a time: log Q(z_i | x_j, y_j) with z_i put into pair j."""
  (_, idm), params = players
  found = one_step.latents(idm, params, split, shown=0, **setting())["metrics"]
  drawn = one_step.decode(
    idm, params, split.data, group=1, greedy=False, batch=2, key=setting()["key"]
  )
  n = len(drawn.tokens)
  log_q = np.zeros((n, n), np.float32)
  for i in range(n):
    z = [np.broadcast_to(a[i], (n, a.shape[-1])) for a in (drawn.tokens, drawn.mask)]
    log_q[i] = one_step.score(idm, params, split.data._replace(z=Segment(*z)), batch=5).logp
  for sign in (detectors.effective_actions, detectors.action_information):
    assert found[sign.__name__] == pytest.approx(float(sign(log_q)), rel=1e-4)
  assert 1.0 < found["effective_actions"]


def test_greedy_likelihood_is_the_score_of_what_was_decoded(players, split):
  (fwm, _), params = players
  drawn = one_step.decode(fwm, params, split.data, group=1, greedy=True, batch=5)
  own = split.data._replace(y=Segment(drawn.tokens[:, 0], drawn.mask[:, 0]))
  scores = one_step.score(fwm, params, own, batch=5)
  whole = drawn.complete[:, 0]
  np.testing.assert_allclose(
    np.where(whole, scores.logp / scores.count, 0), np.where(whole, drawn.logp[:, 0], 0), atol=1e-5
  )
  random = one_step.decode(
    fwm, params, split.data, group=3, greedy=False, batch=5, key=jax.random.key(1)
  )
  assert random.tokens.shape == (5, 3, STATE + 1)
  with pytest.raises(ValueError, match="needs a key"):
    one_step.decode(fwm, params, split.data, group=3, greedy=False, batch=5)


def test_every_batch_draws_with_a_key_of_its_own(players):
  (fwm, _), params = players
  same = one_step.examples([RECORDS[0]] * 4, WORLD.tokenizer, LENGTHS)
  drawn = one_step.decode(
    fwm, params, same.data, group=4, greedy=False, batch=2, key=jax.random.key(0)
  )
  assert (drawn.tokens[:2] != drawn.tokens[2:]).any()


def test_each_program_is_traced_once(players, split):
  (fwm, idm), params = players
  one_step._compiled.cache_clear()
  for seed in range(2):
    arguments = setting() | {"key": jax.random.key(seed), "temperature": 1.0 - seed / 4}
    one_step.fwm(fwm, params, split, **arguments)
    one_step.idm(idm, params, split, **arguments)
    one_step.latents(idm, params, split, shown=1, **arguments)
    multi_turn.multi_turn(fwm, params, split, [(0, 1)], batch=2, world=WORLD, shown=1)
    one_step.best_of(fwm, params, idm, params, split, n=3, **arguments)
  # Greedy, sampled, scored, for both; actions crossed with pairs; best of n.
  assert one_step._compiled.cache_info().currsize == 8


def test_eight_devices_equal_one(players, split):
  (fwm, _), params = players
  alone = one_step.fwm(fwm, params, split, **setting(batch=8))
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  with jax.set_mesh(mesh):
    spread = jax.device_put(params, sharding.tree_shardings(params, mesh))
    together = one_step.fwm(fwm, spread, split, **setting(batch=8))
  assert together["examples"] == alone["examples"]
  assert together["metrics"] == pytest.approx(alone["metrics"], abs=1e-5)

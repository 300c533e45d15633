"""What a run says: ranked by its own log-probability or by the IDM's, drawn by the seed."""

import functools

import jax
import numpy as np
import pytest
import tiny

from swirl_jax import predict
from swirl_jax.predict import Predictor
from swirl_jax.types import Segment, Transition
from tests.test_export import fake_run


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
  folder = tmp_path_factory.mktemp("run")
  fake_run(folder)
  return Predictor(str(folder))


@pytest.fixture(scope="module")
def texts(predictor):
  """A state, another one, and an action."""
  return [" ".join(predictor.world.words[a:b]) for a, b in ((3, 9), (5, 11), (0, 3))]


@pytest.mark.parametrize("field", ["y", "z"])
def test_the_likeliest_is_first_and_the_seed_decides(predictor, texts, field):
  x, y, z = texts
  if field == "y":
    ask = functools.partial(predictor.next_states, x, z)
  else:
    ask = functools.partial(predictor.actions, x, y)
  answers = ask(n=6)
  logp = [a.logp for a in answers]
  assert logp == sorted(logp, reverse=True) and len(set(logp)) > 3
  assert ask(n=6) == answers != ask(n=6, seed=1)
  assert ask(n=6, temperature=0.01)[0].logp > logp[0]
  assert ask(n=1) == ask(n=1, seed=1, temperature=3.0)  # one answer is the greedy one


def test_the_columns_are_named():
  drawn = [predict.Answer("a b", -1.25, -0.5), predict.Answer("c", -10.0, -2.0)]
  assert predict.table(drawn, ["a b", "c"], "y").splitlines() == [
    "log P(y|x,z)  log Q per token  next state",
    "      -1.250           -0.500  a b",
    "     -10.000           -2.000  c",
  ]
  unverified = [a._replace(verified=None) for a in drawn]
  assert predict.table(unverified, ["a b", "c"], "z").splitlines() == [
    "log Q(z|x,y)  action", "      -1.250  a b", "     -10.000  c"]  # fmt: skip


def test_verified_states_are_ranked_by_the_idm(predictor, texts):
  x, _, z = texts
  answers = predictor.next_states(x, z, n=6, verify=True)
  scores = [a.verified for a in answers]
  assert scores == sorted(scores, reverse=True) and len(set(scores)) > 3
  unverified = predictor.next_states(x, z, n=6)
  assert sorted(a.logp for a in answers) == sorted(a.logp for a in unverified)
  x, y, z = (
    Segment(ids, np.ones(ids.shape, bool))
    for ids in (np.array([predictor.world.tokenizer.encode(t)]) for t in (x, answers[0].text, z))
  )
  role = predictor.players.idm
  target = role.target(Segment(*(a[:, None] for a in z)))
  with jax.set_mesh(predictor.mesh):
    score = tiny.jit(lambda p: role.logprobs(p, Transition(x, y, z), target)[0])
    logp = np.asarray(score(predictor.models[predictor.names["z"]]))
  expected = logp[np.asarray(target.mask)].mean()
  assert scores[0] == pytest.approx(expected, abs=1e-4)

"""What a role's policy is when it is trained and scored: over the allowed tokens, capped, in the
compute dtype.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import PartitionSpec

from swirl_jax import phases, sharding
from swirl_jax.models import transformer
from swirl_jax.phases import PhaseSpec, Slots

CONFIG = tiny.config(n_layers=1, scan_layers=False)
PARAMS, REFERENCE, FROZEN = (tiny.params(CONFIG, seed) for seed in range(3))
ALLOWED = ((tiny.TOKENIZER.eos, tiny.TOKENIZER.eos + 1), (10, 24))
FWM, IDM = tiny.fwm(CONFIG, group=3, allowed=ALLOWED), tiny.idm(CONFIG)
BATCH = tiny.transitions(5, 4)
KEY = jax.random.key(0)


@pytest.mark.parametrize("ratio", phases.RATIOS)
def test_an_update_compares_and_moves_the_policy_over_the_allowed_tokens(ratio):
  """Its reference, the policy that drew, and the gradient, against `log_softmax` over those."""
  spec = PhaseSpec(FWM, IDM, tiny.PLAIN, reference="snapshot", inner_epochs=2, ratio=ratio)
  slots, state = Slots(FROZEN, REFERENCE), tiny.state(PARAMS)

  @tiny.jit
  def both():
    e, _ = phases._collect(state, slots, BATCH, KEY, tiny.hyper(), spec)
    ours = jax.grad(lambda p: phases.policy_loss(p, e, tiny.hyper(), spec)[0])(PARAMS)

    def plain(params):  # at the policy that drew, whose ratios are 1
      logp = tiny.plain_logprobs(FWM, params, BATCH, e.target)
      d = jnp.where(e.mask, logp - jax.lax.stop_gradient(logp), 0.0)
      if ratio == "sequence":
        d = d.sum(-1, keepdims=True) / e.mask.sum(-1, keepdims=True)
      k = jnp.where(e.mask, e.logp_ref - logp, 0.0)
      terms = 0.1 * (jnp.exp(k) - 1 - k) - jnp.exp(d) * e.advantages
      return (e.weight * jnp.where(e.mask, terms, 0.0)).sum()

    known = [tiny.plain_logprobs(FWM, p, BATCH, e.target) for p in (PARAMS, REFERENCE)]
    return e, ours, jax.grad(plain)(PARAMS), known

  e, ours, expected, (old, reference) = both()
  real = np.asarray(e.mask)
  np.testing.assert_allclose(e.logp_old[real], old[real], atol=1e-4)
  np.testing.assert_allclose(e.logp_ref[real], reference[real], atol=1e-4)
  tiny.assert_gradients_close(ours, expected)


def test_log_probabilities_are_of_capped_logits():
  """As Gemma 2 has them, in the values and in both forms of the loss."""
  config = dataclasses.replace(CONFIG, final_softcap=2.0)
  role, target = tiny.fwm(config), tiny.segment(np.random.default_rng(1), (4, 1), tiny.STATE)

  @tiny.jit
  def both(params):
    terms = lambda logp, entropy, mask: (jnp.where(mask, logp, 0.0), {})  # noqa: E731
    logp, _ = role.logprobs(params, BATCH, target)
    return logp, role.separable_loss(params, BATCH, target, target.mask, terms)[0]

  logp, total = both(PARAMS)
  expected = 0.0
  for b in range(4):
    prompt = tiny.prompt_ids(role, x=tiny.real(BATCH.x, b), z=tiny.real(BATCH.z, b))
    answer = tiny.real(target, b, 0)
    found = tiny.numpy_logprobs(PARAMS, config, prompt, answer)
    np.testing.assert_allclose(logp[b, 0, : len(answer)], found, atol=2e-5)
    expected += found.sum()
  np.testing.assert_allclose(total, expected, rtol=1e-5)


def test_a_policy_runs_in_its_compute_dtype():
  """Float32 parameters are rounded to bfloat16 for a rollout and for scores alike."""
  config = dataclasses.replace(CONFIG, dtype="bfloat16")
  role, low = tiny.fwm(config), transformer.compute_params(PARAMS, config)
  assert {a.dtype for a in jax.tree.leaves(low)} == {jnp.dtype("bfloat16")}
  target = tiny.segment(np.random.default_rng(1), (4, 1), tiny.STATE)
  make = lambda p: role.rollout(p, BATCH, KEY, 1.0)  # noqa: E731
  score = lambda p: role.logprobs(p, BATCH, target)  # noqa: E731
  for f in (make, score):
    run = tiny.jit(f)
    jax.tree.map(np.testing.assert_array_equal, run(PARAMS), run(low))


@pytest.mark.parametrize("gather", [False, True])
def test_a_rollout_gathers_its_weights_once_where_it_is_asked_to(gather):
  """Every matrix is laid out anew without the fsdp axis, before the loop over the tokens and, since
  a barrier has both, not before the prompt is known.
  """
  role = dataclasses.replace(FWM, gather=gather)
  with jax.set_mesh(sharding.make_mesh(data=1, fsdp=4, tensor=2)):
    found = jax.make_jaxpr(role.rollout)(PARAMS, BATCH, KEY, 1.0)
  layouts = [
    (e.outvars[0].aval.shape, e.params["sharding"].spec)
    for e in found.eqns
    if e.primitive.name == "sharding_constraint"
  ]
  for part, name, axes in (("attention", "qkv", (None, None, "tensor", None, None)),
                           ("mlp", "down", (None, "tensor", None))):  # fmt: skip
    wanted = PARAMS["layers"][part][name].shape, PartitionSpec(*axes)
    assert (wanted in layouts) == gather, name
  barriers = [e for e in found.eqns if e.primitive.name == "optimization_barrier"]
  assert len(barriers) == gather
  for barrier in barriers:
    behind = {id(v) for v in barrier.outvars}
    laid_out = [e for e in found.eqns if e.primitive.name == "sharding_constraint"]
    moved = [e for e in laid_out if id(e.invars[0]) in behind]
    assert len(moved) == len(jax.tree.leaves(PARAMS)) and len(behind) == len(moved) + 2


def test_a_rollout_gathers_nothing_where_no_mesh_splits_the_weights():
  role = dataclasses.replace(FWM, gather=True)
  with jax.set_mesh(sharding.make_mesh(data=8, fsdp=1, tensor=1)):
    assert "optimization_barrier" not in str(jax.make_jaxpr(role.rollout)(PARAMS, BATCH, KEY, 1.0))

"""Signs of failing latent actions, on cases made by hand."""

import numpy as np
import pytest

from swirl_jax.evaluation import detectors


def actions(true, said):
  """log Q(z_i | pair j): pair j is always called said[j]."""
  return np.where(np.asarray(true)[:, None] == np.asarray(said)[None, :], 0.0, -np.inf)


def test_gap_by_hand():
  mean, error = detectors.imagined_gap(np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.0, 1.0]))
  np.testing.assert_allclose([mean, error], [5 / 3, 1 / 3], rtol=1e-6)


def test_gap_is_paired_and_signed():
  scores = np.random.default_rng(0).normal(size=200) * 30.0
  mean, error = detectors.imagined_gap(scores - 0.5, scores)
  np.testing.assert_allclose(mean, -0.5, rtol=1e-4)
  assert error < 1e-4  # what both share is no noise


@pytest.mark.parametrize("shapes", [((1,), (1,)), ((0,), (0,))])
def test_gap_needs_two(shapes):
  with pytest.raises(ValueError, match="allowed is 2 or more"):
    detectors.imagined_gap(*(np.zeros(s) for s in shapes))


def test_gap_needs_pairs():
  with pytest.raises(AssertionError):
    detectors.imagined_gap(np.zeros(3), np.zeros(4))
  with pytest.raises(AssertionError):
    detectors.imagined_gap(np.zeros((2, 2)), np.zeros((2, 2)))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_actions_that_are_as_common(count):
  said = np.repeat(np.arange(count), 3)
  log_q = actions(said, said)
  np.testing.assert_allclose(detectors.effective_actions(log_q), count, rtol=1e-5)
  np.testing.assert_allclose(detectors.action_information(log_q), np.log(count), atol=1e-6)


def test_an_idm_that_ignores_what_it_sees():
  """Many actions and no information: the two signs differ."""
  q = np.array([0.5, 0.25, 0.25])
  log_q = np.log(q)[:, None] + np.zeros((3, 3))
  np.testing.assert_allclose(detectors.action_information(log_q), 0.0, atol=1e-6)
  np.testing.assert_allclose(
    detectors.effective_actions(log_q), np.exp(-np.log(q).mean()), rtol=1e-5
  )


def test_skewed_by_hand():
  """Three pairs are a, one is b: perplexity exp(−(3 ln ¾ + ln ¼) / 4), information its log."""
  said = [0, 0, 0, 1]
  expected = -(3 * np.log(0.75) + np.log(0.25)) / 4
  np.testing.assert_allclose(detectors.action_information(actions(said, said)), expected, rtol=1e-5)
  np.testing.assert_allclose(
    detectors.effective_actions(actions(said, said)), np.exp(expected), rtol=1e-5
  )


@pytest.mark.parametrize("sign", [detectors.action_information, detectors.effective_actions])
def test_matrix_is_square(sign):
  with pytest.raises(ValueError, match=r"found shape \(2, 3\)"):
    sign(np.zeros((2, 3)))
  with pytest.raises(AssertionError):
    sign(np.zeros(3))

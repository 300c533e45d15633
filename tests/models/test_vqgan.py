"""The VQGAN by itself: hand-computed parts, identities of its gradients, and what it refuses."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from swirl_jax.models import vqgan
from swirl_jax.models.vqgan import VQConfig

CONFIG = VQConfig(
  ch=8, ch_mult=(1, 2), res_blocks=1, attn_levels=(1,), z_channels=6, embed_dim=4, codes=16,
  groups=4,
)  # fmt: skip
SIZE = (6, 8)


@pytest.fixture(scope="module")
def params():
  params = jax.jit(vqgan.init_params, static_argnums=0)(CONFIG, jax.random.key(0))
  book = jax.random.normal(jax.random.key(1), params["codebook"].shape)  # codes that differ
  return params | {"codebook": book}


def pixels(n=2, seed=0):
  return np.random.RandomState(seed).uniform(-1, 1, (n, *SIZE, 3)).astype(np.float32)


def apply(params, method, *args, config=CONFIG):
  return vqgan.VQGAN(config).apply({"params": params}, *args, method=method)


encode = tiny.jit(vqgan.encode, static_argnums=1)
decode = tiny.jit(vqgan.decode, static_argnums=1)
reconstruct = tiny.jit(vqgan.reconstruct, static_argnums=1)


# ------------------------------------------------------------------------------------------ parts


def test_group_norm_is_flaxs_and_keeps_a_large_mean():
  x = jax.random.normal(jax.random.key(0), (2, 3, 5, 8)) * 3 + 1
  scale, bias = jax.random.normal(jax.random.key(1), (2, 8))
  params = {"params": {"scale": scale, "bias": bias}}
  expected = nn.GroupNorm(4, epsilon=1e-6).apply(params, x)
  ours = vqgan.GroupNorm(4)
  np.testing.assert_allclose(ours.apply(params, x), expected, atol=2e-6)
  still = {"params": {"scale": jnp.ones(8), "bias": jnp.zeros(8)}}
  far = ours.apply(still, x + 4000.0)  # E[x²] − E[x]² would be left with three digits or fewer
  np.testing.assert_allclose(far, ours.apply(still, x), atol=1e-3)


def test_a_downsampling_is_padded_behind_alone():
  """Ones under a kernel of ones: what lies outside is missing right and below, nowhere else."""
  params = {"kernel": jnp.ones((3, 3, 1, 1)), "bias": jnp.full((1,), 0.5)}
  y = vqgan.Conv(1, stride=2).apply({"params": params}, jnp.ones((1, 4, 4, 1)))
  np.testing.assert_array_equal(y[0, :, :, 0], [[9.5, 6.5], [6.5, 4.5]])


def test_the_nearest_vector_is_the_code(params):
  """Codebook by hand: squared distances 0.18, 0.98 and 2.18 from the first vector; a tie goes to
  the first of equals.
  """
  book = jnp.zeros((16, 4)).at[:].set(50.0)
  book = book.at[3].set(jnp.array([1.0, 0, 0, 0])).at[5].set(jnp.array([0, 1.0, 0, 0]))
  book = book.at[7].set(jnp.array([0, 0, 1.0, 0]))
  latents = jnp.array([[0.7, 0.3, -0.3, 0], [0.1, 0.9, 0, 0], [0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0]])
  held = params | {"codebook": book}
  codes = apply(held, "codes", latents.reshape(1, 2, 2, 4))
  assert codes.dtype == jnp.int32
  np.testing.assert_array_equal(codes, [[[3, 5], [3, 5]]])
  np.testing.assert_array_equal(apply(held, "vectors", codes)[0, 0], book[jnp.array([3, 5])])


def test_codes_are_brute_forces(params):
  latents = jax.random.normal(jax.random.key(2), (2, 3, 5, 4))
  book = np.asarray(params["codebook"], np.float64)
  distances = np.square(np.asarray(latents, np.float64)[..., None, :] - book).sum(-1)
  np.testing.assert_array_equal(apply(params, "codes", latents), distances.argmin(-1))


def test_a_codebook_begins_uniform_within_one_part_of_its_codes():
  config = dataclasses.replace(CONFIG, codes=500)
  book = jax.jit(lambda: vqgan.init_params(config, jax.random.key(0))["codebook"])()
  assert np.abs(book).max() <= 1 / 500 and book.std() == pytest.approx(1 / 500 / 3**0.5, rel=0.05)


# ------------------------------------------------------------------------------------------ whole


def test_shapes_and_a_batch_is_its_pictures(params):
  x = pixels(3)
  codes = encode(params, CONFIG, x)
  assert codes.shape == (3, 3, 4) and codes.dtype == jnp.int32
  assert len(np.unique(codes)) > 3
  np.testing.assert_array_equal(codes[1:2], encode(params, CONFIG, x[1:2]))
  y = decode(params, CONFIG, codes)
  assert y.shape == x.shape and y.dtype == jnp.float32
  assert np.abs(y).max() <= 1
  np.testing.assert_allclose(y[1:2], decode(params, CONFIG, codes[1:2]), atol=1e-5)


def test_reconstruct_is_encode_then_decode(params):
  x = pixels()
  y, codes, latents, quantised = reconstruct(params, CONFIG, x)
  np.testing.assert_array_equal(codes, encode(params, CONFIG, x))
  np.testing.assert_allclose(y.clip(-1, 1), decode(params, CONFIG, codes), atol=1e-5)
  np.testing.assert_array_equal(quantised, params["codebook"][codes])
  assert latents.shape == quantised.shape == (2, 3, 4, 4)


def test_gradients_go_straight_through_and_the_codebook_learns_by_its_loss_alone(params):
  """∂/∂encoder of the reconstruction is the encoder's own, at the decoder's gradient at e."""
  x = pixels()
  weight = jax.random.normal(jax.random.key(3), x.shape)

  @jax.jit
  def gradients(p):
    whole = jax.grad(lambda p: (vqgan.reconstruct(p, CONFIG, x)[0] * weight).sum())(p)
    z, back = jax.vjp(lambda p: apply(p, "latents", x), p)
    codes = apply(p, "codes", z)
    e = apply(p, "vectors", codes)
    by_parts = back(jax.grad(lambda e: (apply(p, "pixels", e) * weight).sum())(e))[0]
    book = jax.grad(lambda p: vqgan.quantiser_losses(*vqgan.reconstruct(p, CONFIG, x)[2:])[0])(p)
    return whole, by_parts, book, codes

  whole, by_parts, book, codes = gradients(params)
  for part in ("encoder", "quant_conv"):
    for a, b in zip(*map(jax.tree.leaves, (whole[part], by_parts[part])), strict=True):
      np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3)
  assert np.abs(whole["encoder"]["conv_in"]["kernel"]).max() > 0.1
  assert not whole["codebook"].any()
  learned = np.flatnonzero(np.abs(book["codebook"]).sum(-1))
  assert learned.tolist() == np.unique(codes).tolist()
  assert not any(a.any() for a in jax.tree.leaves(book["encoder"]))


def test_quantiser_losses_by_hand():
  """z = (1, 2), e = (0, 4): both (1 + 4) / 2; 2 (e − z) / 2 moves e, 2 (z − e) / 2 moves z."""
  z, e = jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0])
  assert [float(v) for v in vqgan.quantiser_losses(z, e)] == [2.5, 2.5]
  for which, expected in ((0, ([0, 0], [-1, 2])), (1, ([1, -2], [0, 0]))):
    found = jax.grad(lambda z, e, i=which: vqgan.quantiser_losses(z, e)[i], argnums=(0, 1))(z, e)
    np.testing.assert_array_equal(found, expected)


def test_bfloat16_computes_in_it_and_measures_in_float32(params):
  config = dataclasses.replace(CONFIG, dtype="bfloat16")
  x = pixels()
  found = tiny.jit(lambda p, x: apply(p, "latents", x, config=config))(params, x)
  expected = tiny.jit(lambda p, x: apply(p, "latents", x))(params, x)
  assert found.dtype == jnp.float32
  assert 1e-5 < np.abs(found - expected).max() < 0.1 * np.abs(expected).max()
  y, codes, *_ = reconstruct(params, config, x)
  assert y.dtype == jnp.float32
  assert (codes == encode(params, CONFIG, x)).mean() > 0.7


# ----------------------------------------------------------------------------------------- errors


def test_a_code_that_is_none_makes_its_picture_nan_and_no_other(params):
  codes = encode(params, CONFIG, pixels())
  for wrong in (16, -1, 2**30):
    y = decode(params, CONFIG, codes.at[1, 0, 0].set(wrong))
    assert np.isnan(y[1]).any() and np.isfinite(y[0]).all()


@pytest.mark.parametrize(
  "field, value, message",
  [
    ("ch", 0, "vq.ch = 0: allowed is a whole number from 1"),
    ("ch", 8.0, "vq.ch = 8.0"),
    ("codes", True, "vq.codes = True"),
    ("embed_dim", -1, "vq.embed_dim = -1"),
    ("ch_mult", (), r"vq.ch_mult = \(\)"),
    ("ch_mult", (1, 0), r"vq.ch_mult = \(1, 0\)"),
    ("attn_levels", (2,), r"vq.attn_levels = \(2,\): allowed are levels from 0 to 1"),
    ("attn_levels", (1, 1), "twice"),
    ("mid_attention", 1, "vq.mid_attention = 1"),
    ("groups", 3, "vq.groups = 3: allowed are divisors of vq.ch = 8"),
    ("dtype", "float16", "vq.dtype = 'float16'"),
  ],
)
def test_a_config_names_the_field_that_is_wrong(field, value, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(CONFIG, **{field: value})


def test_sizes():
  assert VQConfig().factor == 16 and VQConfig().grid(512, 512) == (32, 32)
  small = VQConfig(ch=32, ch_mult=(1, 2, 2, 4), embed_dim=32, codes=128, mid_attention=False)
  assert small.grid(40, 32) == (5, 4)
  with pytest.raises(ValueError, match="pixels 0 x 32: allowed are multiples of 8"):
    small.grid(0, 32)
  with pytest.raises(ValueError, match="pixels 40 x 36: allowed are multiples of 8"):
    small.grid(40, 36)


def test_pixels_and_codes_are_checked(params):
  for wrong, message in (
    (pixels()[0], r"allowed is \[N, H, W, 3\]"),
    (pixels()[..., :1], r"allowed is \[N, H, W, 3\]"),
    (np.zeros((1, 4, 4, 3), np.uint8), "pixels are uint8"),
    (pixels()[:, :5], "pixels 5 x 8"),
  ):
    with pytest.raises(ValueError, match=message):
      vqgan.encode(params, CONFIG, wrong)
    with pytest.raises(ValueError, match=message):
      vqgan.reconstruct(params, CONFIG, wrong)
  for wrong in (np.zeros((2, 2), np.int32), np.zeros((1, 2, 2), np.float32)):
    with pytest.raises(ValueError, match="allowed are whole numbers"):
      vqgan.decode(params, CONFIG, wrong)


def test_without_a_decoder_pictures_become_codes_alone(params):
  encoder = {k: v for k, v in params.items() if k != "decoder"}
  codes = encode(encoder, CONFIG, pixels())
  np.testing.assert_array_equal(codes, encode(params, CONFIG, pixels()))
  for call in (lambda: vqgan.decode(encoder, CONFIG, codes),
               lambda: vqgan.reconstruct(encoder, CONFIG, pixels())):  # fmt: skip
    with pytest.raises(ValueError, match="no decoder weights.*vqgan.ckpt.*convert_vqgan"):
      call()

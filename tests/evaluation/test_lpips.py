"""LPIPS with random weights: its identities, what it refuses, and torch's own layers beside it."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch_old

from swirl_jax.evaluation import lpips


def weights(seed=0):
  """AlexNet's and the heads', by the names that torchvision and the lpips package give them."""
  rng, trunk, heads, channels = np.random.default_rng(seed), {}, {}, 3
  for i, layer in enumerate(lpips.LAYERS):
    shape = (layer.channels, channels, layer.kernel, layer.kernel)
    scale = np.sqrt(2 / np.prod(shape[1:]))
    trunk[f"features.{layer.place}.weight"] = scale * rng.normal(size=shape)
    trunk[f"features.{layer.place}.bias"] = 0.1 * rng.normal(size=layer.channels)
    heads[f"lin{i}.model.1.weight"] = rng.uniform(size=(1, layer.channels, 1, 1))
    channels = layer.channels
  return trunk | {"classifier.1.weight": np.ones((2, 2))}, heads


def write(folder, trunk, heads):
  torch_old.write(folder / "alexnet-owt-0123abcd.pth", trunk)
  torch_old.write(folder / "alex.pth", heads)
  return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return write(tmp_path_factory.mktemp("lpips"), *weights())


def draw(seed, size=(40, 32)):
  return np.random.default_rng(seed).integers(0, 256, (2, *size, 3)).astype(np.uint8)


def score(measure, a, b):
  return np.asarray(measure.scores((), None, measure.features(a), measure.features(b))["lpips"])


def test_identities(folder):
  """0 for equal pictures, the same both ways, more for what differs more; by picture."""
  measure, a, b = lpips.measure(folder), draw(0), draw(1)
  near = (a.astype(int) + (b.astype(int) - a) // 8).astype(np.uint8)
  assert measure.names == ("lpips",)
  np.testing.assert_array_equal(score(measure, a, a), 0.0)
  np.testing.assert_allclose(score(measure, a, b), score(measure, b, a), rtol=1e-5)
  assert (0 < score(measure, a, near)).all()
  assert (score(measure, a, near) < score(measure, a, b)).all()
  mixed = score(measure, a, np.stack([a[0], b[1]]))
  assert mixed[0] == 0.0 and mixed[1] == pytest.approx(score(measure, a, b)[1], rel=1e-5)


def test_the_distance_by_hand():
  """Two layers, one of 1 × 2 places: 3 · mean(1², 0²) + (5 · 2² + 7 · 1²)."""
  heads = [jnp.array([3.0]), jnp.array([5.0, 7.0])]
  a = jnp.array([[[[1.0], [2.0]]]]), jnp.array([[[[2.0, 1.0]]]])
  b = jnp.array([[[[0.0], [2.0]]]]), jnp.array([[[[0.0, 2.0]]]])
  assert lpips.distance(heads, a, b) == pytest.approx(1.5 + 27.0)


def test_a_place_of_the_first_layer_by_hand(folder):
  """Place (1, 1): stride 4 and padding 2, of 11 x 11 pixels from (2, 2)."""
  trunk, _ = weights()
  pixels = draw(5, (31, 31))
  x = pixels[0, 2:13, 2:13] / 127.5 - 1 - np.array([-0.030, -0.088, -0.188])
  x = x / np.array([0.458, 0.448, 0.450])
  h = np.einsum("hwc,ochw->o", x, trunk["features.0.weight"]) + trunk["features.0.bias"]
  h = np.maximum(h, 0)
  found = lpips.measure(folder).features(pixels)[0]
  np.testing.assert_allclose(found[0, 1, 1], h / np.linalg.norm(h), atol=1e-5)


def test_two_networks_in_a_folder_are_refused(tmp_path):
  """Which of them was meant can't be known."""
  trunk, heads = weights()
  folder = write(tmp_path, trunk, heads)
  torch_old.write(tmp_path / "alexnet-owt-89abcdef.pth", trunk)
  with pytest.raises(ValueError, match=r"2 files alexnet-owt-\*.pth there"):
    lpips.measure(folder)


def test_small_pictures(folder):
  measure = lpips.measure(folder)
  with pytest.raises(ValueError, match="allowed are 31 pixels a side and more"):
    measure.features(draw(0, (31, 30)))


def test_refused(tmp_path):
  with pytest.raises(ValueError, match=r"0 files alexnet-owt-\*.pth there; allowed is a folder"):
    lpips.load(str(tmp_path))
  trunk, heads = weights()
  write(tmp_path, trunk, {k: v for k, v in heads.items() if "lin3" not in k})
  with pytest.raises(ValueError, match=r"lin3.model.1.weight is not there; allowed is \(1, 256"):
    lpips.load(str(tmp_path))
  write(tmp_path, trunk | {"features.3.bias": np.ones(64)}, heads)
  with pytest.raises(ValueError, match=r"features.3.bias has shape \(64,\); allowed is \(192,\)"):
    lpips.load(str(tmp_path))
  (tmp_path / "alex.pth").write_bytes(b"none")
  with pytest.raises(ValueError, match="lpips = .*alex.pth: none of torch.save's files"):
    lpips.load(str(tmp_path))


@pytest.mark.torch
def test_against_torch(tmp_path):
  """The same by torch's own layers, in the order in which the authors' package has them."""
  torch = pytest.importorskip("torch")
  trunk, heads = ({k: torch.tensor(v, dtype=torch.float32) for k, v in w.items()}
                  for w in weights())  # fmt: skip
  torch.save(trunk, tmp_path / "alexnet-owt-0123abcd.pth")
  torch.save(heads, tmp_path / "alex.pth", _use_new_zipfile_serialization=False)
  functional = torch.nn.functional
  shift, scale = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (lpips._SHIFT, lpips._SCALE))

  def features(pictures):
    h, found = torch.tensor(pictures).permute(0, 3, 1, 2).float() / 255, []
    h = (2 * h - 1 - shift) / scale
    for layer in lpips.LAYERS:
      h = functional.max_pool2d(h, 3, 2) if layer.pool else h
      name = f"features.{layer.place}"
      h = functional.conv2d(h, trunk[f"{name}.weight"], trunk[f"{name}.bias"], layer.stride,
                            layer.padding).relu()  # fmt: skip
      found.append(h / (h.square().sum(1, keepdim=True).sqrt() + 1e-10))
    return found

  a, b = draw(2, (64, 49)), draw(3, (64, 49))
  expected = sum(
    functional.conv2d((f - g).square(), heads[f"lin{i}.model.1.weight"]).mean((1, 2, 3))
    for i, (f, g) in enumerate(zip(features(a), features(b), strict=True))
  )
  found = score(lpips.measure(str(tmp_path)), a, b)
  np.testing.assert_allclose(found, expected.numpy(), rtol=2e-5)

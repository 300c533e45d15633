"""Files of torch.save of before torch 1.6, written by hand and by torch itself."""

import numpy as np
import pytest
import torch_old

from swirl_jax.models import torch_files
from swirl_jax.models.safetensors_files import CheckpointFilesError

TENSORS = {
  "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
  "a.bias": np.array([0.5], np.float32),
}


def test_what_was_written_is_read(tmp_path):
  torch_old.write(tmp_path / "old.pth", TENSORS)
  found = torch_files.read(tmp_path / "old.pth")
  assert list(found) == list(TENSORS)
  for name, array in TENSORS.items():
    np.testing.assert_array_equal(found[name], array)
    assert found[name].dtype == np.float32


@pytest.mark.parametrize("change, complaint", [
  ({"call": b"cos\nsystem\n"}, "its pickle calls os.system"),
  ({"version": 1000}, "version 1000, little-endian True; allowed are 1001, True"),
  ({"cut": 2}, "is damaged"),
  ({"cut": 13}, "is damaged"),
])  # fmt: skip
def test_refused(tmp_path, change, complaint):
  torch_old.write(tmp_path / "old.pth", TENSORS, **change)
  with pytest.raises(CheckpointFilesError, match=f"old.pth.*{complaint}"):
    torch_files.read(tmp_path / "old.pth")


@pytest.mark.parametrize("data", [b"", b"hello, world", b"\x80\x02K\x07."])
def test_other_files(tmp_path, data):
  (tmp_path / "other.pth").write_bytes(data)
  with pytest.raises(CheckpointFilesError, match="none of torch.save's files"):
    torch_files.read(tmp_path / "other.pth")
  with pytest.raises(CheckpointFilesError, match="no such file"):
    torch_files.read(tmp_path / "missing.pth")


@pytest.mark.torch
@pytest.mark.parametrize("new", [True, False])
def test_what_torch_writes(tmp_path, new):
  """Both formats; a transposed tensor, two that share a storage, whole numbers, a parameter."""
  torch = pytest.importorskip("torch")
  whole = torch.arange(12.0).reshape(3, 4)
  saved = {"t": whole.T, "row": whole[1], "n": torch.tensor([3, 4]),
           "p": torch.nn.Parameter(torch.ones(2, 2))}  # fmt: skip
  torch.save(saved, tmp_path / "saved.pth", _use_new_zipfile_serialization=new)
  found = torch_files.read(tmp_path / "saved.pth")
  for name, value in saved.items():
    np.testing.assert_array_equal(found[name], value.detach().numpy())

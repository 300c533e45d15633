"""torch.save's files without torch: every number arrives, and nothing that a pickle names runs."""

import collections
import zipfile

import numpy as np
import pytest

from swirl_jax.models import torch_files, torch_zip
from swirl_jax.models.safetensors_files import CheckpointFilesError
from tests.torch_files import Call, Global, Stored, some_arrays, write


def assert_same(found, expected):
  assert list(found) == list(expected)
  for name, array in expected.items():
    assert found[name].dtype == array.dtype, name
    np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("lightning", [False, True])
def test_every_kind_arrives(tmp_path, lightning):
  arrays = some_arrays()
  saved = collections.OrderedDict(arrays)
  if lightning:  # what else such a file holds is not looked at
    saved = {"epoch": 3, "state_dict": saved, "best": np.array(np.inf, np.float32)}
  assert_same(torch_zip.read(write(tmp_path / "a.ckpt", saved)), arrays)


def test_views_share_a_storage(tmp_path):
  """A transpose and a row of one storage of 12: by hand."""
  numbers = np.arange(12, dtype=np.float32)
  saved = {
    "t": Stored("x", "float32", 12, (4, 3), (1, 4)),
    "row": Stored("x", "float32", 12, (4,), (1,), 4),
    "parameter": Call(
      Global("torch._utils", "_rebuild_parameter"), (Stored("x", "float32", 12, (), (), 7), True)
    ),
  }
  found = torch_zip.read(write(tmp_path / "a.pt", saved, {"x": numbers.tobytes()}))
  np.testing.assert_array_equal(found["t"], numbers.reshape(3, 4).T)
  np.testing.assert_array_equal(found["row"], [4, 5, 6, 7])
  assert found["parameter"] == 7


@pytest.mark.parametrize(
  "size, stride, offset",
  [((4, 3), (3, 1), 1), ((2,), (12,), 0), ((2,), (-1,), 5), ((1,), (1,), -1), ((-1,), (1,), 0)],
)
def test_a_tensor_outside_its_storage_is_refused(tmp_path, size, stride, offset):
  saved = {"w": Stored("x", "float32", 12, size, stride, offset)}
  file = write(tmp_path / "a.pt", saved, {"x": bytes(48)})
  with pytest.raises(CheckpointFilesError, match="outside its storage 'x' of 12"):
    torch_zip.read(file)


@pytest.mark.parametrize(
  "module, name", [("os", "system"), ("builtins", "eval"), ("torch.nn.modules.conv", "Conv2d")]
)
def test_nothing_else_is_called(tmp_path, module, name):
  told = tmp_path / "told"
  saved = {"w": Call(Global(module, name), (f"touch {told}",))}
  with pytest.raises(CheckpointFilesError, match=f"its pickle calls {module}.{name}"):
    torch_zip.read(write(tmp_path / "a.pt", saved))
  assert not told.exists()


def test_what_is_no_state_dict_is_refused_by_name(tmp_path):
  cases = [
    ({"w": np.ones(2, np.float32), "lr": 0.1}, "'lr' is a float"),
    ({"w": {"v": np.ones(2, np.float32)}}, "'w' is a dict"),
    ({3: np.ones(2, np.float32)}, "3 is a ndarray"),
    (np.ones(2, np.float32), "holds a ndarray, expected a state dict"),
    ({"w": np.array([1, np.nan], np.float32)}, "tensor 'w' in .*NaN or infinity"),
    ({"w": Stored("x", "float32", 2, (2,), (1,))}, "the storage 'archive/data/x' is missing"),
  ]
  for i, (saved, message) in enumerate(cases):
    with pytest.raises(CheckpointFilesError, match=message):
      torch_zip.read(write(tmp_path / f"{i}.pt", saved))


def test_damaged_files_are_refused(tmp_path):
  whole = write(tmp_path / "a.pt", {"w": np.arange(500, dtype=np.float32)})
  content = whole.read_bytes()
  half = len(content) // 2
  central, local = content.index(b"PK\x01\x02"), content.index(b"PK\x03\x04")
  broken = tmp_path / "broken.pt"
  for bad in (
    content[:half], content[half:],
    *(content[:at] + b"?" + content[at + 1 :] for at in (central, local, local + 30)),
  ):  # fmt: skip
    broken.write_bytes(bad)
    with pytest.raises(CheckpointFilesError, match="broken.pt: it is damaged"):
      torch_zip.read(broken)
  flipped = tmp_path / "flipped.pt"
  at = content.index(np.arange(500, dtype=np.float32).tobytes())
  flipped.write_bytes(content[: at + 8] + b"\x01" + content[at + 9 :])
  with pytest.raises(CheckpointFilesError, match="'archive/data/0' is damaged"):
    torch_zip.read(flipped)
  small = write(tmp_path / "b.pt", {"w": np.zeros(9, np.float32)}, compression=zipfile.ZIP_DEFLATED)
  with pytest.raises(CheckpointFilesError, match="expected 36 without compression"):
    torch_zip.read(small)
  short = {"w": Stored("x", "float32", 12, (4, 3), (3, 1))}
  with pytest.raises(CheckpointFilesError, match="has 44 bytes .*expected 48"):
    torch_zip.read(write(tmp_path / "c.pt", short, {"x": bytes(44)}))
  with pytest.raises(CheckpointFilesError, match="no such file"):
    torch_zip.read(tmp_path / "none.pt")
  with zipfile.ZipFile(tmp_path / "d.pt", "w") as archive:
    archive.writestr("a/data.pkl", b"\x80\x02}q\x00X")
  with pytest.raises(CheckpointFilesError, match="d.pt: it is damaged"):
    torch_zip.read(tmp_path / "d.pt")
  with zipfile.ZipFile(tmp_path / "e.pt", "w") as archive:
    archive.writestr("a/weights", b"")
  with pytest.raises(CheckpointFilesError, match="0 entries data.pkl"):
    torch_zip.read(tmp_path / "e.pt")


def test_big_endian_numbers_are_refused(tmp_path):
  little = write(tmp_path / "a.pt", some_arrays())
  with zipfile.ZipFile(little) as old, zipfile.ZipFile(tmp_path / "b.pt", "w") as new:
    for name in old.namelist():
      new.writestr(name, b"big" if name == "archive/byteorder" else old.read(name))
  with pytest.raises(CheckpointFilesError, match="b.pt: its numbers are not little-endian"):
    torch_zip.read(tmp_path / "b.pt")


@pytest.mark.torch
def test_what_torch_itself_saves(tmp_path):
  torch = pytest.importorskip("torch")
  arrays = {k: a for k, a in some_arrays().items() if k != "bfloat16"}
  state = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).state_dict()
  state |= {k: torch.from_numpy(a) for k, a in arrays.items()}
  state |= {"t": torch.arange(6.0).reshape(2, 3).t(), "tail": torch.arange(6)[2:],
            "half": torch.arange(4).bfloat16(),
            "parameter": torch.nn.Parameter(torch.ones(2))}  # fmt: skip
  torch.save({"state_dict": state, "epoch": 1}, tmp_path / "a.ckpt")
  found = torch_zip.read(tmp_path / "a.ckpt")
  assert list(found) == list(state)
  for name, tensor in state.items():
    np.testing.assert_array_equal(found[name].astype(float), tensor.detach().double().numpy())
  torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
  with pytest.raises(CheckpointFilesError, match="calls torch.nn.modules.linear.Linear"):
    torch_zip.read(tmp_path / "module.pt")
  torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
  again = torch_files.read(tmp_path / "old.pt")  # the format before torch 1.6
  for name, array in found.items():
    np.testing.assert_array_equal(again[name], array)

"""Writes torch.save's format of before torch 1.6 by hand, byte by byte, without torch."""

import pickle
import struct

import numpy as np

TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"


def _int(value: int) -> bytes:
  return b"J" + struct.pack("<i", value)


def _text(value: str) -> bytes:
  return b"X" + struct.pack("<I", len(value)) + value.encode()


def _tuple(*parts: bytes) -> bytes:
  return b"(" + b"".join(parts) + b"t"


def _tensor(key: str, array: np.ndarray, call: bytes) -> bytes:
  storage = _tuple(_text("storage"), b"ctorch\nFloatStorage\n", _text(key), _text("cuda:0"),
                   _int(array.size), b"N") + b"Q"  # fmt: skip
  strides = [s // array.itemsize for s in array.strides]
  shape, strides = (_tuple(*map(_int, v)) for v in (array.shape, strides))
  hooks = b"ccollections\nOrderedDict\n)R"
  return call + _tuple(storage, _int(0), shape, strides, b"\x89", hooks) + b"R"


def write(path, tensors: dict[str, np.ndarray], *, call: bytes = TENSOR, version: int = 1001,
          cut: int = 0) -> None:  # fmt: skip
  """float32 arrays by name; call: what the pickle calls to make one; cut: bytes left out at the
  end.
  """
  arrays = {n: np.ascontiguousarray(a, np.float32) for n, a in tensors.items()}
  keys = {name: str(100 + i) for i, name in enumerate(arrays)}
  body = b"".join(_text(n) + _tensor(keys[n], a, call) + b"s" for n, a in arrays.items())
  heads = (0x1950A86A20F9469CFC6C, version, {"little_endian": True, "protocol_version": version})
  data = b"".join(pickle.dumps(v, 2) for v in heads)
  data += b"\x80\x02ccollections\nOrderedDict\n)R" + body + b"."
  data += pickle.dumps(list(keys.values()), 2)
  for array in arrays.values():
    data += struct.pack("<q", array.size) + array.tobytes()
  path.write_bytes(data[: len(data) - cut])

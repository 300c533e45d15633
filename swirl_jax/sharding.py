"""The mesh (data, fsdp, tensor) and the rules that lay parameters and activations out on it.

"pjit" is `jax.jit` over arrays with a NamedSharding. A rule is a regular expression on a leaf's
path and the mesh axis of each of its dimensions; the same table covers parameters, optimizer state
(whose paths end alike) and trees read from disk.
"""

import re
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")
HOST = "pinned_host"  # the kind of host memory from which devices copy
BATCH = ("data", "fsdp")  # the mesh axes over which a batch is split
ANY = PartitionSpec.UNCONSTRAINED  # for `constrain`: a dimension that XLA lays out
NO_MESH = Mesh(np.empty((), object), ())  # to be set where a program is one device's alone

# Layer parameters carry a leading axis L (never split). Vocabulary, heads and feed-forward go to
# `tensor`, the width to `fsdp`.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
  (r"embedding$", ("tensor", "fsdp")),  # [V, D]
  (r"head$", ("fsdp", "tensor")),  # [D, V]
  (r"layers/attention/qkv$", (None, "fsdp", "tensor", None, None)),  # [L, D, K, H/K + 2, d]
  (r"layers/attention/qkv_bias$", (None, "tensor", None, None)),  # [L, K, H/K + 2, d]
  (r"layers/attention/[qk]_norm/(scale|bias)$", (None, "tensor", None, None)),  # [L, K, H/K, d]
  (r"layers/attention/out$", (None, "tensor", None, None, "fsdp")),  # [L, K, H/K, d, D]
  (r"layers/mlp/gate_up$", (None, "fsdp", None, "tensor")),  # [L, D, 2, F]
  (r"layers/mlp/down$", (None, "tensor", "fsdp")),  # [L, F, D]
  (r"(qkv|gate_up)/a$", (None, "fsdp", None)),  # [L, D, r]
  (r"qkv/b$", (None, None, "tensor", None, None)),  # [L, r, K, H/K + 2, d]
  (r"out/a$", (None, "tensor", None, None, None)),  # [L, K, H/K, d, r]
  (r"gate_up/b$", (None, None, None, "tensor")),  # [L, r, 2, F]
  (r"down/a$", (None, "tensor", None)),  # [L, F, r]
  (r"(out|down)/b$", (None, None, "fsdp")),  # [L, r, D]
)


def make_mesh(*, data: int, fsdp: int, tensor: int, devices=None) -> Mesh:
  """A mesh of data × fsdp × tensor devices.

  Raises ValueError where the product isn't the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  shape = (data, fsdp, tensor)
  for name, size in zip(AXES, shape, strict=True):
    if not isinstance(size, int) or size < 1:
      raise ValueError(f"mesh.{name} = {size!r}: allowed is a whole number from 1.")
  if np.prod(shape) != len(devices):
    raise ValueError(
      f"mesh (data, fsdp, tensor) = {shape} needs {np.prod(shape)} devices, found {len(devices)}: "
      f"their product must be the number of devices."
    )
  # An axis may be a part of a physical one: tensor = 2 on a slice of 8 × 8 chips.
  laid_out = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
  return Mesh(laid_out, AXES, axis_types=(AxisType.Auto,) * 3)


def leaf_path(path) -> str:
  """'layers/mlp/down' for a key path of `jax.tree_util`."""
  return jax.tree_util.keystr(path, simple=True, separator="/")


def partition_spec(
  path: str, shape: tuple[int, ...], mesh: Mesh, *, gather_fsdp: bool = False
) -> PartitionSpec:
  """The first rule whose pattern is found at the end of `path`; replicated where none is.

  A dimension that the mesh axis doesn't divide stays whole (a tensor axis of 4 over 2 kv heads).
  `gather_fsdp` leaves the fsdp axis out: the layout of a rollout, which would otherwise gather the
  weights once a token.
  """
  for pattern, axes in RULES:
    if re.search(pattern, path) and len(axes) == len(shape):
      keep = [
        a if a and shape[i] % mesh.shape[a] == 0 and not (gather_fsdp and a == "fsdp") else None
        for i, a in enumerate(axes)
      ]
      return PartitionSpec(*keep)
  return PartitionSpec()


def tree_shardings(tree: Any, mesh: Mesh, *, gather_fsdp: bool = False) -> Any:
  """A NamedSharding for each leaf (array or ShapeDtypeStruct) of a tree, by the rules."""
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: NamedSharding(
      mesh, partition_spec(leaf_path(path), leaf.shape, mesh, gather_fsdp=gather_fsdp)
    ),
    tree,
  )


def on_host(layout: Any) -> Any:
  """The same shardings in the host's pinned memory."""
  return jax.tree.map(lambda at: at.with_memory_kind(HOST), layout)


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def current_mesh():
  """The mesh of the enclosing `jax.set_mesh`, or None: a single function called by hand needs no
  mesh.
  """
  mesh = jax.sharding.get_abstract_mesh()
  return None if mesh.empty else mesh


def mesh_in_use() -> Mesh:
  """The concrete mesh of the enclosing `jax.set_mesh`. Raises RuntimeError without one."""
  mesh = jax.sharding.get_mesh()
  if mesh.empty:
    raise RuntimeError("no mesh is set: call this inside `with jax.set_mesh(make_mesh(...)):`.")
  return mesh


def pieces(axis: str, size: int) -> int:
  """The number of parts that a mesh axis cuts a dimension of `size` into: 1 outside a mesh, or
  where the axis doesn't divide it.
  """
  mesh = current_mesh()
  return 1 if mesh is None or size % mesh.shape[axis] else mesh.shape[axis]


def constrain(x: jax.Array, *axes) -> jax.Array:
  """Pins the layout of an activation: `constrain(h, BATCH, None, None)`.

  Outside a mesh it is the identity.

  Axes beyond those given stay whole, as does a dimension that its mesh axes don't divide.
  """
  mesh = current_mesh()
  if mesh is None:
    return x

  def size(axis):
    return int(np.prod([mesh.shape[a] for a in (axis if isinstance(axis, tuple) else (axis,))]))

  free = (None, ANY)
  keep = [a if a in free or x.shape[i] % size(a) == 0 else None for i, a in enumerate(axes)]
  return jax.lax.with_sharding_constraint(x, PartitionSpec(*keep))


def gather(tree: Any, *, after: Any) -> tuple[Any, Any]:
  """Parameters without the fsdp axis, and `after`: gathered once that is known.

  A compiler would else gather them as the program begins, and keep them for every later pass over
  the same weights. The identity where no mesh splits them.
  """
  mesh = current_mesh()
  if mesh is None or mesh.shape["fsdp"] == 1:
    return tree, after
  tree, after = jax.lax.optimization_barrier((tree, after))

  def whole(path, x):
    spec = partition_spec(leaf_path(path), x.shape, mesh, gather_fsdp=True)
    return jax.lax.with_sharding_constraint(x, spec)

  return jax.tree_util.tree_map_with_path(whole, tree), after


def put_batch(tree: Any, mesh: Mesh) -> Any:
  """Host arrays [B, ...], the same on every process, as global arrays split over (data, fsdp).

  A batch that the devices don't divide is replicated. Each process hands over its devices' rows.
  """
  devices = mesh.shape["data"] * mesh.shape["fsdp"]

  def put(array):
    array = np.asarray(array)
    spec = PartitionSpec(BATCH) if len(array) % devices == 0 else PartitionSpec()
    return jax.make_array_from_callback(
      array.shape, NamedSharding(mesh, spec), lambda index: array[index]
    )

  return jax.tree.map(put, tree)

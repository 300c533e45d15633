"""A model's predictions as files, as `evaluation.judge` reads them.

A line has x, z, y and the prediction, texts; in a world of pictures whose decoder is there, states
are {"images": [file, ...]}, drawn from their codes into a folder beside the file, one PNG for each
state however often it comes up.
"""

import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image

from swirl_jax import metrics
from swirl_jax.data.transitions import Record


def write(
  folder: pathlib.Path,
  name: str,
  records: Sequence[Record],
  said: Mapping[str, Sequence[str]],
  rollouts: Sequence[Mapping[str, Any]],
  world,
) -> list[pathlib.Path]:
  """NAME-fwm.jsonl and NAME-idm.jsonl, a line a record; with pictures also NAME-turns.jsonl, a line
  a rollout: its first x, its actions, numbered, and the states after each as one field.

  said: {"fwm", "idm"}, a prediction for each record; rollouts: as `scorecard.measure` has them.
  Returns the files, and the folder of pictures, NAME-pictures, if there is one.
  """
  drawn = world.codes is not None and world.render is not None
  state = _Drawn(folder, f"{name}-pictures", world.render) if drawn else lambda text: text
  with metrics.Progress(len(records) + len(rollouts), description="predictions") as bar:
    lines: dict[str, list[dict[str, Any]]] = {"fwm": [], "idm": []}
    for r, y, z in zip(records, said["fwm"], said["idm"], strict=True):
      shown = {"x": state(r.x), "z": r.z, "y": state(r.y)}
      lines["fwm"].append(_line(r, shown | {"prediction": state(y)}))
      lines["idm"].append(_line(r, shown | {"prediction": z}))
      bar.update()
    if drawn:
      lines["turns"] = []
      for one in rollouts:
        chain = [records[row] for row in one["rows"]]
        lines["turns"].append(_turns(chain, one["prediction"], state))
        bar.update()
  paths = []
  for model, rows in lines.items():
    paths.append(folder / f"{name}-{model}.jsonl")
    paths[-1].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
  return [*paths, state.folder] if drawn else paths


def _line(record: Record, fields: dict[str, Any]) -> dict[str, Any]:
  return fields | {"episode": record.episode, "level": record.level}


def _turns(chain: Sequence[Record], predicted: Sequence[str], state: Callable) -> dict[str, Any]:
  strip = lambda states: {"images": [name for s in states for name in state(s)["images"]]}  # noqa: E731
  return _line(
    chain[0],
    {
      "x": state(chain[0].x),
      "z": "\n".join(f"{n}. {record.z}" for n, record in enumerate(chain, start=1)),
      "y": strip(record.y for record in chain),
      "prediction": strip(predicted),
    },
  )


class _Drawn:
  """A state → {"images": [its file, as the lines name it]}, drawn where it wasn't yet."""

  def __init__(self, beside: pathlib.Path, name: str, render: Callable):
    self.folder, self._render = beside / name, render
    self._beside, self._known = beside, {}
    self.folder.mkdir(exist_ok=True)

  def __call__(self, state: str) -> dict[str, list[str]]:
    if state not in self._known:
      file = self.folder / f"{hashlib.sha256(state.encode()).hexdigest()[:20]}.png"
      Image.fromarray(self._render(state)).save(file)
      self._known[state] = file.relative_to(self._beside).as_posix()
    return {"images": [self._known[state]]}

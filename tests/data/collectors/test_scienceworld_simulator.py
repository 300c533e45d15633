"""The physics world on the real simulator, ScienceWorld's own."""

import pytest

from swirl_jax.data.collection import Episode
from swirl_jax.data.collectors import scienceworld

pytestmark = pytest.mark.scienceworld

SHORT = {**scienceworld.DEFAULTS, "steps": 12}
# The third depended on what was played before it, until all tasks were loaded at the start.
SOME = [
  Episode(f"test-{task}-{variation}-0", task, "test",
          {"task": task, "variation": variation, "kind": kind})
  for task, variation, kind in (
    ("boil", 25, "random"), ("find-plant", 230, "gold"),
    ("test-conductivity-of-unknown-substances", 0, "gold"), ("grow-fruit", 100, "random"),
    ("inclined-plane-friction-named-surfaces", 1100, "gold"), ("use-thermometer", 500, "random"),
  )
]  # fmt: skip


@pytest.fixture(scope="module")
def simulator():
  """The simulator's own, where it is installed."""
  pytest.importorskip("scienceworld")
  scienceworld.check(scienceworld.DEFAULTS)
  found = scienceworld._Java()
  yield found
  found.close()


def test_tasks_and_splits_are_the_authors(simulator):
  server = simulator._server
  assert sorted(server.getTaskNames()) == sorted(scienceworld.TASKS)
  for task, size in scienceworld.TASKS.items():
    assert server.getTaskMaxVariations(task) == size
    simulator.load(task, 0, False)
    own = scienceworld.variations(task)
    assert list(server.getVariationsTrain()) == list(own["train"])
    assert list(server.getVariationsDev()) == list(own["validation"])
    assert list(server.getVariationsTest()) == list(own["test"])


def test_the_same_in_any_order_and_in_a_fresh_process(simulator):
  first = {e.name: scienceworld.play(simulator, SHORT, e) for e in SOME}
  again = {e.name: scienceworld.play(simulator, SHORT, e) for e in reversed(SOME)}
  assert first == again
  with scienceworld.session(SHORT) as play:
    fresh = {e.name: play(e) for e in (*SOME[3:], *SOME[:3])}
  assert fresh == first
  assert sum(len(p.lines) for p in first.values()) > 30


@pytest.mark.parametrize("task, variation", [("boil", 2), ("find-plant", 3)])
def test_a_gold_path_reaches_its_goal(simulator, task, variation):
  whole = {**scienceworld.DEFAULTS, "steps": 200, "detours": 0}
  arguments = {"task": task, "variation": variation, "kind": "gold"}
  played = scienceworld.play(simulator, whole, Episode("gold", task, "train", arguments))
  score = simulator._server.getScore()
  assert score == 1.0
  assert "fountain;" not in " ".join(n["x"] for n in played.lines)  # it fills at the first tick
  assert len(played.lines) >= 5


def test_a_java_process_that_dies_in_mid_episode(simulator, monkeypatch):
  from py4j.protocol import Py4JError

  killed, commands = scienceworld._Java(), []
  step = killed.step

  def dies_at_the_fifth(command):
    commands.append(command)
    if len(commands) == 5:
      killed.process.kill()
      killed.process.wait()
    return step(command)

  monkeypatch.setattr(killed, "step", dies_at_the_fifth)
  with pytest.raises(Py4JError):
    scienceworld.play(killed, SHORT, SOME[0])
  assert len(commands) == 5
  killed.close()  # of a process that is gone
  assert scienceworld.play(simulator, SHORT, SOME[0]).lines  # another is not touched

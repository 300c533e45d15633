"""SWIRL and its rivals on one world, tuned alike, over seeds:

    python -m swirl_jax.compare --config=configs/comparison.py:minigrid \
      --workdir=runs/comparison --parallel=2

The world's own config says what it is; here are the methods, which share its phases' prompts,
groups and numbers of updates, and how they are tuned. Three seeds are a pilot; a claim needs five.
`configs/comparison.py:test` runs it all in minutes, and learns nothing.
"""

import ml_collections

from configs import minigrid, minigrid_pixels, miniwob
from configs import test as test_config

WORLDS = {
  "minigrid": minigrid.base,
  "minigrid_pixels": minigrid_pixels.get_config,
  "miniwob": lambda: miniwob.get_config("short"),
  "test": test_config.get_config,
}
# Of Phase I and II an iteration: what five runs of all methods have time for, on two cores.
UPDATES = {"minigrid": (50, 15), "minigrid_pixels": (25, 8), "miniwob": (12, 4)}
CURVE = 5  # points of a curve of scores by samples


def get_config(world="minigrid"):
  if world not in WORLDS:
    raise ValueError(f"configs/comparison.py:{world}: allowed are {', '.join(WORLDS)}.")
  run = WORLDS[world]().to_dict()
  if world in UPDATES:
    run["phase1"]["steps"], run["phase2"]["steps"] = UPDATES[world]
    run["evaluation"] |= {"turns": 3, "chains": 20, "gallery": 4}
  run["rivals"] = rivals(run)
  run["compare"] = tuple(run["rivals"])
  updates = run["swirl"]["iterations"] * run["phase1"]["steps"]
  for method in (run, *run["rivals"].values()):
    for group in ("sft", "phase1"):
      if group in method:
        method[group]["validate_every"] = max(1, updates // CURVE)
  c = ml_collections.ConfigDict()
  c.run = run
  c.seeds = (0, 1, 2) if world != "test" else (0, 1)
  c.tuning_seed = 100
  c.factors = (1.0, 0.3)
  return c


def own(settings):
  """A copy, groups and all."""
  return ml_collections.ConfigDict(settings).to_dict()


def rivals(run):
  """The methods of the protocol beside SWIRL: as many updates, the same warm models."""
  sft = run["rivals"]["labels_only"]["sft"] | {"steps": 0}
  phases = {kind: run[kind] | {"steps": 0} for kind in ("phase1", "phase2")}
  plain = {
    kind: minigrid.paper(phase, count_end=kind == "phase2") for kind, phase in phases.items()
  }

  def supervised(title, **choices):
    return {"title": title, "sft": own(sft), **choices}

  def alternation(title, found, **choices):
    return {"title": title, **own(found), **choices}

  def phase1(title, **changes):
    """SWIRL's Phase I, otherwise."""
    return {"title": title, "phase1": own(phases["phase1"]) | changes}

  reward = phases["phase1"]["reward"]
  many = run["swirl"]["iterations"]
  return {
    "labels_only": supervised("Labels only, continued", data="fwm_labels"),
    "all_labels": supervised("Upper bound: every label the IDM saw", data="idm_labels"),
    "pseudo_only": supervised("Pseudo-labels, continued", data="pseudo"),
    "pseudo_labels": supervised("Pseudo-labels + labels", data="mixed"),
    "pseudo_sure": supervised("Pseudo-labels, surer half, + labels", data="mixed", confident=0.5),
    "idm_self": supervised("IDM on its own pseudo-labels", data="mixed", model="idm"),
    "rejection": phase1(
      "Rejection sampling by the IDM + labels", advantages="best", beta=0.0,
      prompts=phases["phase1"]["keep"] or phases["phase1"]["prompts"], keep=0,
    ),
    "random": phase1("SWIRL's Phase I, random reward", reward=reward | {"random": True}),
    "paper_one": alternation("SWIRL as in the paper, Phase I", {"phase1": plain["phase1"]}),
    "paper_iterative": alternation("SWIRL as in the paper, iterative", plain, iterations=many),
    "paper_shared": alternation(
      "SWIRL as in the paper, shared weights", plain, iterations=many, weights="shared"
    ),
    "with_prior": phase1(
      "Phase I, prior in the reward, no labels", anchor=0,
      reward=reward | {"prior": True, "reduce": "sum", "floor": None},
    ),
  }  # fmt: skip

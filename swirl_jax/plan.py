"""A run as a list of stages: warm-up, the alternation, the comparisons.

What each starts from, reads and leaves.

The list is a function of the settings alone, so a place in a run is two integers, (stage, step).
"""

import dataclasses

from swirl_jax.data import transitions
from swirl_jax.settings import PhaseSettings, Settings, SftSettings


@dataclasses.dataclass(frozen=True)
class Stage:
  """One stretch of training.

  name: what its metric rows are called. method: whose result it is ("warmup", "swirl" or a
  comparison). kind: "sft", "phase1" or "phase2".
  start: the model it starts from, None for fresh parameters. result: the name under which its model
  is kept. frozen: the model that scores, annotates or labels. reference: the model that the KL is
  measured from. fields: what is trained ("y": the FWM's part, "z": the IDM's).
  data: the source of batches for each field: "unlabelled", "fwm_labels", "idm_labels" or "mixed"
  (labels and pseudo-labels, half and half).
  updates: updates of this method since the warm-up, when the stage is over. splits: what its model
  is scored on at the end.
  """

  name: str
  method: str
  kind: str
  settings: SftSettings | PhaseSettings
  result: str
  steps: int
  fields: tuple[str, ...]
  data: tuple[str, ...] = ()
  start: str | None = None
  frozen: str | None = None
  reference: str | None = None
  hide_z: bool = False
  iteration: int = 0
  updates: int = 0
  splits: tuple[str, ...] = ("validation",)

  @property
  def title(self) -> str:
    """As people see it: "phase1 2", the second iteration's."""
    return f"{self.name} {self.iteration}" if self.iteration else self.name

  @property
  def reads(self) -> set[str]:
    """The models that must be there when the stage runs."""
    names = {self.start, self.frozen, self.reference}
    if self.kind != "sft" and _uses_prior(self.settings):
      names.add("prior")
    return names - {None}


SHARED = ("warm", "model")  # with shared weights: after the warm-up, after a phase
FINAL = transitions.EVALUATION_SPLITS  # those that the world has


def make_plan(settings: Settings) -> tuple[Stage, ...]:
  """Pretraining of P0, warm-up, the alternation, then the comparisons."""
  shared = settings.weights == "shared"
  stages = [*_warmup(settings, shared)]
  now = {"y": "warm", "z": "warm"} if shared else {"y": "warm_fwm", "z": "warm_idm"}
  warm, reference = dict(now), dict(now)
  updates = {"y": 0, "z": 0}
  for iteration in range(1, settings.swirl.iterations + 1):
    for position, kind in enumerate(settings.swirl.order):
      phase = getattr(settings, kind)
      if not phase.steps:
        continue
      field, other = ("y", "z") if kind == "phase1" else ("z", "y")
      if settings.swirl.reset_reference:
        reference[field] = now[field]
      updates[field] += phase.steps
      later = settings.swirl.order[position + 1 :]
      over = not later if shared else kind not in later
      last = over and iteration == settings.swirl.iterations
      result = "model" if shared else ("fwm" if field == "y" else "idm")
      stages.append(
        Stage(
          kind,
          "swirl",
          kind,
          phase,
          result,
          phase.steps,
          (field,),
          start=now[field],
          frozen=now[other],
          reference=reference[field],
          iteration=iteration,
          updates=updates[field],
          splits=FINAL if last else ("validation",),
        )
      )
      now = dict.fromkeys(now, result) if shared else now | {field: result}
  total = settings.swirl.iterations * settings.swirl.order.count("phase1") * settings.phase1.steps
  if total:
    stages += [_comparison(name, settings, warm, total) for name in settings.compare]
  return tuple(stages)


def models_after(plan: tuple[Stage, ...], *methods: str) -> dict[str, str]:
  """Which model is the FWM ("y") and which the IDM ("z") after the stages of the given methods."""
  names = {}
  for stage in plan:
    if stage.method in methods and not stage.hide_z:
      shared = stage.result in SHARED
      names |= dict.fromkeys("yz" if shared else stage.fields, stage.result)
  return names


def warm_models(plan: tuple[Stage, ...]) -> dict[str, str]:
  """The models that the alternation and every comparison start from."""
  return models_after(plan, "warmup")


def final_models(plan: tuple[Stage, ...]) -> dict[str, str]:
  """The models that the run ends with."""
  return models_after(plan, "warmup", "swirl")


def needed(plan: tuple[Stage, ...], index: int) -> set[str]:
  """The models that stage `index` or a later one, or the end of the run, still reads."""
  end = {*warm_models(plan).values(), *final_models(plan).values()}
  return end.union(*(stage.reads for stage in plan[index:]))


def _uses_prior(phase: PhaseSettings) -> bool:
  return phase.reward.prior or (phase.reference == "prior" and phase.beta > 0)


def _warmup(settings: Settings, shared: bool) -> list[Stage]:
  pre, fwm, idm = settings.pretrain, settings.warmup_fwm, settings.warmup_idm
  start = "prior" if pre.steps else None
  stages = []
  if pre.steps:
    stages.append(
      Stage(
        "pretrain",
        "warmup",
        "sft",
        pre,
        "prior",
        pre.steps,
        ("y",),
        ("unlabelled",),
        hide_z=True,
        splits=(),
      )
    )
  if shared:
    stages.append(
      Stage(
        "warmup",
        "warmup",
        "sft",
        fwm,
        "warm",
        fwm.steps,
        ("y", "z"),
        ("fwm_labels", "idm_labels"),
        start=start,
        splits=FINAL,
      )
    )
    return stages
  stages.append(
    Stage(
      "warmup_fwm",
      "warmup",
      "sft",
      fwm,
      "warm_fwm",
      fwm.steps,
      ("y",),
      ("fwm_labels",),
      start=start,
      splits=FINAL,
    )
  )
  stages.append(
    Stage(
      "warmup_idm",
      "warmup",
      "sft",
      idm,
      "warm_idm",
      idm.steps,
      ("z",),
      ("idm_labels",),
      splits=FINAL,
    )
  )
  return stages


def _comparison(name: str, settings: Settings, warm: dict[str, str], total: int) -> Stage:
  """A rival of the FWM that SWIRL ends with: the same start, the same number of updates."""
  if name == "paper_phase1":
    phase = dataclasses.replace(settings.paper_phase1, steps=total)
    return Stage(
      name,
      name,
      "phase1",
      phase,
      name,
      total,
      ("y",),
      start=warm["y"],
      frozen=warm["z"],
      reference=warm["y"],
      updates=total,
      splits=FINAL,
    )
  data, frozen = {"labels_only": ("fwm_labels", None), "pseudo_labels": ("mixed", warm["z"])}[name]
  return Stage(
    name,
    name,
    "sft",
    settings.baseline,
    name,
    total,
    ("y",),
    (data,),
    start=warm["y"],
    frozen=frozen,
    updates=total,
    splits=FINAL,
  )

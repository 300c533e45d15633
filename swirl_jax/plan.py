"""A run as a list of stages: warm-up, the alternation, the comparisons.

What each starts from, reads and leaves.

The list is a function of the settings alone, so a place in a run is two integers, (stage, step).
"""

import dataclasses

from swirl_jax.data import transitions
from swirl_jax.settings import PhaseSettings, Rival, Settings, SftSettings


@dataclasses.dataclass(frozen=True)
class Stage:
  """One stretch of training.

  name: what its metric rows are called. method: whose result it is ("warmup", "swirl" or a
  rival). kind: "sft", "phase1" or "phase2".
  start: the model it starts from, None for fresh parameters. result: the name under which its model
  is kept. frozen: the model that scores, annotates or labels. reference: the model that the KL is
  measured from. fields: what is trained ("y": the FWM's part, "z": the IDM's).
  data: the source of batches for each field: "unlabelled", or one of `settings.SOURCES`; confident:
  the share of pseudo-labels that serve.
  updates: of its model by this method since the warm-up, inner epochs among them, when the stage is
  over without having stopped early. splits: what that model is scored on at the end, as the parts
  `scored` (with shared weights a phase changes both).
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
  scored: tuple[str, ...] = ()
  hide_z: bool = False
  confident: float = 1.0
  iteration: int = 0
  updates: int = 0
  splits: tuple[str, ...] = ("validation",)

  @property
  def title(self) -> str:
    """As people see it: "phase1 2", the second iteration's."""
    return f"{self.name} {self.iteration}" if self.iteration else self.name

  @property
  def annotates(self) -> bool:
    """Whether the frozen model writes an action for every unlabelled pair, once."""
    if self.kind == "sft":
      return not {"pseudo", "mixed"}.isdisjoint(self.data)
    return self.kind == "phase1" and self.settings.latents == "cached"

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
  """Pretraining of P0, warm-up, the alternation, then the rivals."""
  shared, swirl = settings.weights == "shared", settings.swirl
  stages = [*_warmup(settings, shared)]
  warm = {"y": "warm", "z": "warm"} if shared else {"y": "warm_fwm", "z": "warm_idm"}
  results = {"y": "model", "z": "model"} if shared else {"y": "fwm", "z": "idm"}
  phases = {kind: getattr(settings, kind) for kind in swirl.order}
  alternation = _alternation(
    "swirl", phases, swirl.order * swirl.iterations, warm, results, reset=swirl.reset_reference
  )
  stages += alternation
  updates = {"y": 0, "z": 0}
  for stage in alternation:
    updates[stage.fields[0]] += stage.steps * stage.settings.inner_epochs
  for name in settings.compare:
    stages += _rival(name, settings, warm, updates)
  return tuple(stages)


def _alternation(
  method: str,
  phases: dict[str, PhaseSettings],
  kinds: tuple[str, ...],
  warm: dict[str, str],
  results: dict[str, str],
  *,
  reset: bool = True,
) -> list[Stage]:
  """The phases `kinds`, one after the other, from the models `warm` to those named `results`, one
  name for both where weights are shared. reset: each measures its KL from where it begins.
  """
  now, reference, updates = dict(warm), dict(warm), {"y": 0, "z": 0}
  shared, stages = results["y"] == results["z"], []
  kinds = [kind for kind in kinds if phases[kind].steps]
  for position, kind in enumerate(kinds):
    field, other = ("y", "z") if kind == "phase1" else ("z", "y")
    if reset:
      reference[field] = now[field]
    updates[field] += phases[kind].steps * phases[kind].inner_epochs
    left = kinds[position + 1 :]
    name = kind if method == "swirl" else f"{method}-{kind}" if len(phases) > 1 else method
    stages.append(
      Stage(
        name,
        method,
        kind,
        phases[kind],
        results[field],
        phases[kind].steps,
        (field,),
        start=now[field],
        frozen=now[other],
        reference=reference[field],
        scored=("y", "z") if shared else (field,),
        iteration=kinds[: position + 1].count(kind),
        updates=sum(updates.values()) if shared else updates[field],
        splits=("validation",) if (left if shared else kind in left) else FINAL,
      )
    )
    now |= results if shared else {field: results[field]}
  return stages


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
  start = _prior(settings)
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
    stages.append(_shared_warmup("warmup", "warmup", settings, "warm"))
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
      scored=("y",),
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
      scored=("z",),
      splits=FINAL,
    )
  )
  return stages


def _prior(settings: Settings) -> str | None:
  """What warm-ups that predict y start from."""
  return "prior" if settings.pretrain.steps else None


def _shared_warmup(name: str, method: str, settings: Settings, result: str) -> Stage:
  """One model learns both parts."""
  return Stage(
    name,
    method,
    "sft",
    settings.warmup_fwm,
    result,
    settings.warmup_fwm.steps,
    ("y", "z"),
    ("fwm_labels", "idm_labels"),
    start=_prior(settings),
    scored=("y", "z"),
    splits=FINAL,
  )


def _rival(
  name: str, settings: Settings, warm: dict[str, str], updates: dict[str, int]
) -> list[Stage]:
  """A rival's stages; none where it asks for as many updates as SWIRL had, and SWIRL had none."""
  rival = settings.rivals[name]
  if rival.sft is not None:
    return _supervised(name, rival, warm, updates)
  stages, start = [], warm
  if rival.weights == "shared" and warm["y"] != warm["z"]:
    start = dict.fromkeys(warm, f"{name}-warm")
    warmup = _shared_warmup(f"{name}-warmup", name, settings, f"{name}-warm")
    stages.append(dataclasses.replace(warmup, splits=("validation",)))  # it is no method
  given, phases = {"phase1": updates["y"], "phase2": updates["z"]}, {}
  for kind, s in rival.phases:
    steps, rest = divmod(given[kind], rival.iterations * s.inner_epochs)
    if rest and not s.steps:
      raise ValueError(
        f"rivals.{name}.{kind}.steps = 0: SWIRL's {given[kind]} updates of this model don't divide "
        f"into {rival.iterations} iterations of {s.inner_epochs} inner epochs; allowed is a whole "
        "number from 1."
      )
    phases[kind] = dataclasses.replace(s, steps=s.steps or steps)
  results = {"y": name, "z": name if rival.weights == "shared" else f"{name}-idm"}
  found = _alternation(name, phases, tuple(phases) * rival.iterations, start, results)
  return stages + found if found else []


def _supervised(
  name: str, rival: Rival, warm: dict[str, str], updates: dict[str, int]
) -> list[Stage]:
  field = "y" if rival.model == "fwm" else "z"
  steps = rival.sft.steps or updates[field]
  stage = Stage(
    name,
    name,
    "sft",
    rival.sft,
    name,
    steps,
    (field,),
    (rival.data,),
    start=warm[field],
    scored=(field,),
    confident=rival.confident,
    updates=steps,
    splits=FINAL,
  )
  if stage.annotates:
    stage = dataclasses.replace(stage, frozen=warm["z"])
  return [stage] if steps else []

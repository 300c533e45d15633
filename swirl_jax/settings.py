"""A run's settings: what a config may say, with types, defaults and limits, checked before anything
expensive starts.

Configs are ml_collections ConfigDicts (`configs/`); `from_config` turns one into frozen dataclasses
and refuses what it doesn't know. Every field of a config is described here and nowhere else.
"""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from swirl_jax import image_prompts, phases
from swirl_jax.data import transitions
from swirl_jax.models import huggingface, variants, vocabulary
from swirl_jax.models.transformer import TransformerConfig
from swirl_jax.optimizer import AdamW
from swirl_jax.sampling import Decoding
from swirl_jax.typed import build, convert

WEIGHTS = ("separate", "shared")
PROMPTS = ("plain", "chat", *image_prompts.LAYOUTS)
COMPILE = ("optimized", "quick")
PHASES = ("phase1", "phase2")
MODELS = ("fwm", "idm")
LABELS = ("fwm_labels", "idm_labels")
SOURCES = (*LABELS, "pseudo", "mixed")
LATENTS = ("fresh", "cached")
# Names of methods and models that no rival may have.
TAKEN = {
  *("warmup", "swirl", "prior", "fwm", "idm", "model", "warm", "warm_fwm", "warm_idm"),
  *("pretrain", "warmup_fwm", "warmup_idm", *PHASES),  # stages, whose names decide their draws
}


def _at_least(name: str, value: int, low: int) -> None:
  if value < low:
    raise ValueError(f"{name} = {value}: allowed is a whole number from {low}.")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
  if value not in allowed:
    raise ValueError(f"{name} = {value!r}: allowed are {list(allowed)}.")


def _each_of(name: str, values: tuple[str, ...], allowed: tuple[str, ...]) -> None:
  if set(values) - set(allowed):
    some = tuple(allowed[:2])
    raise ValueError(f"{name} = {values}: allowed are {list(allowed)}, several as \"{some}\".")


def _once(name: str, values: tuple[str, ...]) -> None:
  if len(set(values)) != len(values):
    raise ValueError(f"{name} = {values}: allowed is each of them once.")


def _one_turn(name: str, stage: "SftSettings") -> None:
  if stage.turns != 1:
    raise ValueError(
      f"{name}.turns = {stage.turns}: allowed is 1; only the FWM's supervised training on labels "
      f"(warmup_fwm, or a rival whose model is 'fwm' and data one of {list(LABELS)}) has more."
    )


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
  """learning_rate is the peak; warmup_steps are linear; schedule is "cosine" (to 0 at the last
  step) or "constant"; clip_norm 0: no clipping; mu_dtype: of Adam's first moment.
  """

  learning_rate: float
  warmup_steps: int = 0
  schedule: str = "cosine"
  weight_decay: float = 0.0
  clip_norm: float = 1.0
  mu_dtype: str = "float32"

  def __post_init__(self):
    if not 0.0 < self.learning_rate < float("inf"):
      raise ValueError(f"learning_rate = {self.learning_rate}: allowed is a number above 0.")
    _at_least("warmup_steps", self.warmup_steps, 0)
    self.build()  # which refuses what AdamW can't have

  def build(self) -> AdamW:
    names = ("weight_decay", "clip_norm", "schedule", "mu_dtype")
    return AdamW(**{name: getattr(self, name) for name in names})


@dataclasses.dataclass(frozen=True)
class SftSettings:
  """Supervised training: at most `steps` updates of `batch` transitions.

  turns: of the FWM on labels alone, the most transitions of an episode that follow each other in
  one sequence, x0 z1 y1 z2 y2 ..., whose every y counts; `batch` is then of sequences.
  micro_batch: how many of a batch have activations at a time, 0 for all; the result is the same.
  The model is scored on validation every `validate_every` steps (greedy exact match; the IDM's by
  the action's meaning), 0 for never. With `patience` > 0 training stops after so many scores
  without a new best, and the best parameters are kept.
  """

  steps: int
  batch: int
  optimizer: OptimizerSettings
  validate_every: int = 0
  patience: int = 0
  turns: int = 1
  micro_batch: int = 0

  def __post_init__(self):
    _at_least("steps", self.steps, 0)
    _at_least("batch", self.batch, 1)
    _at_least("micro_batch", self.micro_batch, 0)
    if self.micro_batch and self.batch % self.micro_batch:
      raise ValueError(
        f"micro_batch = {self.micro_batch}: batch = {self.batch} is not a multiple of it."
      )
    _at_least("turns", self.turns, 1)
    _at_least("patience", self.patience, 0)
    _at_least("validate_every", self.validate_every, 1 if self.patience else 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhaseSettings(phases.Algorithm):
  """One phase: `steps` updates, each rolling out `prompts` prompts × `group` samples.

  Beside the step's static choices, which it inherits, the sampler and the traced numbers of
  `phases.Hyper`, by the same names. beta 0 skips the reference. anchor: labelled transitions beside
  each update, 0 for none.
  latents: "fresh" draws z in every step; "cached" annotates every pair once, greedily, and drops
  those whose mean log-probability is under `latent_floor`. They are read by Phase I alone.
  guidance: the scale, from 1 (none), by which samples are led away from the policy's unconditional
  prompt; twice the work of a rollout. What is trained is the policy without it.
  validate_every: as for `SftSettings`; nothing is decided by these scores.
  """

  steps: int
  prompts: int
  group: int
  optimizer: OptimizerSettings
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  guidance: float = 1.0
  beta: float = 0.1
  clip_low: float = 0.2
  clip_high: float = 0.2
  importance_cap: float = 2.0
  anchor: int = 0
  anchor_weight: float = 0.5
  latents: str = "fresh"
  latent_temperature: float = 1.0
  latent_floor: float = -2.0
  validate_every: int = 0

  def __post_init__(self):
    super().__post_init__()
    for name in ("steps", "anchor", "validate_every"):
      _at_least(name, getattr(self, name), 0)
    _at_least("prompts", self.prompts, 1)
    _at_least("group", self.group, 2)
    _one_of("latents", self.latents, LATENTS)
    if self.reference == "none" and self.beta:
      raise ValueError(
        f"reference = 'none': there is no KL to weigh with beta = {self.beta}; allowed is beta = 0."
      )
    if self.keep > self.prompts:
      raise ValueError(f"keep = {self.keep}: allowed is at most prompts = {self.prompts}.")
    for name in ("temperature", "latent_temperature"):
      if not 1e-6 <= getattr(self, name) < float("inf"):
        raise ValueError(f"{name} = {getattr(self, name)}: allowed is a number from 1e-6.")
    if not self.latent_floor < 0:
      raise ValueError(f"latent_floor = {self.latent_floor}: allowed is a number below 0.")
    if not self.importance_cap > 0:
      raise ValueError(f"importance_cap = {self.importance_cap}: allowed is more than 0.")
    if not 1.0 <= self.guidance < float("inf"):
      raise ValueError(f"guidance = {self.guidance}: allowed is a number from 1.")
    for name in ("beta", "anchor_weight"):
      if not 0.0 <= getattr(self, name) < float("inf"):
        raise ValueError(f"{name} = {getattr(self, name)}: allowed is a number from 0.")
    for name in ("clip_low", "clip_high"):
      if not getattr(self, name) >= 0:
        raise ValueError(f"{name} = {getattr(self, name)}: allowed is 0 or more.")
    Decoding(length=1, group=self.group, end=None, top_k=self.top_k, top_p=self.top_p)  # may refuse
    for count in ("prompts", "keep"):
      value = getattr(self, count)
      if self.micro_batch and value % self.micro_batch:
        raise ValueError(
          f"micro_batch = {self.micro_batch}: {count} = {value} is not a multiple of it."
        )
    if self.micro_group and self.group % self.micro_group:
      raise ValueError(
        f"micro_group = {self.micro_group}: group = {self.group} is not a multiple of it."
      )
    kept = self.keep or self.prompts
    parts = kept // (self.micro_batch or kept) * (self.group // (self.micro_group or self.group))
    if self.anchor % parts:
      raise ValueError(f"anchor = {self.anchor}: must divide into the {parts} micro-batches.")


@dataclasses.dataclass(frozen=True)
class SwirlSettings:
  """The alternation: `iterations` times the phases in `order`.

  Every phase begins anew: optimizer, schedule, and reference if `reset_reference`.
  """

  iterations: int
  order: tuple[str, ...] = PHASES
  reset_reference: bool = True

  def __post_init__(self):
    _at_least("iterations", self.iterations, 0)
    _each_of("order", self.order, PHASES)


@dataclasses.dataclass(frozen=True)
class Rival:
  """A method beside SWIRL, from the same warm models. Where `steps` is 0, for as many updates of
  its model as SWIRL had, divided among the iterations.

  title: what tables call it.
  sft: supervised training of `model` on `data`: "fwm_labels" or "idm_labels", the labels that a
  model was warmed up on; "pseudo", unlabelled pairs with the warm IDM's greedy actions; or "mixed",
  these and the model's own labels, half and half. Of the pseudo-labels those over
  `phase1.latent_floor` serve, and of these the share `confident` that the IDM is surest of.
  phase1, phase2: in place of `sft`, an alternation of `iterations`. weights "shared": of one model
  for both parts, which starts with a warm-up of its own (`warmup_fwm`).
  """

  title: str
  sft: SftSettings | None = None
  model: str = "fwm"
  data: str = "fwm_labels"
  confident: float = 1.0
  phase1: PhaseSettings | None = None
  phase2: PhaseSettings | None = None
  iterations: int = 1
  weights: str = "separate"

  def __post_init__(self):
    _one_of("model", self.model, MODELS)
    _one_of("data", self.data, SOURCES)
    _one_of("weights", self.weights, WEIGHTS)
    _at_least("iterations", self.iterations, 1)
    if self.sft is not None and self.data == "mixed":
      _at_least("sft.batch", self.sft.batch, 2)
    if not 0.0 < self.confident <= 1.0:
      raise ValueError(f"confident = {self.confident}: allowed is a share above 0, at most 1.")
    if (self.sft is None) != bool(self.phases):
      raise ValueError("sft: allowed is either sft, or phase1 and phase2, or one of these two.")
    if self.sft is not None and (self.model != "fwm" or self.data not in LABELS):
      _one_turn("sft", self.sft)

  @property
  def phases(self) -> tuple[tuple[str, PhaseSettings], ...]:
    """Those it has, by kind."""
    return tuple((kind, s) for kind in PHASES if (s := getattr(self, kind)) is not None)


@dataclasses.dataclass(frozen=True)
class DataSettings:
  """Label budgets: the first n records of the labelled split (0: all), for each model; anchors and
  mixed labels take the FWM's (and the IDM's for Phase II).
  """

  fwm_labels: int
  idm_labels: int
  dir: str = ""  # where the collected data lies; empty: in the work directory
  state_len: int = 0  # the most tokens of a state, by a checkpoint's tokenizer
  action_len: int = 0

  def __post_init__(self):
    _at_least("state_len", self.state_len, 0)
    _at_least("action_len", self.action_len, 0)
    _at_least("fwm_labels", self.fwm_labels, 0)
    _at_least("idm_labels", self.idm_labels, 0)


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
  """splits: those that are scored, if the world has them; validation, test, heldout, failing: the
  most transitions of each, its first ones; best_of: samples the IDM picks from; turns: length of a
  rollout.
  """

  validation: int = 400
  test: int = 600
  heldout: int = 300
  failing: int = 300
  batch: int = 100
  best_of: int = 8
  turns: int = 5
  chains: int = 50
  gallery: int = 24
  splits: tuple[str, ...] = transitions.EVALUATION_SPLITS

  def __post_init__(self):
    for field in dataclasses.fields(self):
      if field.name != "splits":
        _at_least(field.name, getattr(self, field.name), 1)
    _each_of("splits", self.splits, transitions.EVALUATION_SPLITS)
    _once("splits", self.splits)
    if "validation" not in self.splits:
      raise ValueError(f"splits = {self.splits}: validation is always scored.")


@dataclasses.dataclass(frozen=True)
class MeshSettings:
  """Devices by axis; their product must be the number of devices.

  rollout_gather: gather the weights over fsdp once per rollout; False, once per token, takes less
  memory, and far longer where fsdp is more than 1. offload_frozen: the models that a phase only
  reads lie in host memory, and are copied to the devices where a step reads them.
  """

  data: int = 1
  fsdp: int = 1
  tensor: int = 1
  rollout_gather: bool = True
  offload_frozen: bool = False

  def __post_init__(self):
    for axis in ("data", "fsdp", "tensor"):
      _at_least(axis, getattr(self, axis), 1)


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
  """every: steps between checkpoints (each stage's end has one too); keep: how many stay."""

  every: int = 200
  keep: int = 2

  def __post_init__(self):
    _at_least("every", self.every, 1)
    _at_least("keep", self.keep, 1)


@dataclasses.dataclass(frozen=True)
class Settings:
  """A whole run. `world` holds the world's name and the settings that its own builder takes.

  pretrained: a Hugging Face checkpoint that the models start from, a folder or, of the Hub,
  owner/name or owner/name@revision; it decides architecture and tokenizer, and `model` holds how to
  execute it and adapters alone.
  prompts: "plain" has markers between the fields, "chat" the tokenizer's chat template; "liquid"
  and "chameleon" are the layouts of image models (`image_prompts`).

  compile: "quick" leaves LLVM's optimisations out on CPU, for runs of seconds (`process`).

  rivals: other methods by name; compare: those of them that are run, after SWIRL.
  """

  seed: int
  weights: str
  world: Mapping[str, Any]
  data: DataSettings
  model: TransformerConfig
  pretrain: SftSettings
  warmup_fwm: SftSettings
  warmup_idm: SftSettings
  swirl: SwirlSettings
  phase1: PhaseSettings
  phase2: PhaseSettings
  compare: tuple[str, ...] = ()
  rivals: Mapping[str, Rival] = dataclasses.field(default_factory=dict)
  pretrained: str = ""
  prompts: str = "plain"
  compile: str = "optimized"
  evaluation: EvaluationSettings = EvaluationSettings()
  mesh: MeshSettings = MeshSettings()
  checkpoint: CheckpointSettings = CheckpointSettings()

  def __post_init__(self):
    _one_of("weights", self.weights, WEIGHTS)
    _one_of("prompts", self.prompts, PROMPTS)
    _one_of("compile", self.compile, COMPILE)
    for name in ("state_len", "action_len"):
      if self.pretrained and not getattr(self.data, name):
        raise ValueError(f"data.{name} = 0: allowed with `pretrained` is a whole number from 1.")
      if not self.pretrained and getattr(self.data, name):
        raise ValueError(f"data.{name}: without `pretrained` the world decides it; allowed is 0.")
    for name in LABELS:
      budget, most = getattr(self.data, name), self.world.get("labelled")
      if type(most) is int and 0 < most < budget:
        raise ValueError(
          f"data.{name} = {budget}: allowed is 0 (all) to world.labelled = {most}."
        )
    if not 0 <= self.seed < 2**32:
      raise ValueError(f"seed = {self.seed}: allowed is a whole number from 0 to 2**32 - 1.")
    _once("compare", self.compare)
    _one_turn("pretrain", self.pretrain)
    _one_turn("warmup_idm", self.warmup_idm)
    if "name" not in self.world:
      raise ValueError("world.name is missing.")
    if taken := {*self.rivals} & TAKEN:
      raise ValueError(f"rivals.{min(taken)}: the name has another meaning; choose another one.")
    _each_of("compare", self.compare, tuple(self.rivals))
    uses = {name: getattr(self, name) for name in PHASES}
    for rival in self.compare:
      uses |= {f"rivals.{rival}.{name}": phase for name, phase in self.rivals[rival].phases}
    for name, phase in uses.items():
      prior = phase.reward.prior or phase.reference == "prior"
      if prior and name.endswith("phase2"):
        raise ValueError(
          f"{name}.reward.prior and reference 'prior': the z-free model serves phase1 alone."
        )
      if prior and not self.pretrain.steps:
        raise ValueError(f"{name} uses the z-free model, but pretrain.steps = 0 trains none.")
      if phase.reference == "frozen":
        raise ValueError(
          f"{name}.reference = 'frozen': set 'snapshot'; shared weights pass the tree once by "
          "themselves."
        )
      if phase.kl_in == "reward" and not phase.beta:
        raise ValueError(f"{name}.kl_in = 'reward' needs {name}.beta above 0.")

  @property
  def turns(self) -> int:
    """The most turns of a sequence that is trained on."""
    compared = [self.rivals[name].sft for name in self.compare]
    return max(s.turns for s in (self.warmup_fwm, *compared) if s is not None)


def from_config(config: Mapping[str, Any]) -> Settings:
  """A (nested) mapping → Settings.

  ValueError names the field by its dotted path, what was found and what is allowed.
  """
  config = dict(config)
  if config.get("pretrained"):
    config["model"] = _model_of(config["pretrained"], config.get("model", {}))
  return build(Settings, config, "config")


def _model_of(source: Any, changes: Any) -> TransformerConfig:
  """The architecture of a checkpoint, executed as `changes` say."""
  if not isinstance(source, str):
    raise ValueError(
      f"config.pretrained = {source!r}: a folder, owner/name or owner/name@revision is needed."
    )
  if not isinstance(changes, Mapping):
    raise ValueError(f"config.model = {changes!r}: a group of fields is needed.")
  hints, found = typing.get_type_hints(TransformerConfig), {}
  for name, value in changes.items():
    if name not in variants.EXECUTION:
      raise ValueError(
        f"config.model.{name}: the checkpoint {source} decides it; allowed beside `pretrained` are "
        f"{', '.join(variants.EXECUTION)}."
      )
    found[name] = convert(hints[name], value, f"config.model.{name}")
  config = variants.from_hf(huggingface.read_config(huggingface.resolve(source)))
  return dataclasses.replace(config, **found)


def model_config(settings: Settings, *, vocab_size: int, needed_len: int) -> TransformerConfig:
  """The transformer of a run whose tokenizer has `vocab_size` ids and whose longest sequence
  `needed_len` tokens. Raises ValueError where the model is given and smaller.
  """
  needed = {"vocab_size": vocab_size, "max_len": needed_len}
  if settings.pretrained:  # it grows by the tokens it lacks, see `models.vocabulary`
    size = vocabulary.grown(settings.model.vocab_size, vocab_size)
    model = dataclasses.replace(settings.model, vocab_size=size)
    settings = dataclasses.replace(settings, model=model)
  for name, least in needed.items():
    given = getattr(settings.model, name)
    if 0 < given < least:
      raise ValueError(f"config.model.{name} = {given}: the world needs {least} (0: just that).")
  return dataclasses.replace(
    settings.model, **{k: getattr(settings.model, k) or least for k, least in needed.items()}
  )

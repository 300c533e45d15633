"""A run's models as folders that `transformers` opens: out/fwm and out/idm.

    python -m swirl_jax.export --workdir=runs/minigrid --out=exported

Each holds config.json, generation_config.json, the tokenizer, safetensors and a README.md with the
prompt that the model was trained on. A folder that holds anything is left alone, unless
`--overwrite`.
"""

import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags, logging

from swirl_jax import prompts, trained
from swirl_jax.checkpoint import CheckpointError
from swirl_jax.data import fast_tokenizers
from swirl_jax.data.tokenizers import WordTokenizer
from swirl_jax.models import hf_export, huggingface, lora, variants
from swirl_jax.models.safetensors_files import Tensor
from swirl_jax.models.transformer import TransformerConfig
from swirl_jax.settings import Settings

MODELS = {"fwm": "y", "idm": "z"}


def family(config: TransformerConfig) -> str:
  """The family whose config.json may be able to say what this config says; `hf_export.save` checks
  that it does.
  """
  if config.qk_norm != "none":
    return "qwen3"
  if config.qkv_bias:
    return "qwen2"
  return "gemma" if config.scale_embedding else "llama"


def prompt_text(template: prompts.Template, tokenizer, between: str) -> str:
  """'<bos> <fwm> {z} <sep> {x} <sep> → {y} <eos>'; of a choice all options, '(a | b)'. Line ends
  are written \\n. between: what separates two pieces, a space where every word is a token.
  """
  own = tokenizer.tokenizer

  def text(piece) -> str:
    if isinstance(piece, str):
      return f"{{{piece}}}"
    if isinstance(piece, prompts.Choice):
      return f"({' | '.join(map(text, piece.options))})"
    ids = list(piece)
    found = own.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if own.encode(found, add_special_tokens=False) != ids:  # a decoder that drops spaces
      found = " ".join(own.convert_ids_to_tokens(ids))
    return found.replace("\n", "\\n")

  *prompt, target, end = map(text, (*template.prompt, template.target, template.end))
  return f"{between.join(p for p in prompt if p)} → {target}{between}{end}"


def export(
  workdir: str, out: str, *, dtype: str = "float32", shard_bytes: int, overwrite: bool = False
) -> list[pathlib.Path]:
  """Writes both models of a run's newest whole checkpoint; the folders."""
  if not out:
    raise ValueError("out = '': allowed is a folder.")
  folders = {name: pathlib.Path(out) / name for name in MODELS}
  for folder in folders.values():
    hf_export.refuse_full(folder, overwrite=overwrite)
  with trained.open_run(workdir) as run:
    tokenizer = run.world.tokenizer
    between = " " if isinstance(tokenizer, WordTokenizer) else ""
    if not hasattr(tokenizer, "save_pretrained"):
      tokenizer = fast_tokenizers.from_own(tokenizer)
    described, rest = description(run.settings, run.players.fwm.config, tokenizer)
    for name, field in MODELS.items():
      role, model = run.players.of(field), run.names[field]
      params = jax.tree.map(lambda a: a.astype(jnp.float32), run.models(model)[model])
      hf_export.save(
        folders[name],
        lora.merge(params, role.config.lora_scale),
        role.config,
        described,
        tokenizer=tokenizer,
        rest=rest,
        card=card(
          name,
          run.settings.world["name"],
          prompt_text(role.template, tokenizer, between),
          run.world.codes,
        ),
        dtype=dtype,
        shard_bytes=shard_bytes,
        overwrite=overwrite,
      )
      del params  # before the next one is read
  return list(folders.values())


def description(
  settings: Settings, config: TransformerConfig, tokenizer
) -> tuple[dict[str, Any], tuple[Tensor, ...]]:
  """config.json, and the tensors that are taken along as they are: both of the checkpoint that the
  run began with; a run's own transformer is described as one of `family`.
  """
  ids = {f"{name}_token_id": getattr(tokenizer, name) for name in ("bos", "eos", "pad")}
  if not settings.pretrained:
    return variants.to_hf(config, family(config)) | ids, ()
  source = huggingface.resolve(settings.pretrained)
  return huggingface.read_config(source) | ids, huggingface.rest(source)


def card(name: str, world: str, prompt: str, codes: tuple[int, int] | None) -> str:
  kind = {"fwm": "forward world model", "idm": "inverse dynamics model"}[name]
  states = ""
  if codes is not None:
    states = (
      f"States are pictures: the codes of an image tokenizer, row by row, as the ids {codes[0]} to "
      f"{codes[1] - 1}.\n"
    )
  return (
    f"# {name.upper()} of {world}\n\nThe {kind} of a SWIRL run (arXiv:2602.06130), in the world "
    f"`{world}`.\n\nTrained on, and to be prompted with,\n\n    {prompt}\n\nwhere x is the state "
    "before, y the state after and z the action, each encoded apart, and \\n a line end. The "
    f"tokenizer adds nothing: put the special tokens into the text.\n{states}"
  )


def main(argv):
  given = flags.FLAGS
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  logging.set_verbosity(logging.WARNING)
  try:
    folders = export(
      given.workdir,
      given.out,
      dtype=given.dtype,
      shard_bytes=int(given.shard_gb * 1e9),
      overwrite=given.overwrite,
    )
  except (ValueError, OSError, CheckpointError) as error:
    sys.exit(f"Nothing was exported: {error}")
  for folder in folders:
    print(folder)


if __name__ == "__main__":
  flags.DEFINE_string("workdir", None, "The folder of a run.")
  flags.DEFINE_string("out", None, "Where the folders fwm and idm are made.")
  flags.DEFINE_bool("overwrite", False, "Replace what an earlier export left there.")
  flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the weights.")
  flags.DEFINE_float("shard_gb", 5.0, "Size of a file, in 10^9 bytes.", lower_bound=1e-6)
  flags.mark_flags_as_required(["workdir", "out"])
  app.run(main)

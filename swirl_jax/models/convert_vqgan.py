"""The original vqgan.ckpt of Chameleon (or of taming-transformers) as a folder of ours.

    python -m swirl_jax.models.convert_vqgan --ckpt=vqgan.ckpt --out=vqgan

The file is read without torch, and nothing that it names is called. The folder holds encoder,
codebook and decoder, float32: `vqgan_files.load` takes it wherever a VQ model is asked for.
"""

import pathlib
import sys

from absl import app, flags

from swirl_jax.models import hf_export, vqgan_files


def convert(ckpt: str, out: str, *, overwrite: bool = False) -> None:
  """Writes the folder and says what is in it; ValueError for what `vqgan_files` refuses."""
  hf_export.refuse_full(pathlib.Path(out), overwrite=overwrite)
  vq, left_out = vqgan_files.read_checkpoint(ckpt)
  folder = vqgan_files.save(out, vq, overwrite=overwrite)
  decoder = "with" if vqgan_files.DECODER in vq.params else "without a"
  print(f"{folder}: {vq.config}, {decoder} decoder; {left_out} tensors of the loss left out.")


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  try:
    convert(flags.FLAGS.ckpt, flags.FLAGS.out, overwrite=flags.FLAGS.overwrite)
  except (ValueError, OSError) as error:
    sys.exit(f"Nothing was converted: {error}")


if __name__ == "__main__":
  flags.DEFINE_string("ckpt", None, "The file that torch.save wrote.")
  flags.DEFINE_string("out", None, "The folder to be made.")
  flags.DEFINE_bool("overwrite", False, "Replace what an earlier conversion left there.")
  flags.mark_flags_as_required(["ckpt", "out"])
  app.run(main)

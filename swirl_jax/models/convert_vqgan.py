"""The original vqgan.ckpt of Chameleon (or of taming-transformers) as a folder of ours.

    python -m swirl_jax.models.convert_vqgan --ckpt=vqgan.ckpt --out=vqgan

The file is read without torch, and nothing that it names is called. The folder holds encoder,
codebook and decoder, float32: `vqgan_files.load` takes it wherever a VQ model is asked for.
"""

from absl import app, flags

from swirl_jax.models import vqgan_files


def main(argv):
  given = flags.FLAGS
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  try:
    vq, left_out = vqgan_files.read_checkpoint(given.ckpt)
    folder = vqgan_files.save(given.out, vq)
  except ValueError as error:
    raise app.UsageError(str(error)) from None
  decoder = "with" if "decoder" in vq.params else "without a"
  print(f"{folder}: {vq.config}, {decoder} decoder; {left_out} tensors of the loss left out.")


if __name__ == "__main__":
  flags.DEFINE_string("ckpt", None, "The file that torch.save wrote.")
  flags.DEFINE_string("out", None, "The folder to be made.")
  flags.mark_flags_as_required(["ckpt", "out"])
  app.run(main)

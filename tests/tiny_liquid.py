"""Tiny image language models as folders: a byte-level BPE tokenizer with the markers that Liquid's
and Chameleon's have, random weights, and codes behind the text or in a permuted range of it.
"""

import json
import pathlib

import numpy as np

from swirl_jax.data import fast_tokenizers
from tests.models import tiny_files

CODES = 32  # as of `vq_folder` in tests/data/test_images_world.py
LIQUID = ("<boi>", "<eoi>", "<start_of_turn>", "<end_of_turn>")
CHAMELEON = ("<racm3:break>", "<eoss>", "<reserved08706>")
ORDER = tuple(int(i) for i in np.random.default_rng(0).permutation(CODES))  # ORDER[k]: k-th's code


def code_name(code: int) -> str:
  """As in Chameleon's vocabulary: 17 is IMGIMGBHZ."""
  return "IMGIMG" + "".join(chr(ord("A") + int(digit)) for digit in str(code)) + "Z"


def text_tokenizer(*more: str, special: bool = True):
  """A trained BPE of 290 or fewer tokens and `more` behind them, as `transformers` has it."""
  from transformers import AddedToken

  words = ["turn left", "turn right", "move forward", "open the door", "picture action scene"]
  found = fast_tokenizers.train_bpe(words * 2, vocab_size=290).tokenizer
  found.add_tokens([AddedToken(t, special=special, normalized=False) for t in more])
  return found


def files(family: str, *, padding: int = 0):
  """(config.json, arrays, tokenizer) of a tiny "gemma" (Liquid) or "chameleon"."""
  if family == "gemma":
    tokenizer = text_tokenizer(*LIQUID)
    size = len(tokenizer) + CODES + padding
  else:
    tokenizer = text_tokenizer(*CHAMELEON)
    size = len(tokenizer) + CODES
    tokenizer.add_tokens([code_name(code) for code in ORDER])
  config, arrays = tiny_files.tensors(family, size)
  config |= {"max_position_embeddings": 512}
  config |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
  config["pad_token_id"] = tokenizer.pad_token_id
  if family == "chameleon":
    config["vocabulary_map"] = tokenizer.get_vocab() | {"<image>": 7}
  return config, arrays, tokenizer


def write(folder: pathlib.Path, family: str = "gemma", **settings) -> pathlib.Path:
  config, arrays, tokenizer = files(family, **settings)
  tiny_files.write(folder, config, arrays)
  tokenizer.save_pretrained(folder)
  return folder


def config_of(folder: pathlib.Path) -> dict:
  return json.loads((folder / "config.json").read_text())

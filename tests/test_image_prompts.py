"""The layouts of image models, token by token, and by what they read as text."""

import jax
import numpy as np
import pytest
import tiny
import tiny_liquid

from swirl_jax import image_prompts, programs, prompts
from swirl_jax.data import image_tokenizers
from swirl_jax.types import Segment, Transition

S = 4  # codes of a picture


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
  root, found = tmp_path_factory.mktemp("models"), {}
  for layout, family in (("liquid", "gemma"), ("chameleon", "chameleon")):
    folder = tiny_liquid.write(root / family, family)
    config = tiny_liquid.config_of(folder)
    found[layout] = image_tokenizers.open_tokenizer(folder, config, codes=tiny_liquid.CODES)
  return found


def batch(tokenizer, count: int) -> Transition:
  """Random pictures, and one action in all rows."""
  rng = np.random.default_rng(0)
  x, y = (
    np.asarray([tokenizer.encode(" ".join(f"<{c}>" for c in row)) for row in rows], np.int32)
    for rows in rng.integers(0, tiny_liquid.CODES, (2, count, S))
  )
  z = np.tile(np.asarray(tokenizer.encode("turn left"), np.int32), (count, 1))
  whole = lambda a: Segment(a, np.ones(a.shape, bool))  # noqa: E731
  return Transition(whole(x), whole(y), whole(z))


def read(tokenizer, ids) -> str:
  """Ids as a text in which every token is written out; an image's codes are its words."""
  start, stop = tokenizer.codes
  text = tokenizer.text.tokenizer.decode
  parts = [
    tokenizer.decode([i]) if start <= i < stop else text([i], clean_up_tokenization_spaces=False)
    for i in map(int, ids)
  ]
  return "".join(parts)


EXPECTED = {
  ("liquid", "y"): "<bos><boi>{x}<eoi>\n{instruction}\nturn left<boi>",
  ("liquid", "z"): "<bos><start_of_turn>user\n<boi>{x}<eoi><boi>{y}<eoi>\n{instruction}"
  "<end_of_turn>\n<start_of_turn>model\n",
  ("chameleon", "y"): "<bos><racm3:break>{x}<eoss>\n{instruction}\nturn left<reserved08706>"
  "<racm3:break>",
  ("chameleon", "z"): "<bos><racm3:break>{x}<eoss><racm3:break>{y}<eoss>\n{instruction}"
  "<reserved08706>",
}


@pytest.mark.parametrize(("layout", "target"), EXPECTED)
def test_a_prompt_reads_as_it_should(tokenizers, layout, target):
  t = tokenizers[layout]
  template = image_prompts.image_template(t, target, layout)
  transition = batch(t, 60)
  found = jax.jit(prompts.prompt, static_argnums=0)(template, transition)
  met, options = set(), image_prompts.INSTRUCTIONS[target]
  for b in range(60):
    x, y = (list(np.asarray(s.tokens)[b]) for s in (transition.x, transition.y))
    chosen = options[sum(x) % len(options)]
    met.add(chosen)
    fields = {"x": read(t, x), "y": read(t, y), "instruction": chosen}
    assert read(t, tiny.real(found, b)) == EXPECTED[layout, target].format(**fields)
  assert met == set(options) and len(met) == 10
  assert np.asarray(found.mask)[:, -1].all()
  assert template.end == ((t.eoi, t.eos) if target == "y" else (t.eos,))


def test_what_guidance_leads_away_from(tokenizers):
  transition = batch(tokenizers["liquid"], 2)
  template = image_prompts.image_template(tokenizers["liquid"], "y", "liquid")
  found = prompts.unconditional(template, transition)
  assert read(tokenizers["liquid"], tiny.real(found, 1)) == "<bos><unconditional><boi>"
  template = image_prompts.image_template(tokenizers["chameleon"], "y", "chameleon")
  found = prompts.unconditional(template, batch(tokenizers["chameleon"], 2))
  text = read(tokenizers["chameleon"], tiny.real(found, 1))
  assert text.endswith("\n<reserved08706><racm3:break>") and "turn left" not in text


def test_a_further_turn_goes_on_from_the_picture_before(tokenizers):
  """x1 is y0: its place has been taken, and its end marker written; the instruction is x1's own."""
  t = tokenizers["liquid"]
  template = image_prompts.image_template(t, "y", "liquid")
  transition = batch(t, 8)
  y, z = (Segment(*(np.asarray(a).reshape(4, 2, -1) for a in s)) for s in transition[1:])
  found, scored = prompts.sequence(template, Transition(None, y, z))
  options = image_prompts.INSTRUCTIONS["y"]
  for b in range(4):
    first, second = (list(y.tokens[b, k]) for k in range(2))
    again = options[sum(first) % len(options)]
    ids = np.asarray(found.tokens[b, 0])
    text = read(t, ids[np.asarray(found.mask[b, 0])])
    assert text == (
      f"{read(t, first)}<eoi><eos>\n{again}\nturn left<boi>{read(t, second)}<eoi><eos>"
    )
    assert read(t, ids[np.asarray(scored[b, 0])]) == (
      f"{read(t, first)}<eoi><eos>{read(t, second)}<eoi><eos>"
    )


def test_the_action_has_the_ids_that_its_text_has_there(tokenizers):
  """z is encoded by itself, and the line before it ends with a token of its own."""
  t = tokenizers["liquid"]
  text = image_prompts.INSTRUCTIONS["y"][0] + "\nturn left"
  parts = [*t.encode(image_prompts.INSTRUCTIONS["y"][0]), *t.encode("\n"), *t.encode("turn left")]
  assert t.encode(text) == parts


def test_prompts_and_tokenizers_that_do_not_fit(tokenizers):
  with pytest.raises(ValueError, match="prompts = 'liquid': it needs the tokenizer of an image mo"):
    programs.template_of("liquid", tiny.TOKENIZER, "y")
  with pytest.raises(ValueError, match="prompts = 'plain': the tokenizer of an image model has no"):
    programs.template_of("plain", tokenizers["liquid"], "y")
  with pytest.raises(ValueError, match="prompts = 'chat': it needs a language model's tokenizer"):
    programs.template_of("chat", tokenizers["liquid"], "y")
  with pytest.raises(ValueError, match="has no token '<reserved08706>'"):
    programs.template_of("chameleon", tokenizers["liquid"], "y")

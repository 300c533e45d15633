"""Tokenizers of image models: code words and text, ids behind the text's or in a permuted range."""

import pytest
import tiny_liquid

from swirl_jax.data import fast_tokenizers, image_tokenizers
from swirl_jax.data.tokenizers import SPECIAL

CODES, ORDER = tiny_liquid.CODES, tiny_liquid.ORDER


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  root = tmp_path_factory.mktemp("models")
  return {f: tiny_liquid.write(root / f, f) for f in ("gemma", "chameleon")}


def opened(folder, codes=CODES, **changes):
  config = tiny_liquid.config_of(folder) | changes
  return image_tokenizers.open_tokenizer(folder, config, codes=codes)


@pytest.fixture(scope="module")
def liquid(folders):
  return opened(folders["gemma"])


@pytest.fixture(scope="module")
def chameleon(folders):
  return opened(folders["chameleon"])


def test_liquids_codes_lie_behind_the_text(liquid):
  size = len(liquid.text.tokenizer)
  assert liquid.codes == (size, size + CODES) and liquid.vocab_size == size + CODES
  assert liquid.code_ids == range(size, size + CODES)
  assert liquid.encode("<3> <0>\n<15>") == [size + 3, size, size + 15]
  assert liquid.decode([size + 3, size, size + 15]) == "<3> <0> <15>"
  vocabulary = liquid.text.tokenizer.get_vocab()
  assert (liquid.boi, liquid.eoi) == (vocabulary["<boi>"], vocabulary["<eoi>"])
  assert liquid.marker("<start_of_turn>") == vocabulary["<start_of_turn>"]
  assert liquid.added == () and liquid.known == liquid.vocab_size


def test_chameleons_codes_are_a_permutation_of_a_range(chameleon):
  vocabulary = chameleon.text.tokenizer.get_vocab()
  start, stop = chameleon.codes
  assert stop - start == CODES and stop == len(vocabulary) == chameleon.vocab_size
  for code in range(CODES):
    assert chameleon.encode(f"<{code}>") == [vocabulary[tiny_liquid.code_name(code)]]
  assert chameleon.encode(" ".join(f"<{code}>" for code in ORDER)) == list(range(start, stop))
  assert chameleon.decode(range(start, stop)) == " ".join(f"<{code}>" for code in ORDER)
  assert chameleon.boi == vocabulary["<racm3:break>"] and chameleon.eoi == vocabulary["<eoss>"]


def test_text_may_lie_behind_the_codes():
  """As in Chameleon's own vocabulary: ids behind the codes are text, and rows of the model."""
  tokenizer = tiny_liquid.text_tokenizer(*tiny_liquid.CHAMELEON)
  tokenizer.add_tokens([tiny_liquid.code_name(code) for code in ORDER])
  tokenizer.add_tokens(["behind"])
  vocabulary = tokenizer.get_vocab()
  found = image_tokenizers.ImageTokenizer(
    fast_tokenizers.wrap(tokenizer, SPECIAL[:3]), image_tokenizers.chameleon_ids(vocabulary),
    vocabulary["<racm3:break>"], vocabulary["<eoss>"],
  )  # fmt: skip
  last = vocabulary["behind"]
  assert last == found.codes[1] and found.vocab_size == found.known == last + 1
  assert found.decode([*found.encode("<3>"), last]) == "<3> behind"


def test_text_is_the_text_tokenizers(liquid, folders):
  text = fast_tokenizers.open_tokenizer(folders["gemma"])
  for phrase in ("turn left", "<3> of <4>", "<017>", "<-1>", "\n", ""):
    assert liquid.encode(phrase) == text.encode(phrase)
    assert max(liquid.encode(phrase), default=0) < liquid.codes[0]
    assert liquid.decode([*liquid.encode(phrase), liquid.eos, 3]) == phrase


def test_what_is_malformed_equals_no_text(liquid):
  start, turn = liquid.codes[0], liquid.encode("turn left")
  assert liquid.decode([start + 2, *turn, start]) == "<2> turn left <0>"
  assert liquid.decode([start + 2, liquid.eoi, start]) == "<2> <eoi> <0>"
  assert liquid.decode([start, liquid.pad, start + 1, liquid.eos, start]) == "<0> <1>"


def test_codes_and_names_that_cannot_be(liquid, chameleon):
  for tokenizer in (liquid, chameleon):
    with pytest.raises(ValueError, match=r"code <32> is outside .* image vocabulary of 32 codes"):
      tokenizer.encode("<3> <32>")
  with pytest.raises(ValueError, match="holds the name of an image's token: 'see IMGIMGDZ'"):
    chameleon.encode("see IMGIMGDZ")
  assert liquid.boi not in liquid.encode("a <boi> b")  # as the text it is


def test_a_marker_that_is_no_special_token_is_refused_in_text():
  """What a tokenizer doesn't call special it can't encode as text."""
  text = fast_tokenizers.wrap(tiny_liquid.text_tokenizer("<boi>", "<eoi>", special=False))
  boi, eoi = (image_tokenizers.marker(text, name) for name in ("<boi>", "<eoi>"))
  found = image_tokenizers.ImageTokenizer(text, range(400, 432), boi, eoi)
  for name in ("<boi>", "<eoi>"):
    with pytest.raises(ValueError, match=f"the name of an image's token: 'a {name} b'"):
      found.encode(f"a {name} b")


def test_equal_by_content(liquid, chameleon, folders):
  again = opened(folders["gemma"])
  assert again == liquid and hash(again) == hash(liquid) and again is not liquid
  assert liquid != chameleon and {liquid: 1}[again] == 1


def test_a_vq_of_another_model_is_refused(folders):
  size = tiny_liquid.config_of(folders["gemma"])["vocab_size"]
  for codes in (CODES + 1, 7):
    message = f"VQ. has {codes} codes; the image vocabulary of .* has {CODES}"
    with pytest.raises(ValueError, match=message + f" .of {size} rows"):
      opened(folders["gemma"], codes=codes)
    with pytest.raises(ValueError, match=message):
      opened(folders["chameleon"], codes=codes)
  padded = opened(folders["gemma"], vocab_size=size + 8)  # rows, so that a matrix divides
  assert padded.vocab_size == size and padded.codes == (size - CODES, size)
  last = opened(folders["chameleon"]).vocab_size - 1  # a code's id, which has to be a row
  with pytest.raises(ValueError, match="must be those of one model"):
    opened(folders["chameleon"], vocab_size=last)


def test_rows_behind_the_codes_are_padding_up_to_512(folders):
  """More is another VQ's vocabulary, however many codes there are."""
  start = tiny_liquid.config_of(folders["gemma"])["vocab_size"] - CODES
  found = opened(folders["gemma"], codes=2000, vocab_size=start + 2000 + 512)
  assert found.codes == (start, start + 2000)
  with pytest.raises(ValueError, match="VQ. has 2000 codes; the image vocabulary of .* has 2513"):
    opened(folders["gemma"], codes=2000, vocab_size=start + 2000 + 513)


def test_markers_that_are_missing(tmp_path, folders):
  plain = tmp_path / "plain"
  tiny_liquid.text_tokenizer("<boi>").save_pretrained(plain)
  config = tiny_liquid.config_of(folders["gemma"])
  with pytest.raises(ValueError, match="the tokenizer has no token '<eoi>'"):
    image_tokenizers.open_tokenizer(plain, config, codes=CODES)
  with pytest.raises(ValueError, match="no token '<racm3:break>'"):
    image_tokenizers.open_tokenizer(plain, config | {"model_type": "chameleon"}, codes=CODES)
  with pytest.raises(ValueError, match="tokenizer has no token '<start_of_turn>'"):
    opened(folders["chameleon"]).marker("<start_of_turn>")


def test_a_folder_without_padding_begin_or_end(tmp_path, folders):
  """What a text model's tokenizer lacks is added behind it: there the codes are."""
  from tokenizers import Tokenizer, models
  from transformers import PreTrainedTokenizerFast

  words = Tokenizer(models.WordLevel({"<boi>": 0, "<eoi>": 1, "</s>": 2}))
  PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>").save_pretrained(tmp_path)
  with pytest.raises(ValueError, match="names no padding, begin or end token"):
    image_tokenizers.open_tokenizer(tmp_path, tiny_liquid.config_of(folders["gemma"]), codes=CODES)


@pytest.mark.parametrize(
  ("names", "message"),
  [
    ({}, "names of 0 codes"),
    ({"IMGIMGAZ": 5, "IMGIMGCZ": 6}, "names of 2 codes"),
    ({"IMGIMGAZ": 5, "IMGIMGAAZ": 6}, "'IMGIMGAAZ' is no code's name, or names one a second time"),
    ({"IMGIMGAX": 5}, "'IMGIMGAX' is no code's name"),
    ({"IMGIMGxZ": 5}, "'IMGIMGxZ' is no code's name"),
  ],
)
def test_a_vocabulary_map_that_names_no_codes(names, message):
  with pytest.raises(ValueError, match=message):
    image_tokenizers.chameleon_ids(names | {"<image>": 3})


@pytest.mark.parametrize(
  ("code_ids", "message"),
  [
    ((300, 302), "2 ids from 300 to 302; allowed is one range"),
    ((300, 300, 302), "3 ids from 300 to 302"),
    (range(1, 20), "code ids 1 to 19: bos = 1 is one"),
  ],
)
def test_code_ids_that_are_no_range_of_their_own(liquid, code_ids, message):
  with pytest.raises(ValueError, match=message):
    image_tokenizers.ImageTokenizer(liquid.text, code_ids, liquid.boi, liquid.eoi)


def test_markers_are_no_codes(liquid):
  for name, other in (("boi", "eoi"), ("eoi", "boi")):
    markers = {name: 400, other: 300}
    with pytest.raises(ValueError, match=f"code ids 399 to 401: {name} = 400 is one"):
      image_tokenizers.ImageTokenizer(liquid.text, range(399, 402), **markers)

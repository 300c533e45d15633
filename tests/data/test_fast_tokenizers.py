"""Tokenizers through transformers: special tokens, chat templates, training, saving."""

import numpy as np
import pytest

from swirl_jax import prompts
from swirl_jax.data import fast_tokenizers
from swirl_jax.data.tokenizers import SPECIAL, ByteTokenizer, WordTokenizer

TEXTS = ["the red key is left of the door", "the blue key is in the room\nand the door is open"] * 3
CHAT = (
  "{% for m in messages %}<bos>{{ m.role }}: {{ m.content | trim }}<sep>{% endfor %}"
  "{% if add_generation_prompt %}<bos>assistant: {% endif %}"
)
ODD = "  é <sep> 火\n\n<eos>x"


@pytest.fixture(scope="module")
def bpe():
  return fast_tokenizers.train_bpe(TEXTS, vocab_size=300, chat_template=CHAT)


@pytest.fixture
def foreign():
  """As one from elsewhere: other names, no padding, no begin, none of our markers."""
  from tokenizers import Tokenizer, models, pre_tokenizers
  from transformers import PreTrainedTokenizerFast

  backend = Tokenizer(models.WordLevel({"red": 0, "key": 1, "<|end|>": 2, "?": 3}, unk_token="?"))
  backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", unk_token="?")


def test_bpe_merges_what_it_saw_and_encodes_what_it_did_not(bpe):
  assert (bpe.pad, bpe.bos, bpe.eos, bpe.sep, bpe.fwm, bpe.idm) == tuple(range(6))
  assert bpe.added == () and bpe.known == bpe.vocab_size
  assert 262 < bpe.vocab_size <= 300
  assert len(bpe.encode(TEXTS[0])) < len(TEXTS[0].encode()) / 2
  for text in (*TEXTS, ODD, ""):
    assert bpe.decode(bpe.encode(text)) == text
    assert not set(bpe.encode(text)) & set(range(6))  # text cannot smuggle special tokens in
  with pytest.raises(ValueError, match="vocab_size = 261: the special tokens and bytes alone are"):
    fast_tokenizers.train_bpe(TEXTS, vocab_size=261)


def test_training_is_reproducible_and_equality_is_by_content(bpe, tmp_path):
  again = fast_tokenizers.train_bpe(TEXTS, vocab_size=300, chat_template=CHAT)
  assert again == bpe and hash(again) == hash(bpe) and again is not bpe
  assert fast_tokenizers.train_bpe(TEXTS, vocab_size=290, chat_template=CHAT) != bpe
  assert fast_tokenizers.train_bpe(TEXTS, vocab_size=300) != bpe  # no chat template
  assert bpe != "bpe"
  bpe.save_pretrained(tmp_path)
  opened = fast_tokenizers.open_tokenizer(tmp_path)
  assert opened.ids == bpe.ids and opened.added == ()
  assert opened.encode(ODD) == bpe.encode(ODD)
  assert opened.tokenizer.chat_template == CHAT


def test_decoding_stops_at_the_end_and_shows_what_is_misplaced(bpe):
  red = bpe.encode("red")
  assert bpe.decode(np.array([*red, bpe.pad, *red, bpe.eos, *red])) == "redred"
  assert bpe.decode([*red, bpe.sep, *red]) == "red<sep>red"
  assert bpe.decode([*red, bpe.vocab_size + 3]) == f"red<unused {bpe.vocab_size + 3}>"
  assert bpe.decode([]) == ""


def test_what_a_tokenizer_lacks_is_added_behind_its_vocabulary(foreign, tmp_path):
  found = fast_tokenizers.wrap(foreign)
  assert found.known == 4 and found.eos == 2
  assert [found.pad, found.bos, found.sep, found.fwm, found.idm] == list(found.added)
  assert found.added == (4, 5, 6, 7, 8) and found.vocab_size == 9
  assert found.encode("red key") == [0, 1]
  assert found.decode([0, found.pad, 1, found.fwm, 2, 0]) == "red key <fwm>"
  assert found.tokenizer.pad_token == "<pad>" and found.tokenizer.bos_token == "<bos>"
  found.save_pretrained(tmp_path)
  again = fast_tokenizers.open_tokenizer(tmp_path)  # now they are its own
  assert again.ids == found.ids and again.added == () and again.known == 9


def test_transformers_opens_it_beside_any_model_or_it_is_not_saved(bpe, tmp_path):
  """Beside a Qwen2 model `transformers` takes Qwen2's own class, which a BPE survives."""
  import json

  from transformers import AutoTokenizer

  words = fast_tokenizers.from_own(WordTokenizer(("red", "key", "door")))
  for model in ("llama", "qwen2", "qwen3", "gemma", "mistral"):
    (tmp_path / model).mkdir()
    (tmp_path / model / "config.json").write_text(json.dumps({"model_type": model}))
    if model == "qwen2":
      with pytest.raises(ValueError, match="as Qwen2Tokenizer, which gives other ids"):
        words.save_pretrained(tmp_path / model)
    else:
      words.save_pretrained(tmp_path / model)
    bpe.save_pretrained(tmp_path / model)
    opened = AutoTokenizer.from_pretrained(tmp_path / model)
    text = TEXTS[0] + " it's 123\n\n  ok"
    assert opened.encode(text, add_special_tokens=False) == bpe.encode(text)
    assert len(opened) == bpe.vocab_size
    assert fast_tokenizers.open_tokenizer(tmp_path / model).encode(text) == bpe.encode(text)


def test_ids_with_holes_are_refused():
  from tokenizers import Tokenizer, models
  from transformers import PreTrainedTokenizerFast

  holes = Tokenizer(models.WordLevel({"red": 0, "<|end|>": 2, "?": 4}))
  with pytest.raises(ValueError, match=r"lacks <pad>.*holes \(3 tokens, ids to 4\)"):
    fast_tokenizers.wrap(PreTrainedTokenizerFast(tokenizer_object=holes))


def test_holes_are_fine_where_nothing_is_added():
  """The greatest id decides how many rows a model needs, not the number of tokens."""
  from tokenizers import Tokenizer, models, pre_tokenizers
  from transformers import PreTrainedTokenizerFast

  ids = {"<pad>": 0, "<bos>": 1, "<eos>": 2, "red": 5, "key": 9}
  backend = Tokenizer(models.WordLevel(ids))
  backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  names = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
  holes = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
  found = fast_tokenizers.wrap(holes, SPECIAL[:3])
  assert (found.vocab_size, found.known, found.added) == (10, 10, ())
  assert found.encode("red key") == [5, 9] and found.decode([9, 5, 2, 9]) == "key red"


def test_another_end_is_another_tokenizer(foreign):
  """tokenizer.json alone does not say which token ends a text."""
  import copy

  other = copy.deepcopy(foreign)
  other.eos_token = "?"
  one, two = fast_tokenizers.wrap(foreign), fast_tokenizers.wrap(other)
  assert one.tokenizer.backend_tokenizer.to_str() == two.tokenizer.backend_tokenizer.to_str()
  assert one.eos != two.eos and one != two


def test_a_checkpoints_tokenizer_is_opened_as_its_file_has_it(tmp_path):
  """`transformers` would take Qwen2's own way of cutting words beside such a model."""
  import json

  words = fast_tokenizers.from_own(WordTokenizer(("red", "key", "door")))
  words.save_pretrained(tmp_path)
  (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
  opened = fast_tokenizers.open_tokenizer(tmp_path)
  assert opened.encode("door red") == words.encode("door red") == [8, 6]


def test_a_folder_without_a_tokenizer(tmp_path):
  with pytest.raises(ValueError, match=f"tokenizer '{tmp_path}': it could not be opened"):
    fast_tokenizers.open_tokenizer(tmp_path)
  with pytest.raises(ValueError, match="WordTokenizer is no fast tokenizer"):
    fast_tokenizers.wrap(WordTokenizer(("red",)))


def test_chat_gives_the_pieces_of_a_template(bpe):
  messages = [
    {"role": "system", "content": "You predict."},
    {"role": "user", "content": "State: {x}\nAction: {z} "},
  ]
  pieces = bpe.chat(messages)
  assert pieces[1::2] == ("x", "z") and len(pieces) == 5
  template = prompts.Template(pieces, "y", bpe.eos)  # begins and ends with literals
  ids = sum((bpe.encode("s") if isinstance(p, str) else list(p) for p in template.prompt), start=[])
  filled = [
    {**m, "content": m["content"].replace("{x}", "s").replace("{z}", "s")} for m in messages
  ]
  whole = bpe.tokenizer.apply_chat_template(filled, tokenize=False, add_generation_prompt=True)
  assert bpe._text(ids) == whole
  assert pieces[0][0] == bpe.bos and bpe.sep in pieces[0] and bpe.sep in pieces[-1]


def test_chat_adds_no_token_of_its_own():
  """Llama's and Gemma's tokenizers put a begin before every text: a template's pieces have what the
  template writes.
  """
  from tokenizers import Tokenizer, models, pre_tokenizers, processors
  from transformers import PreTrainedTokenizerFast

  words = ("<pad>", "<bos>", "<eos>", "ask", "say")
  backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}))
  backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  backend.post_processor = processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", 1)])
  tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=backend, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>",
    chat_template="<bos> ask {{ messages[0].content }} say",
  )  # fmt: skip
  assert tokenizer.encode("ask") == [1, 3]
  found = fast_tokenizers.wrap(tokenizer, SPECIAL[:3])
  assert found.chat([{"role": "user", "content": "{x}"}]) == ((1, 3), "x", (4,))
  assert found.encode("ask say") == [3, 4]


def test_chat_settings_reach_the_template_and_errors_say_what_is_missing(bpe):
  import copy

  other = copy.deepcopy(bpe.tokenizer)
  other.chat_template = "{{ greeting }}{{ messages[0].content }}!"
  found = fast_tokenizers.wrap(other)
  assert found.chat([{"role": "user", "content": "{y}"}], greeting="hi ") == (
    tuple(found.encode("hi ")), "y", tuple(found.encode("!")),
  )  # fmt: skip
  other.chat_template = "{{ messages[0].role }}"
  with pytest.raises(ValueError, match=r"renders the fields \[\], expected \['x'\]"):
    found.chat([{"role": "user", "content": "{x}"}])
  other.chat_template = "{{ messages[0].content }}{{ messages[0].content }}"
  with pytest.raises(ValueError, match=r"renders the fields \['x', 'x'\], expected \['x'\]"):
    found.chat([{"role": "user", "content": "{x}"}])
  other.chat_template = None
  with pytest.raises(ValueError, match="no chat template"):
    found.chat([{"role": "user", "content": "{x}"}])


def test_a_word_tokenizer_as_transformers_opens_it(tmp_path):
  from transformers import AutoTokenizer

  own = WordTokenizer(("red", "key", "door", "."))
  found = fast_tokenizers.from_own(own)
  assert found.ids == (own.pad, own.bos, own.eos, own.sep, own.fwm, own.idm)
  assert found.vocab_size == own.vocab_size and found.added == ()
  found.save_pretrained(tmp_path)
  opened = AutoTokenizer.from_pretrained(tmp_path)
  for text in (" red  door ", "key .", ""):
    assert opened.encode(text, add_special_tokens=False) == own.encode(text) == found.encode(text)
    assert opened.decode(own.encode(text)) == own.decode(own.encode(text))
  assert found.decode([6, own.sep, 7, own.eos, 8]) == own.decode([6, own.sep, 7, own.eos, 8])
  for text in ("red blue", "red <sep>"):
    for tokenizer in (own, found):
      with pytest.raises(ValueError, match=text):
        tokenizer.encode(text)


def test_the_byte_tokenizer_as_transformers_opens_it(tmp_path):
  from transformers import AutoTokenizer

  own = ByteTokenizer()
  found = fast_tokenizers.from_own(own)
  assert found.vocab_size == own.vocab_size == len(SPECIAL) + 256
  found.save_pretrained(tmp_path)
  opened = AutoTokenizer.from_pretrained(tmp_path)
  for text in (*TEXTS, "".join(map(chr, range(1, 300)))):
    assert opened.encode(text, add_special_tokens=False) == own.encode(text)
    assert found.encode(text) == own.encode(text)
    assert found.decode(own.encode(text)) == text
  assert found.encode(ODD) == own.encode(ODD)

"""The word tokenizer: ids, round trip, errors."""

import pytest

from swirl_jax.data import tokenizers
from swirl_jax.data.tokenizers import ByteTokenizer, WordTokenizer

TOKENIZER = WordTokenizer(("red", "key", "door"))


def test_ids_are_the_special_tokens_and_then_the_words_in_order():
  assert (tokenizers.PAD, tokenizers.BOS, tokenizers.EOS) == (0, 1, 2)
  assert (tokenizers.SEP, tokenizers.FWM, tokenizers.IDM) == (3, 4, 5)
  assert TOKENIZER.encode(" red  door ") == [6, 8]
  assert TOKENIZER.vocab_size == 9
  assert TOKENIZER.decode(TOKENIZER.encode("key red")) == "key red"
  assert TOKENIZER.encode("") == []


def test_decoding_stops_at_the_end_and_shows_misplaced_special_tokens():
  assert TOKENIZER.decode([6, 0, 7, tokenizers.EOS, 8]) == "red key"
  assert TOKENIZER.decode([6, tokenizers.SEP, 7]) == "red <sep> key"
  with pytest.raises(ValueError, match="id 9 is outside the vocabulary, 0 to 8"):
    TOKENIZER.decode([9])


def test_an_unknown_word_is_named():
  with pytest.raises(ValueError, match="the word 'blue' is not in the vocabulary of 3 words"):
    TOKENIZER.encode("red blue key")
  with pytest.raises(ValueError, match="'<sep>'"):  # text cannot smuggle special tokens in
    TOKENIZER.encode("red <sep>")


@pytest.mark.parametrize("words", [("a", "a"), ("a b",), ("",), ("<eos>",), ["a"]])
def test_a_bad_vocabulary_is_refused(words):
  with pytest.raises(ValueError, match="twice|is no word|must be a tuple"):
    WordTokenizer(words)


def test_it_is_hashable_by_its_words():
  assert hash(TOKENIZER) == hash(WordTokenizer(("red", "key", "door")))
  assert TOKENIZER == WordTokenizer(("red", "key", "door")) != WordTokenizer(("red", "key"))


def test_bytes_encode_any_text_and_give_it_back():
  tokenizer = ByteTokenizer()
  assert tokenizer.encode("aé") == [6 + 0x61, 6 + 0xC3, 6 + 0xA9]
  for text in ("", "red key\n", "火 <eos> <pad>"):
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert not set(tokenizer.encode(text)) & set(range(6))
  assert tokenizer.vocab_size == 262
  red = tokenizer.encode("red")
  assert tokenizer.decode([*red, tokenizer.pad, tokenizer.fwm, tokenizer.eos, *red]) == "red<fwm>"
  assert tokenizer.decode(tokenizer.encode("é")[:1]) == "\ufffd"
  with pytest.raises(ValueError, match="id 262 is outside the vocabulary, 0 to 261"):
    tokenizer.decode([262])
  assert tokenizer == ByteTokenizer() and hash(tokenizer) == hash(ByteTokenizer())

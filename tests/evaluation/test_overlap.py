"""Overlap scores are those of the libraries, and their intervals those of corpora drawn anew."""

import importlib.metadata
import json
import sys
import types

import numpy as np
import pytest
import sacrebleu

from swirl_jax.evaluation import overlap, text

REFERENCES = [
  "the red door is open and the key lies on the floor",
  "you move to the kitchen . a stove is here",
  "the lamp is off",
  "balance 120 , open tickets 3 , last error none",
  "the agent carries a blue ball up the stairs",
]
PREDICTIONS = [
  "the red door is closed and the key lies on the floor",
  "you move to the hall . a stove is here",
  "the lamp is off",
  "balance 120 , open tickets 2",
  "",
]
EPISODES = ["a", "a", "b", "c", "c"]


@pytest.fixture(scope="module")
def found():
  return overlap.scores(PREDICTIONS, REFERENCES, EPISODES)


def test_corpus_scores_are_the_libraries_own(found):
  bleu = sacrebleu.corpus_bleu(PREDICTIONS, [REFERENCES]).score
  chrf = sacrebleu.corpus_chrf(PREDICTIONS, [REFERENCES]).score
  assert found["bleu"]["value"] == pytest.approx(bleu, rel=1e-12) and 20 < bleu < 90
  assert found["chrf"]["value"] == pytest.approx(chrf, rel=1e-12)


def test_sentence_scores_are_means(found):
  single = [
    sacrebleu.sentence_bleu(p, [r]).score for p, r in zip(PREDICTIONS, REFERENCES, strict=True)
  ]
  assert found["sentence_bleu"]["value"] == pytest.approx(np.mean(single))
  assert single[2] == pytest.approx(100.0)


def test_rouge_l_by_hand():
  """Longest common subsequences of 3 of 4 words (of 5 in y), and of all; the empty text has 0."""
  y = ["a b c d e", "x y z", "a"]
  p = ["a b q e", "X, y z!", ""]
  value = overlap.scores(p, y, [0, 1, 2], ["rouge_l"])["rouge_l"]["value"]
  assert value == pytest.approx(100 * (2 * 3 / (4 + 5) + 1 + 0) / 3)


def test_intervals_score_each_resample_as_a_corpus(found):
  """Every resample of the three episodes, put together as texts and scored by the library."""
  rows = {"a": [0, 1], "b": [2], "c": [3, 4]}
  values = []
  for draw in text._draws(3)[:60]:
    chosen = [i for e in draw for i in rows["abc"[e]]]
    corpus = [PREDICTIONS[i] for i in chosen], [[REFERENCES[i] for i in chosen]]
    values.append(sacrebleu.corpus_bleu(*corpus).score)
  low, high = found["bleu"]["low"], found["bleu"]["high"]
  assert min(values) <= low < found["bleu"]["value"] < high <= max(values)
  few = {e: sacrebleu.corpus_bleu(
    [PREDICTIONS[i] for i in rows[e]], [[REFERENCES[i] for i in rows[e]]]).score for e in rows
  }  # fmt: skip
  for episode, value in few.items():
    mine = [PREDICTIONS[i] for i in rows[episode]], [REFERENCES[i] for i in rows[episode]]
    alone = overlap.scores(*mine, [episode] * len(rows[episode]), ["bleu"])["bleu"]
    assert alone == pytest.approx({"value": value, "low": value, "high": value})


def test_the_truth_has_everything_but_the_bleu_of_short_texts():
  found = overlap.scores(REFERENCES, REFERENCES, EPISODES)
  for name in overlap.NAMES:
    assert found[name] == pytest.approx({"value": 100.0, "low": 100.0, "high": 100.0}), name
  short = overlap.scores(["a b c"], ["a b c"], ["e"], ["bleu", "sentence_bleu"])
  assert short["bleu"]["value"] == 0.0 and short["sentence_bleu"]["value"] == pytest.approx(100.0)


def test_signatures_name_the_settings():
  found = overlap.signatures()
  assert set(found) == set(overlap.NAMES)
  assert "tok:13a" in found["bleu"] and "eff:no" in found["bleu"] and "nrefs:1" in found["bleu"]
  assert "nc:6" in found["chrf"]


def test_bad_input():
  with pytest.raises(ValueError, match=r"\['meteor'\]: allowed are bleu, chrf"):
    overlap.scores(["a"], ["a"], ["e"], ["meteor"])
  with pytest.raises(ValueError):
    overlap.scores(["a"], ["a", "b"], ["e", "e"])


def test_bert_score_says_what_is_missing(tmp_path, monkeypatch):
  with pytest.raises(ValueError, match=r"no config.json there \(.*; allowed is the folder"):
    overlap.bert_score(["a"], ["a"], ["e"], folder=str(tmp_path))
  (tmp_path / "config.json").write_text(json.dumps({"num_hidden_layers": 3}))
  monkeypatch.setitem(sys.modules, "bert_score", None)  # as if not installed
  with pytest.raises(ValueError, match="pip install bert-score"):
    overlap.bert_score(["a"], ["a"], ["e"], folder=str(tmp_path))


@pytest.mark.parametrize("name, layer", [("roberta-large", 17), ("xlarge", 40), ("mine", 3)])
def test_bert_score_hands_over_the_local_folder(tmp_path, monkeypatch, name, layer):
  folder, asked = tmp_path / name, {}
  folder.mkdir()
  (folder / "config.json").write_text(json.dumps({"num_hidden_layers": 3}))

  def score(predictions, references, **settings):
    asked.update(settings, predictions=predictions, references=references)
    return None, None, np.array([0.5, 1.0])

  library = types.SimpleNamespace(
    score=score,
    utils=types.SimpleNamespace(model2layers={"roberta-large": 17, "somebody/xlarge": 40}),
  )
  monkeypatch.setitem(sys.modules, "bert_score", library)
  found = overlap.bert_score(("a", "b"), ("a", "c"), ["e", "e"], folder=str(folder))
  assert found == {"bert_score": {"value": 75.0, "low": 75.0, "high": 75.0}}
  assert asked == {"predictions": ["a", "b"], "references": ["a", "c"],
                   "model_type": str(folder), "num_layers": layer}  # fmt: skip
  version = importlib.metadata.version
  monkeypatch.setattr(importlib.metadata, "version", lambda n: n if n[0] == "b" else version(n))
  signature = f"bert_score|version:bert-score|{name}|layer:{layer}|f1|rescaled:no"
  assert overlap.signatures(str(folder))["bert_score"] == signature
  (folder / "config.json").write_text(json.dumps({"n_layers": 6}))
  if name == "mine":
    with pytest.raises(ValueError, match="num_hidden_layers is None in its config.json"):
      overlap.bert_layer(str(folder))
  else:
    assert overlap.bert_layer(str(folder)) == layer

"""Overlap of predicted texts with true ones, by the libraries that published figures come from.

All scores lie between 0 and 100, as sacreBLEU prints them. N predictions, one reference each.

    bleu             BLEU (Papineni et al. 2002) of the corpus, by sacreBLEU (arXiv:1804.08771)
    chrf             chrF2 (Popović 2015) of the corpus, by sacreBLEU
    sentence_bleu    mean of BLEU by text, of the orders that the text has (`effective_order`)
    sentence_chrf    mean of chrF2 by text
    rouge_l          mean of ROUGE-L's F1 by text (Lin 2004), rouge-score's defaults, no stemmer

Traps. States change little: what repeating x scores belongs beside each of these. BLEU of a corpus
whose texts are all shorter than four words is 0, even where every one is right. rouge-score keeps
the letters a to z and digits alone, in lower case: other alphabets score 0.
"""

import importlib.metadata
import json
import pathlib
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from swirl_jax.evaluation import text

CORPUS = ("bleu", "chrf")
NAMES = (*CORPUS, "sentence_bleu", "sentence_chrf", "rouge_l")


def scores(
  predictions: Sequence[str],
  references: Sequence[str],
  episodes: Sequence[Hashable],
  names: Sequence[str] = NAMES,
) -> dict[str, dict[str, float | None]]:
  """{name: estimate}, 0 to 100. Corpus scores are resampled by their statistics: each resample of
  episodes is scored as the corpus that it is.
  """
  unknown = sorted(set(names) - set(NAMES))
  if unknown:
    raise ValueError(f"names = {unknown}: allowed are {', '.join(NAMES)}")
  pairs, metrics = list(zip(predictions, references, strict=True)), _metrics()
  found = {}
  for name in names:
    if name in CORPUS:
      found[name] = _corpus(metrics[name], pairs, episodes)
      continue
    if name == "rouge_l":
      values = _rouge_l(pairs)
    else:
      values = [metrics[name].sentence_score(p, [r]).score for p, r in pairs]
    found[name] = text.ratio(values, 1, episodes)
  return found


def _metrics() -> dict[str, Any]:
  """sacreBLEU's, by our names."""
  from sacrebleu.metrics import BLEU, CHRF

  bleu, chrf = BLEU(), CHRF()
  by_text = {"sentence_bleu": BLEU(effective_order=True), "sentence_chrf": chrf}
  return {"bleu": bleu, "chrf": chrf} | by_text


def _corpus(metric, pairs, episodes) -> dict[str, float | None]:
  """A corpus score by the sums of its statistics: n-gram counts, and for BLEU lengths."""
  predictions, references = (list(texts) for texts in zip(*pairs, strict=True))
  # The same calls as sacreBLEU's own significance tests make; there are no public ones.
  statistics = metric._extract_corpus_statistics(predictions, [references])
  score = lambda sums: metric._compute_score_from_stats([round(v) for v in sums]).score  # noqa: E731
  return text.estimate(lambda sums: np.array([score(row) for row in sums]), statistics, episodes)


def _rouge_l(pairs) -> list[float]:
  from rouge_score import rouge_scorer

  scorer = rouge_scorer.RougeScorer(["rougeL"])
  return [100 * scorer.score(truth, guess)["rougeL"].fmeasure for guess, truth in pairs]


def signatures(bert_score: str = "") -> dict[str, str]:
  """What the scores were computed by, as sacreBLEU asks to be cited; bert_score: the folder of an
  encoder, where one was asked for.
  """
  found = {}
  for name, metric in _metrics().items():
    metric.corpus_score(["a"], [["a"]])  # before it has seen a reference it can't say how many
    found[name] = str(metric.get_signature())
  version = importlib.metadata.version("rouge-score")
  found["rouge_l"] = f"rouge-score|version:{version}|rougeL|f1|stemmer:no"
  if bert_score:
    version = importlib.metadata.version("bert-score")
    name, layer = pathlib.Path(bert_score).name, bert_layer(bert_score)
    found["bert_score"] = f"bert_score|version:{version}|{name}|layer:{layer}|f1|rescaled:no"
  return found


def bert_layer(folder: str) -> int:
  """The layer of the encoder in a local folder that BERTScore takes: the one that the `bert_score`
  package tuned for a model of the folder's name, whoever published it, else the last. ValueError
  where there is no encoder or no package: it brings torch, and is not among our requirements.
  """
  path = pathlib.Path(folder)
  try:
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise ValueError(
      f"bert_score = {folder!r}: no config.json there ({error}); allowed is the folder of an "
      "encoder."
    ) from None
  try:
    from bert_score import utils
  except ImportError:
    raise ValueError(
      "BERTScore is computed by the bert_score package, which isn't installed: pip install "
      "bert-score (it brings torch)."
    ) from None
  tuned = {name.rpartition("/")[2]: layer for name, layer in utils.model2layers.items()}
  layer = tuned.get(path.name, config.get("num_hidden_layers"))
  if not isinstance(layer, int):
    raise ValueError(
      f"bert_score = {folder!r}: num_hidden_layers is {layer!r} in its config.json; allowed is a "
      "whole number, or a folder named as a model that the bert_score package knows."
    )
  return layer


def bert_score(
  predictions: Sequence[str], references: Sequence[str], episodes: Sequence[Hashable], *, folder
) -> dict[str, dict[str, float | None]]:
  """{"bert_score": estimate}: mean F1 × 100, not rescaled; arXiv:1904.09675. Nothing is fetched."""
  layer = bert_layer(folder)
  from bert_score import score

  _, _, f1 = score(list(predictions), list(references), model_type=folder, num_layers=layer)
  return {"bert_score": text.ratio(100 * np.asarray(f1, float), 1, episodes)}

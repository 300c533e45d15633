"""The best, the median and the worst predictions of a world of images, as a section of the page."""

from collections.abc import Mapping, Sequence
from typing import Any

from swirl_jax import charts
from swirl_jax.data.transitions import Record
from swirl_jax.evaluation.page import escape, html_table, number, section

_NOTE = "By PSNR. In the prediction, patches that differ from the truth are outlined."


def cases(
  drawn: Mapping[str, Any], records: Sequence[Record], predictions: Sequence[str], world
) -> str:
  """The rows that `picture_scores.cases` chose (in the block `drawn`), as HTML: x, the action in
  words, the prediction with the patches that differ outlined, the truth.
  """

  def picture(state: str, truth: str) -> str:
    shown = world.render(state, world.differences(state, truth))
    return f'<img width="240" alt="" src="{charts.png_uri(shown)}">'

  body = []
  for case, rows in drawn["cases"].items():
    for one in rows:
      r, said = records[one["row"]], predictions[one["row"]]
      where = f"{escape(r.level)}, {escape(r.episode)}, turn {r.turn}"
      body.append([
        f"{case}<br>{number(one['psnr'])} dB<br><small>{where}</small>", picture(r.x, r.x),
        escape(r.z), picture(said, r.y), picture(r.y, r.y),
      ])  # fmt: skip
  if not body:
    return ""
  return section("Best, median, worst", _NOTE, html_table(["", "x", "z", "prediction", "y"], body))

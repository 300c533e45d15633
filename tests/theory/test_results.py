"""What an experiment returns, how it is stored, and the program that runs them."""

import json
import types
import xml.etree.ElementTree as ElementTree

import pytest

from swirl_jax.charts import Line
from swirl_jax.theory import __main__ as program
from swirl_jax.theory import experiments, results
from swirl_jax.theory.experiments import theorem1


def result(name="one"):
  lines = [Line("a < b", [0, 1], [0.0, 2.0], "#123456"), Line("c", [0, 1], [1.0, 1.0], "#654321",
                                                              dash=True)]  # fmt: skip
  return results.Result(
    name,
    "A title & more",
    "It is 3 < 4.",
    (results.Table("t", ("name", "value"), (("x", 0.25), ("y", None))),),
    (results.curves("Curves", lines), results.columns("Bars", [("g", [0.5])], ["v"])),
  )


def test_tables():
  (table,) = result().tables
  assert table.csv() == "name,value\nx,0.25\ny,\n"
  assert "<td>0.25</td>" in table.html() and "<td></td>" in table.html()
  odd = results.Table("t", ("a<b>",), (("<i>",),)).html()
  assert "<th>a&lt;b&gt;</th>" in odd and "<td>&lt;i&gt;</td>" in odd
  with pytest.raises(ValueError, match="table t: 2 columns; found row"):
    results.Table("t", ("a", "b"), ((1,),))
  assert [results.show(v) for v in (3, 0.12345678, 1e-7, 0.0, True, -0.25)] == [
    "3", "0.1235", "1.00e-07", "0", "True", "-0.25"
  ]  # fmt: skip


def test_no_file_with_numbers_that_json_does_not_have():
  with pytest.raises(ValueError, match="not JSON compliant"):
    results.Result("a", "A", "b", (results.Table("t", ("n",), ((float("nan"),),)),)).json()


def test_ties_of_a_distribution_go_up():
  """Also where rounding left them just below."""
  assert results.triple([0.3125, 0.3125 - 1e-16, 0.1041, 1.0]) == "(.313, .313, .104, 1.000)"


def test_charts_stand_alone():
  for chart in result().charts:
    root = ElementTree.fromstring(chart.svg())
    assert root.tag.endswith("svg") and root.attrib["viewBox"]
  assert "a &lt; b" in result().charts[0].svg() and "stroke-dasharray" in result().charts[0].svg()


def test_the_page_holds_everything_and_nothing_from_outside():
  page = results.page([result("one"), result("two")], [("Config", {"seed": 0})])
  assert page.count("It is 3 &lt; 4.") == 2 and 'id="two"' in page and "&quot;seed&quot;: 0" in page
  assert "<script" not in page and "src=" not in page
  assert json.loads(result().json())["tables"]["t"]["rows"] == [["x", 0.25], ["y", None]]


def test_every_file_of_the_folder_is_an_experiment():
  assert {"theorem1", "theorem2", "alternation", "bayes"} <= set(experiments.names())
  for name in experiments.names():
    module = experiments.load(name)
    assert module.Settings(seed=3).seed == 3 and callable(module.run)


@pytest.mark.parametrize(
  "config, message",
  [
    ({"seed": 0}, "config.experiments is missing"),
    ({"seed": 0, "experiments": "theorem1"}, "config.experiments = 'theorem1': a tuple of names"),
    ({"seed": 0, "experiments": ("theorem9",)}, "experiments = 'theorem9': allowed are"),
    ({"seed": 0, "experiments": ("theorem1",), "theorem3": {}}, "config.theorem3 is not a field"),
    ({"seed": 0, "experiments": ("theorem1",), "theorem1": {"tabels": 3}},
     "config.theorem1.tabels is not a field; allowed are seed, tables"),
    ({"seed": 0, "experiments": ("theorem1",), "theorem1": {"tables": 2.5}},
     "config.theorem1.tables = 2.5: a value of type int is needed"),
    ({"seed": 0, "experiments": ("theorem1",), "theorem1": {"rate": -1.0}},
     "config.theorem1: rate = -1.0: allowed is above 0"),
    ({"seed": -1, "experiments": ("theorem1",)}, "config.seed = -1: allowed is a whole number"),
    ({"seed": 2**32, "experiments": ("theorem1",)}, "config.seed = 4294967296: allowed is"),
    ({"seed": 0, "experiments": ("theorem2",), "theorem2": {"group": 1}},
     "config.theorem2: group = 1: allowed is from 2"),
  ],
)  # fmt: skip
def test_one_clear_error(config, message):
  with pytest.raises(ValueError) as error:
    program.prepare(config)
  assert message in str(error.value)


def test_the_program_writes_its_folder(tmp_path, monkeypatch):
  fake = types.SimpleNamespace(Settings=theorem1.Settings, run=lambda settings: result("theorem1"))
  monkeypatch.setattr(experiments, "load", lambda name: fake)
  said = program.run({"seed": 1, "experiments": ("theorem1",)}, str(tmp_path / "out"))
  assert "It is 3 < 4." in said and "report.html" in said
  found = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")}
  assert found == {
    "config.json", "versions.json", "theorem1.json", "report.html", "tables/theorem1-1.csv",
    "figures/theorem1-1.svg", "figures/theorem1-2.svg",
  }  # fmt: skip
  with pytest.raises(ValueError, match="seed: saved 1, now 2"):
    program.run({"seed": 2, "experiments": ("theorem1",)}, str(tmp_path / "out"))
  assert json.loads((tmp_path / "out" / "config.json").read_text())["seed"] == 1

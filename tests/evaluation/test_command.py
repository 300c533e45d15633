"""The command on a fabricated folder of a run: a finished one, and everything that it refuses."""

import dataclasses
import hashlib
import json
import pathlib
import shutil
import subprocess
import sys

import image_world
import jax
import pytest
import tiny

from configs import jsonl, test
from swirl_jax import plan, sharding, start, trained
from swirl_jax.checkpoint import Checkpointer
from swirl_jax.data import pipeline
from swirl_jax.evaluation import __main__ as command
from swirl_jax.evaluation import judge, one_step
from swirl_jax.evaluation.judge_templates import TEMPLATES
from swirl_jax.settings import from_config

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORDS = ("red", "green", "blue", "black")


def lines():
  """Two words a state; an action sets the first one. Every episode has words of its own."""
  for e in range(12):
    states = [f"{WORDS[(e + t) % 4]} n{e}" for t in range(3)]
    for t, (x, y) in enumerate(zip(states, states[1:], strict=False)):
      split = ("train", "train", "validation", "test")[e % 4]
      z = f"paint {y.split()[0]}" if e else ""
      yield {"x": x, "y": y, "z": z, "episode": e, "turn": t, "split": split,
             "level": ("low", "high")[e // 4 % 2]}  # fmt: skip


def make_run(folder, *, finished=True, stage=None, lines=lines):
  """config.json, the data, and one checkpoint of random models."""
  file = folder.parent / "transitions.jsonl"
  file.write_text("".join(json.dumps(line) + "\n" for line in lines()))
  c = test.get_config()
  c.world = jsonl.get_config().world
  c.world.update({"path": str(file), "labelled": 6})
  c.data.update({"fwm_labels": 0, "idm_labels": 0})
  c.evaluation.update({"turns": 2, "batch": 4})
  folder.mkdir(parents=True)
  (folder / "config.json").write_text(c.to_json())
  settings = from_config(json.loads(c.to_json()))
  world = start.world_of(settings, folder)
  world.prepare(start.data_dir(settings, folder))
  stages = plan.make_plan(settings)
  names = sorted({*plan.warm_models(stages).values(), *plan.final_models(stages).values()})
  config = trained.players_of(settings, world).fwm.config
  mesh = sharding.make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])
  params = {name: tiny.params(config, seed) for seed, name in enumerate(names)}
  meta = {"models": names, "finished": finished, "stage": len(stages) if stage is None else stage}
  with jax.set_mesh(mesh), Checkpointer(folder / "checkpoints") as checkpoints:
    checkpoints.save(7, {"models": jax.device_put(params, sharding.replicated(mesh))}, meta)
  return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  return make_run(tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture(scope="module")
def scored(run, tmp_path_factory):
  out = tmp_path_factory.mktemp("out") / "new"
  before = sorted(p for p in run.rglob("*"))
  printed = command.evaluate(str(run), split="test", out=str(out))
  assert sorted(p for p in run.rglob("*")) == before  # nothing in the run's own folder
  return printed, out, json.loads((out / "evaluation-test.json").read_text())


@pytest.mark.slow
def test_it_writes_what_it_prints(scored):
  printed, out, result = scored
  assert "evaluation-test.json" in printed and "FWM, one step" in printed
  assert "<svg" in (out / "evaluation-test.html").read_text()
  for model in ("fwm", "idm"):
    template = TEMPLATES[{"fwm": "state", "idm": "action"}[model]]
    items = judge.read_predictions(out / f"evaluation-test-{model}.jsonl", template)
    assert len(items) == result["scores"]["counts"]["transitions"]
    assert len({i.episode for i in items}) == result["scores"]["counts"]["episodes"]
  assert (result["split"], result["model"]) == ("test", "final")
  assert result["models"] == {"y": "fwm", "z": "idm"} and result["checkpoint"]["position"] == 7
  assert result["scores"]["counts"] == {"transitions": 6, "episodes": 3, "levels": 2, "chains": 3}
  assert set(result["scores"]["by_level"]) == {"low", "high"}
  assert result["overlap"]["bleu"].startswith("nrefs:1") and result["versions"]["jax"]


def image_lines():
  """Four codes a state; an action shifts them and adds one. An episode has a code of its own."""
  for e in range(12):
    states = [" ".join(f"<{c}>" for c in (e % 4, e // 4, t, (e + t) % 4)) for t in range(3)]
    for t, (x, y) in enumerate(zip(states, states[1:], strict=False)):
      yield {"x": x, "y": y, "z": f"make{t}" if e else "", "episode": e, "turn": t,
             "split": ("train", "train", "validation", "test")[e % 4], "level": "all"}  # fmt: skip


@pytest.mark.slow
def test_a_world_of_images(tmp_path, monkeypatch):
  """Through the roles that such a world has, which sample four codes: every file and every part."""
  made = start.world_of

  def world_of(*arguments):
    world = made(*arguments)
    first = world.tokenizer.encode("<0>")[0]
    return dataclasses.replace(world, codes=(first, first + 4), pictures=image_world.pictures,
                               render=image_world.render)  # fmt: skip

  monkeypatch.setattr(start, "world_of", world_of)
  run = make_run(tmp_path / "run", lines=image_lines)
  first = next(line for line in image_lines() if line["split"] == "test")
  question = {"x": first["x"], "z": first["z"], "candidates": [first["x"], first["y"]], "truth": 1}
  (tmp_path / "asked.jsonl").write_text(json.dumps(question))
  extras = command.Extras(candidates=str(tmp_path / "asked.jsonl"))
  printed = command.evaluate(str(run), split="test", extras=extras)
  result = json.loads((run / "evaluation-test.json").read_text())
  found, drawn = result["scores"], result["scores"]["pictures"]
  assert found["places"] == "patches" and found["fwm"]["complete"]["value"] == 1.0
  assert 0 < drawn["fwm"]["psnr"]["value"] <= 60 and set(drawn["verification"]) == {"1", "2"}
  assert len(drawn["turns"]["psnr"]) == 2 and found["candidates"]["states"]["all"]["count"] == 1
  assert "PSNR, dB" in printed and result["extras"]["candidates"].endswith("asked.jsonl")
  items = judge.read_predictions(run / "evaluation-test-fwm.jsonl", TEMPLATES["aurora"])
  assert len(items) == found["counts"]["transitions"]
  assert all(len(p.paths) == 1 for i in items for p in (i.x, i.y, i.prediction))
  assert (run / "evaluation-test.html").read_text().count("data:image/png") == 3 * 6
  for extras, complaint in ((command.Extras(bert_score=str(tmp_path)), "bert_score: "),
                            (command.Extras(captions="c"), "captions: .*--clip must be given"),
                            (command.Extras(lpips=str(tmp_path)), "lpips = ")):  # fmt: skip
    if extras.bert_score:
      monkeypatch.setattr(command.overlap, "bert_layer", lambda folder: 1)
    with pytest.raises(ValueError, match=complaint):
      command.evaluate(str(run), split="test", extras=extras)


@pytest.mark.slow
def test_the_config_digest_is_that_of_the_run(run, scored):
  config = json.loads((run / "config.json").read_text())
  digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
  assert scored[2]["config_digest"] == digest


@pytest.mark.slow
def test_the_scores_are_those_of_the_parts(run, scored):
  """Of the right model, on the right records: one_step on what open_run holds."""
  found = scored[2]["scores"]
  with trained.open_run(str(run)) as opened:
    world, builder = opened.world, opened.world.builder(str(run / "data"), opened.world)
    lengths = pipeline.Lengths(world.state_len, world.state_len, world.action_len)
    split = one_step.examples(pipeline.Split(builder, "test"), world.tokenizer, lengths)
    params = opened.models("fwm", "idm")
    with jax.set_mesh(opened.mesh):
      fwm = one_step.score(opened.players.fwm, params["fwm"], split.data, batch=6)
      idm = one_step.score(opened.players.idm, params["idm"], split.data, batch=6)
  for name, scores in (("fwm", fwm), ("idm", idm)):
    expected = scores.logp.sum() / scores.count.sum()
    assert found[name]["logp_token"]["value"] == pytest.approx(expected, rel=1e-5), name
  assert found["fwm"]["logp_token"]["value"] != found["idm"]["logp_token"]["value"]


@pytest.mark.slow
def test_the_warm_models_are_others_and_have_names_of_their_own(run, scored):
  command.evaluate(str(run), split="validation", model="warmup", limit=4)
  result = json.loads((run / "evaluation-validation-warmup-first4.json").read_text())
  assert result["models"] == {"y": "warm_fwm", "z": "warm_idm"}
  assert result["limit"] == 4 and result["scores"]["counts"]["transitions"] == 4
  assert result["scores"]["fwm"]["logp_token"] != scored[2]["scores"]["fwm"]["logp_token"]


REFUSED = [
  (
    {"split": "tests"},
    r"split = 'tests': the splits with actions are labelled, validation, test\.",
  ),
  ({"split": "unlabelled"}, "the splits with actions are"),
  ({"limit": 0}, "limit 0 of split 'test': must be from 1 to its 6 records"),
  ({"limit": 7}, "limit 7 of split 'test': must be from 1 to its 6 records"),
  ({"model": "best"}, "model = 'best': allowed are final, warmup"),
  ({"extras": command.Extras(bert_score="nowhere")}, "'nowhere': no config.json there"),
  ({"extras": command.Extras(candidates="nowhere")}, "candidates = 'nowhere': .*No such file"),
  ({"extras": command.Extras(lpips="w")}, "lpips = 'w': the world 'jsonl' has no pictures: its st"),
]


@pytest.fixture()
def no_work(monkeypatch):
  """Whatever is refused is refused before a model is read or a program compiled."""
  monkeypatch.setattr(trained.TrainedRun, "models", lambda *_: pytest.fail("models were read"))


@pytest.mark.parametrize("given, complaint", REFUSED)
def test_bad_input(run, no_work, given, complaint):
  with pytest.raises(ValueError, match=complaint):
    command.evaluate(str(run), **({"split": "test"} | given))


def test_an_out_that_is_no_folder(run, tmp_path, no_work):
  (tmp_path / "file").write_text("")
  with pytest.raises(ValueError, match=r"out = '.*file': allowed is a folder"):
    command.evaluate(str(run), split="test", out=str(tmp_path / "file"))


def test_no_run_there(tmp_path, no_work):
  with pytest.raises(ValueError, match="no config.json there, so it isn't the folder of a run"):
    command.evaluate(str(tmp_path), split="test")


def test_a_run_without_a_checkpoint(run, tmp_path, no_work):
  shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
  with pytest.raises(ValueError, match="no whole checkpoint there yet"):
    command.evaluate(str(tmp_path / "run"), split="test")


def test_a_run_without_its_data(run, tmp_path, no_work):
  copy = tmp_path / "run"
  shutil.copytree(run, copy, ignore=shutil.ignore_patterns("data"))
  with pytest.raises(ValueError, match="the run's data isn't in"):
    command.evaluate(str(copy), split="test")
  assert not (copy / "data").exists()  # and nothing was collected


def test_an_unfinished_run_has_its_warm_models(tmp_path, no_work):
  run = make_run(tmp_path / "run", finished=False, stage=3)
  with pytest.raises(
    ValueError, match=r"has not finished \(stage 3 of .*phase1 1\).*--model=warmup"
  ):
    command.evaluate(str(run), split="test")
  with trained.open_run(str(run)) as opened:
    assert command.models_of(opened, "warmup") == {"y": "warm_fwm", "z": "warm_idm"}
    bare = dataclasses.replace(opened, meta=opened.meta | {"models": ["warm_idm"]})
    with pytest.raises(ValueError, match="no model warm_fwm: the checkpoint holds warm_idm"):
      command.models_of(bare, "warmup")


@pytest.mark.multiprocess
def test_the_command_says_it_in_one_line(tmp_path):
  done = subprocess.run(
    [sys.executable, "-m", "swirl_jax.evaluation", f"--workdir={tmp_path}"],
    cwd=ROOT, capture_output=True, text=True, timeout=300)  # fmt: skip
  assert done.returncode == 1
  assert done.stderr.strip().split("\n")[-1].startswith("Nothing was evaluated: workdir = ")
  assert "Traceback" not in done.stderr

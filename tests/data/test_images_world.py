"""A tokenised folder becomes a world: what is kept, what is refused, and a whole run from files."""

import dataclasses
import json
import random

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from PIL import Image

from configs import images as config_of_images
from swirl_jax import codecs, inputs, programs, start, tokenize_images, train
from swirl_jax.data import builders, fast_tokenizers, tokenize_job, tokenized
from swirl_jax.data.builders import images
from swirl_jax.data.codec import Codec
from swirl_jax.data.image_codes import text_codes
from swirl_jax.data.pipeline import Split
from swirl_jax.models import vqgan, vqgan_files
from swirl_jax.settings import from_config
from tests.data.test_jsonl import TINY
from tests.data.test_tokenize_job import CODES, FACTOR, FAKE, SIZE, damage, encode

COLOURS = 6


def draw(path, state):
  """Four patches of 4 x 4, each of one of the colours."""
  pixels = np.uint8(40 * np.array(state)).reshape(2, 2).repeat(4, 0).repeat(4, 1)
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels[..., None].repeat(3, -1)).save(path)


def pairs(folder, episodes=40, turns=4, seed=0):
  """Pictures of four patches, one of which changes its colour; two episodes in three have z."""
  draw_, lines = random.Random(seed), []
  for episode in range(episodes):
    state = [draw_.randrange(COLOURS) for _ in range(4)]
    for turn in range(turns):
      after, at = list(state), draw_.randrange(4)
      after[at] = (after[at] + draw_.randrange(1, COLOURS)) % COLOURS
      names = [f"pictures/{episode}-{turn + i}.png" for i in range(2)]
      for name, drawn in zip(names, (state, after), strict=True):
        draw(folder / name, drawn)
      line = {"x": names[0], "y": names[1], "episode": episode, "turn": turn}
      if episode % 3:
        line["z"] = f"paint patch {at} with {after[at]}"
      lines.append(line)
      state = after
  return lines


def write(folder, lines):
  path = folder / "pairs.jsonl"
  path.write_text("".join(json.dumps(n) + "\n" for n in lines))
  return path


def tokenise(folder, lines, codec=FAKE, **settings):
  settings = {"size": SIZE, "batch": 4, **settings}
  tokenize_job.tokenize(write(folder, lines), folder / "codes", codec, **settings)
  return str(folder / "codes")


def world(folder, codec=FAKE, data_dir="data", **settings):
  settings = {"path": str(folder / "codes"), **settings}
  where = None if data_dir is None else str(folder / data_dir)
  return builders.get("images", settings, where, codecs=lambda *_: codec)


def prepared(folder, own):
  builder = own.prepare(str(folder / "data"))
  return {name: list(Split(builder, name)) for name in builder.info.splits}, builder.info.metadata


# -- what becomes of the lines -------------------------------------------------------------------


def test_states_are_codes_and_every_line_is_counted(tmp_path):
  lines = pairs(tmp_path)
  draw(tmp_path / "same.png", (1, 2, 3, 4))
  draw(tmp_path / "again.png", (1, 2, 3, 4))  # another file, the same codes
  (tmp_path / "bad.png").write_bytes(b"no")
  lines += [
    {"x": "same.png", "y": "again.png", "z": "wait", "episode": "s"},
    {"x": "same.png", "z": "jump", "episode": "t"},
    {"x": "bad.png", "y": "same.png", "z": "run", "episode": "u"},
  ]
  tokenise(tmp_path, lines)
  own = world(tmp_path)
  splits, counts = prepared(tmp_path, own)
  assert counts["images"] == {
    "pictures": {"distinct": 203, "tokenized": 202, "refused": 1},
    "lines": {"all": 163, "usable": 161, "without_y": 1, "refused": 1}, "same_codes": 1,
  }  # fmt: skip
  assert counts["file"]["lines"] == 160
  evaluated = {"validation", "test"}
  assert 160 == counts["file"]["duplicates"] + sum(
    counts[name]["kept"] + counts[name].get("dropped", 0) + counts[name].get("without_z", 0)
    for name in splits
  )
  records = [r for found in splits.values() for r in found]
  by_place = {}
  for n in lines[:160]:
    pixels = np.stack([np.asarray(Image.open(tmp_path / n[name])) for name in "xy"])
    by_place[str(n["episode"]), n["turn"]] = encode(pixels).reshape(2, 4).tolist()
  for r in records:
    found = [text_codes(text).tolist() for text in (r.x, r.y)]
    assert found == by_place[r.episode, r.turn]
  met = {text for name in ("labelled", "unlabelled") for r in splits[name] for text in (r.x, r.y)}
  assert all(not {r.x, r.y} & met for name in evaluated for r in splits[name])
  assert not {"wait", "jump", "run"} & set(own.words)  # of lines that are left out


def test_the_codes_come_first_in_the_vocabulary(tmp_path):
  tokenise(tmp_path, pairs(tmp_path))
  own = world(tmp_path)
  assert own.words[:CODES] == tuple(f"<{c}>" for c in range(CODES))
  assert own.words[CODES:] == tuple(sorted({"paint", "patch", "with", *map(str, range(COLOURS))}))
  assert own.codes == (6, 6 + CODES) and own.state_len == 4 and own.action_len == 5
  assert own.tokenizer.encode("<0> <299>") == [6, 305] and own.vq == "d1"
  assert own.differences("<1> <2> <3> <4>", "<1> <9> <3> <9>") == (1, 3)
  players = programs.make_roles(from_config(config_of(tmp_path)), own.tokenizer,
                                inputs.lengths_of(own))  # fmt: skip
  assert players.fwm.decoding.length == 4 and players.fwm.decoding.allowed == ((6, 306),)
  assert players.idm.decoding.allowed == ((0, 6), (306, own.tokenizer.vocab_size))


def test_the_data_stands_without_the_folder(tmp_path):
  tokenise(tmp_path, pairs(tmp_path))
  own = world(tmp_path)
  splits, _ = prepared(tmp_path, own)
  (tmp_path / "codes").rename(tmp_path / "elsewhere")
  again = world(tmp_path, vq="moved")  # where the VQ model lies doesn't name the data
  same_as = ("words", "state_len", "action_len", "source", "codes", "vq")
  assert all(getattr(again, name) == getattr(own, name) for name in same_as)
  assert prepared(tmp_path, again)[0] == splits
  with pytest.raises(ValueError, match="tokenized.json: No such file"):
    world(tmp_path, data_dir=None)


def test_states_are_drawn_by_the_decoder(tmp_path):
  tokenise(tmp_path, pairs(tmp_path))
  decode = lambda c: np.uint8(c)[..., None].repeat(3, -1).repeat(4, 1).repeat(4, 2)  # noqa: E731
  own = world(tmp_path, dataclasses.replace(FAKE, decode=decode))
  picture = own.render("<10> <20> <30> <40>", (3,))
  side = picture.shape[0] // 2
  assert picture[1, 1].tolist() == [10] * 3 and picture[1, side + 1].tolist() == [20] * 3
  assert picture[side, side].tolist() == [255, 0, 255]  # outlined
  assert world(tmp_path, None).render is None


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("settings", "said"),
  [
    ({"path": ""}, "config.world.path = '': allowed is the path of a folder that swirl_jax.tok"),
    ({"seed": -1}, "config.world.seed = -1: allowed is a whole number from 0"),
    ({"test": 1.0}, "config.world.test = 1.0: allowed is a share from 0, below 1"),
    ({"heldout_levels": ("ice",)}, "config.world.heldout_levels has 'ice': the levels of"),
    ({"met": "x"}, "config.world.met = 'x': allowed is 'state' or 'prompt'"),
    ({"bpe": 300}, "world 'images' has no setting 'bpe'; it has path, vq, seed"),
    ({"codec": Codec(CODES, FACTOR, "d2", encode, None)},
     "has 300 codes and the digest d2; '.*codes' was made with one of 300 codes and the digest d1"),
    ({"codec": Codec(299, FACTOR, "d1", encode, None)}, "has 299 codes and the digest d1; "),
  ],
)  # fmt: skip
def test_what_is_refused(tmp_path, settings, said):
  tokenise(tmp_path, pairs(tmp_path, episodes=20))
  with pytest.raises(ValueError, match=said):
    world(tmp_path, **settings)
  assert not (tmp_path / "data").exists()


def test_other_data_than_the_summarys_is_refused(tmp_path):
  tokenise(tmp_path, pairs(tmp_path))
  own = world(tmp_path)
  own.prepare(str(tmp_path / "data"))
  damage(tmp_path / "codes", "pairs.jsonl", lambda b: b.replace(b"paint", b"print"))
  with pytest.raises(ValueError, match="pairs.jsonl: SHA-256 is .*, as tokenized.json says"):
    world(tmp_path, data_dir=None)
  damage(tmp_path / "codes", "tokenized.json", lambda b: b + b"\n")
  with pytest.raises(ValueError, match="tokenized.json has changed: its SHA-256 is"):
    world(tmp_path).prepare(str(tmp_path / "data"))


def test_nothing_to_train_on_is_an_error(tmp_path):
  draw(tmp_path / "a.png", (1, 1, 1, 1))
  tokenise(tmp_path, [{"x": "a.png", "z": "go", "episode": 1}])
  with pytest.raises(ValueError, match="no line is left that can train anything .*'without_y': 1"):
    world(tmp_path)


def test_a_checkpoints_tokenizer_reads_the_codes(tmp_path):
  """Lines name pictures; what is measured is what is written."""
  tokenise(tmp_path, pairs(tmp_path))
  reader = fast_tokenizers.train_bpe(["paint"], vocab_size=262)  # bytes
  own = dataclasses.replace(world(tmp_path), reader=reader, state_len=9, action_len=60)
  with pytest.raises(ValueError, match="line 1: x is 20 tokens, must be at most config.data.st"):
    own.prepare(str(tmp_path / "data"))


# -- a real tokenizer ----------------------------------------------------------------------------


def vq_folder(folder, seed=0, *, decoder=True):
  """A tiny VQ model whose codebook is made of latents, so that pictures differ in their codes."""
  config = vqgan.VQConfig(ch=8, ch_mult=(1, 1, 1), res_blocks=1, mid_attention=False,
                          z_channels=4, embed_dim=4, codes=32, groups=4)  # fmt: skip
  draw_ = np.random.default_rng(seed)
  shapes = jax.eval_shape(lambda: vqgan.init_params(config, jax.random.key(0)))
  params = jax.tree.map(lambda a: np.float32(draw_.normal(size=a.shape) / 4), shapes)
  pixels = draw_.choice(40.0 * np.arange(COLOURS) / 127.5 - 1, size=(8, 2, 2, 1))
  pixels = np.float32(pixels).repeat(4, 1).repeat(4, 2).repeat(3, 3)
  latents = jax.jit(lambda p, x: vqgan.VQGAN(config).apply({"params": p}, x, method="latents"))
  params["codebook"] = latents(params, pixels).reshape(-1, 4)
  params = params if decoder else {k: v for k, v in params.items() if k != "decoder"}
  return str(vqgan_files.save(folder, vqgan_files.VQ(config, params)))


def config_of(folder, *options):
  c = config_of_images.get_config()
  for option in (*(o for o in TINY if not o.startswith("world.labelled")), *options):
    name, value = option.split("=", 1)
    *path, last = name.split(".")
    at = c
    for part in path:
      at = at[part]
    at[last] = eval(value) if value[:1] in "([0123456789'\"" else value
  c.world.path, c.mesh.data = str(folder / "codes"), 8
  return c.to_dict()


@pytest.mark.slow
def test_pictures_become_a_run(tmp_path, capsys):
  """Pairs of files, the command, a run, and a report that shows decoded pictures."""
  vq = vq_folder(tmp_path / "vq")
  lines = write(tmp_path, pairs(tmp_path))
  with flagsaver.flagsaver():
    if "vq" not in flags.FLAGS:
      tokenize_images.define_flags()
    flags.FLAGS(["job", f"--lines={lines}", f"--vq={vq}", f"--out={tmp_path / 'codes'}",
                 f"--size={SIZE}", "--batch=8", "--workers=0"])  # fmt: skip
    tokenize_images.main(["job"])
  assert "pictures: 200 distinct, 200 tokenized, 0 refused" in capsys.readouterr().out
  found = tokenized.read_folder(tmp_path / "codes")
  assert found.summary["vq"] == vqgan_files.digest(vq) and len(np.unique(found.codes)) > 4
  config = config_of(tmp_path, f"world.vq={vq}")
  train.train(train.prepare(config, str(tmp_path / "run")))
  report = (tmp_path / "run" / "report.html").read_text()
  assert '<img alt="" src="data:image/png' in report  # codes tell nobody anything
  own = start.world_of(from_config(config), tmp_path / "run")
  record = Split(own.prepare(str(tmp_path / "run" / "data")), "test")[0]
  model = vqgan_files.load(vq)
  codes = text_codes(record.x).reshape(1, 2, 2)
  pixels = (np.asarray(vqgan.decode(model.params, model.config, codes))[0] + 1) * 127.5
  drawn = own.render(record.x)
  scale = len(drawn) // SIZE
  np.testing.assert_allclose(drawn[::scale, ::scale], pixels, atol=0.51)


def test_a_codec_of_a_folder(tmp_path):
  folder = vq_folder(tmp_path / "vq")
  codec = start.codec_of_world({"vq": folder}, None, None)
  assert (codec.size, codec.factor) == (32, 4) and codec.digest == vqgan_files.digest(folder)
  pictures = np.random.default_rng(0).integers(0, 256, size=(2, 8, 12, 3), dtype=np.uint8)
  codes = codec.encode(pictures)
  assert codes.shape == (2, 2, 3) and codes.dtype == np.int32 and isinstance(codes, np.ndarray)
  assert codec.decode(codes).shape == pictures.shape and codec.decode(codes).dtype == np.uint8
  encoder = vq_folder(tmp_path / "encoder", decoder=False)
  with pytest.raises(ValueError, match="the VQ model has no decoder weights"):
    start.codec_of_world({"vq": encoder}, None, None)  # before a run, not at its report
  assert codecs.open_codec(encoder, draws=False).digest == codec.digest
  assert start.codec_of_world({"vq": ""}, None, None) is None
  with pytest.raises(ValueError, match="config.world.vq = 3: allowed is the folder of a VQ model"):
    start.codec_of_world({"vq": 3}, None, None)


def test_the_config_names_what_the_world_has():
  named = {name for name in config_of_images.get_config().world if name != "name"}
  assert named == set(images.DEFAULTS)

"""Templates: which tokens stand where, ragged pieces, what a group shares."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from swirl_jax import prompts
from swirl_jax.types import Rollout, Segment, Transition

T = tiny.TOKENIZER
FWM, IDM = prompts.fwm_template(T), prompts.idm_template(T)


def field(*rows, length=4):
  tokens = np.zeros((len(rows), length), np.int32)
  for i, row in enumerate(rows):
    tokens[i, : len(row)] = row
  mask = np.arange(length) < np.array([[len(r)] for r in rows])
  return Segment(tokens, mask)


X, Y, Z = field([10, 11, 12], [13]), field([20], [21, 22, 23, 24]), field([30, 31], [32], length=2)
BATCH = Transition(X, Y, Z)


def test_the_two_templates():
  fwm, idm = prompts.prompt(FWM, BATCH), prompts.prompt(IDM, BATCH)
  assert tiny.real(fwm, 0) == [T.bos, T.fwm, 30, 31, T.sep, 10, 11, 12, T.sep]
  assert tiny.real(fwm, 1) == [T.bos, T.fwm, 32, T.sep, 13, T.sep]
  assert tiny.real(idm, 0) == [T.bos, T.idm, 10, 11, 12, T.sep, 20, T.sep]
  assert tiny.real(idm, 1) == [T.bos, T.idm, 13, T.sep, 21, 22, 23, 24, T.sep]
  assert (FWM.target, FWM.end, IDM.target, IDM.end) == ("y", (T.eos,), "z", (T.eos,))
  assert fwm.tokens.shape == (2, 2 + 4 + 1 + 2 + 1) and fwm.tokens.dtype == jnp.int32
  assert np.asarray(fwm.mask)[:, -1].all()  # the prefill reads the last place


def test_without_z_the_fwm_prompt_is_that_of_the_z_free_model():
  hidden = prompts.hide(BATCH, "z")
  assert tiny.real(prompts.prompt(FWM, hidden), 0) == [T.bos, T.fwm, T.sep, 10, 11, 12, T.sep]
  assert hidden.y is Y and hidden.z.tokens.shape == (2, 0)
  assert prompts.hide(BATCH._replace(z=None), "z").z.mask.shape == (2, 0)


def test_the_prompt_that_guidance_leads_away_from():
  """By default x alone; a template may have its own pieces, of literals alone too."""
  found = prompts.unconditional(FWM, BATCH)
  assert tiny.real(found, 0) == [T.bos, T.fwm, T.sep, 10, 11, 12, T.sep]
  assert tiny.real(prompts.unconditional(IDM, BATCH), 1) == [T.bos, T.idm, 13, T.sep, T.sep]
  own = prompts.Template(FWM.prompt, "y", FWM.end, unconditional=((7,), (8, 9)))
  found = prompts.unconditional(own, BATCH)
  assert [tiny.real(found, i) for i in range(2)] == [[7, 8, 9]] * 2
  expected = prompts.prompt(FWM, BATCH).tokens
  np.testing.assert_array_equal(prompts.prompt(own, BATCH).tokens, expected)
  with pytest.raises(ValueError, match="must begin and end with literal tokens"):
    prompts.Template(FWM.prompt, "y", FWM.end, unconditional=("x", (8,)))


def test_a_missing_field_is_an_error():
  with pytest.raises(ValueError, match="needs field 'z', but the transition has none"):
    prompts.prompt(FWM, BATCH._replace(z=None))


def test_with_end():
  found = prompts.with_end(field([5, 6, 7, 8], [9], []), (T.eos,))
  np.testing.assert_array_equal(
    found.tokens, [[5, 6, 7, 8, T.eos], [9, T.eos, 0, 0, 0], [T.eos, 0, 0, 0, 0]]
  )
  np.testing.assert_array_equal(np.asarray(found.mask).sum(-1), [5, 2, 1])
  groups = Segment(*(jnp.asarray(a)[:, None] for a in field([5, 6], [9])))
  assert prompts.with_end(groups, (T.eos,)).tokens.shape == (2, 1, 5)
  two = prompts.with_end(field([5, 6], [9], []), (T.sep, T.eos))
  assert [tiny.real(two, i) for i in range(3)] == [
    [5, 6, T.sep, T.eos], [9, T.sep, T.eos], [T.sep, T.eos],
  ]  # fmt: skip


def test_content_leaves_out_the_end_marker_alone():
  tokens = np.array([[[7, T.eos, 0], [7, 8, 9], [T.eos, 0, 0]]], np.int32)
  mask = np.array([[[1, 1, 0], [1, 1, 1], [1, 0, 0]]], bool)
  drawn = Rollout(tokens, mask, None, None, np.array([[True, False, True]]))
  found = prompts.content(drawn, T.eos)
  assert [tiny.real(found, 0, g) for g in range(3)] == [[7], [7, 8, 9], []]
  exact = prompts.content(drawn, None)  # every token counts where no marker is sampled
  assert [tiny.real(exact, 0, g) for g in range(3)] == [[7, T.eos], [7, 8, 9], [T.eos]]


def rows(parts, b, g):
  own = [] if parts.own is None else tiny.real(parts.own, b, g)
  return tiny.real(parts.shared, b) + own


def test_scored_shares_what_it_can():
  """The prompt in two parts: the group's own begins at the first field that differs by sample."""
  rng = np.random.default_rng(0)
  target = tiny.segment(rng, (2, 3), 5)
  alone = prompts.scored(FWM, BATCH, target)
  assert alone.own is None and rows(alone, 1, 0) == tiny.real(prompts.prompt(FWM, BATCH), 1)
  assert alone.target is target

  sampled = tiny.segment(rng, (2, 3), 4, low=0)
  for template, batch, length in (
    (IDM, BATCH._replace(y=sampled), 2 + 4 + 1),
    (IDM, BATCH._replace(x=sampled), 2),  # y stands behind x, and is repeated for the group
    (FWM, BATCH._replace(z=sampled), 2),
    (FWM, BATCH._replace(x=sampled), 2 + 2 + 1),
  ):
    parts = prompts.scored(template, batch, target)
    assert parts.shared.tokens.shape == (2, length) and parts.own.tokens.shape[:2] == (2, 3)
    assert np.asarray(parts.own.mask)[..., -1].all()
    for b in range(2):
      for g in range(3):
        lone = jax.tree.map(lambda a, b=b, g=g: a[b, g] if a.ndim == 3 else a[b], batch)
        lone = jax.tree.map(lambda a: a[None], lone)
        assert rows(parts, b, g) == tiny.real(prompts.prompt(template, lone), 0)


LIQUID = prompts.Template(((1, 2), "x", (3, 10, 11), "z", (2,)), "y", (3, 4), begin=(1,))
CHAT = prompts.Template(((1, 5), "z", (6,), "x", (7, 8)), "y", (4,), begin=(1,))


@pytest.mark.parametrize(
  "template, pieces",
  [
    (FWM, ((T.fwm,), "z", (T.sep,))),
    (LIQUID, ((10, 11), "z", (2,))),  # <eoi> is written by the end markers of y
    (CHAT, ((5,), "z", (7, 8))),
    (prompts.Template(((1,), "z", "x", (7,)), "y", (4,), begin=(1,)), ("z", (7,))),
    (prompts.Template(((1,), "x", (3,), (5,), "z", (2,)), "y", (3,)), ((5,), "z", (2,))),
    (prompts.Template(((1,), "x", (2,)), "y", (4,)), ((2,),)),
  ],
)
def test_a_further_turn_is_the_prompt_without_x(template, pieces):
  assert prompts.continuation(template) == pieces


def test_a_further_turn_of_a_chat_does_not_begin_again():
  """Where the chat template writes the begin marker, as Llama's and Gemma's do."""

  def chat(messages, **_):
    return (1, 7), "z", (8,), "x", (9,)

  template = prompts.chat_template(SimpleNamespace(bos=1, eos=2, chat=chat), "y")
  assert prompts.continuation(template) == ((7,), "z", (9,))


def test_a_further_turn_needs_a_state_to_go_on_from():
  with pytest.raises(ValueError, match="further turns need one that leads from one x to y"):
    prompts.continuation(IDM)


def turns_of(x, z, y):
  """x [B, S], y and z [B, K, S] from lists of ids; turns that are missing are empty."""
  z, y = ([field(*row, length=n) for row in rows] for rows, n in ((z, 2), (y, 4)))
  stack = lambda s: Segment(*(np.stack(a) for a in zip(*s, strict=True)))  # noqa: E731
  return Transition(field(*x), stack(y), stack(z))


def test_a_sequence_of_turns_by_hand():
  turns = turns_of(
    [[10, 11], [12], [13]],
    [[[30], [31, 32], [33]], [[34, 35], [36], []], [[37], [], []]],
    [[[20], [21, 22, 23, 24], [25]], [[26, 27], [28], []], [[29], [], []]],
  )
  target, scored = prompts.sequence(FWM, turns)
  f, s, e = T.fwm, T.sep, T.eos
  wanted = [
    ([20, e, f, 31, 32, s, 21, 22, 23, 24, e, f, 33, s, 25, e], "yy....yyyyy...yy"),
    ([26, 27, e, f, 36, s, 28, e], "yyy...yy"),
    ([29, e], "yy"),
  ]
  assert target.tokens.shape == (3, 1, 5 + 2 * (1 + 2 + 1 + 5)) == scored.shape
  for b, (ids, marks) in enumerate(wanted):
    real = np.asarray(target.mask)[b, 0]
    assert tiny.real(target, b, 0) == ids
    assert "".join(".y"[int(m)] for m in np.asarray(scored)[b, 0][real]) == marks
  assert not np.asarray(scored)[~np.asarray(target.mask)].any()
  # What predicts the first token of a y stands at the place before it.
  places, before = np.asarray(scored)[:, 0], np.asarray(target.mask)[:, 0]
  starts = places[:, 1:] & ~places[:, :-1]
  assert starts.sum() == 3 and before[:, :-1][starts].all()

  target, scored = prompts.sequence(LIQUID, jax.tree.map(lambda a: a[:1], turns))
  assert tiny.real(target, 0, 0) == [
    20, 3, 4, 10, 11, 31, 32, 2, 21, 22, 23, 24, 3, 4, 10, 11, 33, 2, 25, 3, 4,
  ]  # fmt: skip


def test_per_sample():
  found = prompts.per_sample(Z, 3)
  assert found.tokens.shape == (2, 3, 2) and prompts.per_sample(found, 3) is found
  np.testing.assert_array_equal(found.tokens[:, 2], Z.tokens)


CHOICE = prompts.Choice(((5,), (6, 7, 8), (9, 5)))


def test_a_choice_is_a_function_of_x():
  """The option at (Σ of x's token ids) mod 3: 33 → the first, 13 → the second, 5 → the third."""
  x = field([10, 11, 12], [13], [2, 3], [5], [])
  found = CHOICE.of(x)
  assert found.tokens.shape == (5, 3) == found.mask.shape and len(CHOICE) == 3
  assert [tiny.real(found, i) for i in range(5)] == [[5], [6, 7, 8], [9, 5], [9, 5], [5]]
  unmasked = Segment(x.tokens + 7 * ~x.mask, x.mask)  # what stands in the padding doesn't count
  np.testing.assert_array_equal(CHOICE.of(unmasked).tokens, found.tokens)
  np.testing.assert_array_equal(jax.jit(CHOICE.of)(x).tokens, found.tokens)
  wide = Segment(np.full((1, 20_000), 264_191, np.int32), np.ones((1, 20_000), bool))
  assert tiny.real(CHOICE.of(wide), 0) == [[5], [6, 7, 8], [9, 5]][20_000 * 264_191 % 2**32 % 3]


def test_a_template_with_a_choice_and_what_a_group_shares_of_it():
  """Rows as made by hand; the choice belongs to the group's prompt, or is repeated behind a field
  that differs by sample."""
  template = prompts.Template(((1,), "x", (2, 3), CHOICE, (4,), "z", (2,)), "y", (3, 2))
  expected = [
    [1, 10, 11, 12, 2, 3, 5, 4, 30, 31, 2],
    [1, 13, 2, 3, 6, 7, 8, 4, 32, 2],
  ]
  found = prompts.prompt(template, BATCH)
  assert [tiny.real(found, i) for i in range(2)] == expected
  rng = np.random.default_rng(0)
  target, sampled = tiny.segment(rng, (2, 3), 5), tiny.segment(rng, (2, 3), 4)
  parts = prompts.scored(template, BATCH, target)
  assert parts.own is None and [tiny.real(parts.shared, b) for b in range(2)] == expected
  parts = prompts.scored(template, BATCH._replace(z=sampled), target)
  assert parts.shared.tokens.shape == (2, 1 + 4 + 2 + 3 + 1)  # up to z
  for b in range(2):
    z = [30, 31] if b == 0 else [32]
    at = len(expected[b]) - len(z) - 1
    for g in range(3):
      assert rows(parts, b, g) == expected[b][:at] + tiny.real(sampled, b, g) + [2]

  behind = prompts.Template(((1,), "x", (2,), "y", (3,), CHOICE, (4,)), "z", (2,))
  parts = prompts.scored(behind, BATCH._replace(y=sampled), target)
  assert parts.shared.tokens.shape == (2, 1 + 4 + 1)
  for b, chosen in enumerate(([5], [6, 7, 8])):
    for g in range(3):
      expected = [1, *tiny.real(X, b), 2, *tiny.real(sampled, b, g), 3, *chosen, 4]
      assert rows(parts, b, g) == expected


def test_impossible_choices():
  for options in ((), ((1,), ())):
    with pytest.raises(ValueError, match="one option at least, and none empty"):
      prompts.Choice(options)


@pytest.mark.parametrize(
  "prompt, target, message",
  [
    (((1,), "w", (3,)), "y", "unknown field 'w'; allowed: x, y, z"),
    (((1,), "x", (3,)), "answer", "unknown field 'answer'"),
    (("x", (3,)), "y", "must begin and end with literal tokens"),
    (((1,), "x"), "y", "must begin and end with literal tokens"),
    (((1,),), "y", "must begin and end with literal tokens"),
    (((1,), "x", CHOICE), "y", "must begin and end with literal tokens"),
  ],
)
def test_impossible_templates(prompt, target, message):
  with pytest.raises(ValueError, match=message):
    prompts.Template(prompt, target, (2,))


def test_a_template_without_an_end():
  with pytest.raises(ValueError, match="needs an end marker"):
    prompts.Template(((1,), "x", (3,)), "y", ())

"""The two templates, FWM and IDM: which pieces a prompt is made of, and token arrays made from them
on device.

Nothing is decoded to text and encoded again: the tokens that one model sampled are the tokens that
the other scores. Ragged pieces are put one behind the other with their masks; a masked token may
stand in mid-row (see `models.transformer`), so nothing has to be moved.
"""

import dataclasses
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from swirl_jax.types import Rollout, Segment, Transition

FIELDS = Transition._fields


@dataclasses.dataclass(frozen=True)
class Choice:
  """A piece of a prompt that is one of several literals, paraphrases of one instruction.

  Which one is a function of the row's x alone: that at (Σ of x's token ids) mod n. So the sampler,
  the update, the reference and the reward read the same words, with no key and no state. The others
  are padding up to the longest.
  """

  options: tuple[tuple[int, ...], ...]

  def __post_init__(self):
    if not self.options or not all(self.options):
      raise ValueError(f"choice: one option at least, and none empty; found {self.options}")

  def __len__(self) -> int:
    return max(map(len, self.options))

  def of(self, x: Segment) -> Segment:
    """x [B, S] → the option of each row, [B, len(self)]."""
    shape = (len(self.options), len(self))
    tokens, mask = np.zeros(shape, np.int32), np.zeros(shape, bool)
    for i, ids in enumerate(self.options):
      tokens[i, : len(ids)], mask[i, : len(ids)] = ids, True
    content = jnp.where(x.mask, x.tokens, 0).astype(jnp.uint32).sum(-1, dtype=jnp.uint32)
    drawn = content % np.uint32(len(self.options))
    return Segment(jnp.asarray(tokens)[drawn], jnp.asarray(mask)[drawn])


Pieces = tuple[str | tuple[int, ...] | Choice, ...]


@dataclasses.dataclass(frozen=True)
class Template:
  """A prompt's pieces, in order: tuples of token ids, choices of these, or the name of a field of
  the transition; then the field to complete and the markers that end it. begin: what may stand at
  the beginning of a row alone, so that no further turn repeats it.

  unconditional: the pieces of the prompt that guidance leads away from; None: those of `prompt`,
  the fields other than x empty. The FWM's then asks for y given x alone.
  """

  prompt: Pieces
  target: str
  end: tuple[int, ...]
  begin: tuple[int, ...] = ()
  unconditional: Pieces | None = None

  def __post_init__(self):
    both = (self.prompt,) if self.unconditional is None else (self.prompt, self.unconditional)
    for piece in (*sum(both, ()), self.target):
      if isinstance(piece, str) and piece not in FIELDS:
        raise ValueError(f"template: unknown field {piece!r}; allowed: {', '.join(FIELDS)}")
    for pieces in both:
      if len(pieces) < 2 or any(isinstance(pieces[i], str | Choice) for i in (0, -1)):
        raise ValueError(
          f"template: a prompt must begin and end with literal tokens; found {pieces}"
        )
    if not self.end:
      raise ValueError("template: a completion needs an end marker; found none")


class Scored(NamedTuple):
  """What a teacher-forced pass reads: a prompt part that the group shares, a part that differs by
  sample (or None), and the target.

  shared [B, P], own [B, G, S] or None, target [B, G, T].
  """

  shared: Segment
  own: Segment | None
  target: Segment


def fwm_template(tokenizer) -> Template:
  """`<bos> <fwm> z <sep> x <sep>` → `y <eos>`.

  z stands before x, so that the distance from a token of x to its place in y doesn't depend on z:
  what the z-free model learnt about copying then holds for the FWM that starts from it.
  """
  t = tokenizer
  return Template(((t.bos, t.fwm), "z", (t.sep,), "x", (t.sep,)), "y", (t.eos,), begin=(t.bos,))


def idm_template(tokenizer) -> Template:
  """`<bos> <idm> x <sep> y <sep>` → `z <eos>`."""
  t = tokenizer
  return Template(((t.bos, t.idm), "x", (t.sep,), "y", (t.sep,)), "z", (t.eos,), begin=(t.bos,))


# What a chat template is given; a field stands at its name, and is tokenised by itself.
CHAT = {
  "y": "An action is taken in a world.\nAction: {z}\nState before it:\n{x}\n"
  "Write the state after it, and nothing else.",
  "z": "A world changes.\nState before:\n{x}\nState after:\n{y}\n"
  "Name the action that was taken, and nothing else.",
}


def chat_template(tokenizer, target: str) -> Template:
  """The template of a role, "y" or "z", in the form that a chat model was trained on.

  Raises ValueError where the tokenizer has no chat template.
  """
  if not hasattr(tokenizer, "chat"):
    raise ValueError("prompts = 'chat': it needs a language model's tokenizer (set pretrained).")
  messages = [{"role": "user", "content": CHAT[target]}]
  pieces = tokenizer.chat(messages, enable_thinking=False)
  return Template(pieces, target, (tokenizer.eos,), begin=(tokenizer.bos,))


def continuation(template: Template) -> tuple[str | tuple[int, ...], ...]:
  """The pieces of a further turn of the FWM, which stand behind y and its end markers in place of a
  whole prompt: the prompt's without x, for y is the state now, and without the literal that opens
  x; of the first of them without the begin markers, and without what the end markers have written.

  `<bos> <fwm> z <sep> x <sep>` → `y <eos>` goes on with `<fwm> z <sep>` → `y <eos>`, and
  `<boi> x <eoi> \\n ... z <boi>` → `y <eoi> <eos>` with `\\n ... z <boi>` → `y <eoi> <eos>`.
  ValueError for a template that doesn't lead from x to y.
  """
  if template.target != "y" or template.prompt.count("x") != 1:
    raise ValueError(
      f"template: further turns need one that leads from one x to y; found {template.prompt} for "
      f"{template.target!r}"
    )
  at = template.prompt.index("x")
  opened = at - 1 if isinstance(template.prompt[at - 1], tuple) else at
  first, *rest = *template.prompt[:opened], *template.prompt[at + 1 :]
  if isinstance(first, tuple):
    first = _without(_without(first, template.begin), template.end)
  return tuple(piece for piece in (first, *rest) if piece)


def _without(ids: tuple[int, ...], lead: tuple[int, ...]) -> tuple[int, ...]:
  """`ids` without the beginning that it shares with `lead`."""
  pairs = zip(ids, lead, strict=False)
  return ids[sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)) :]


def concatenate(segments: list[Segment]) -> Segment:
  """Segments [..., S_i] one behind the other, [..., Σ S_i]."""
  return Segment(*(jnp.concatenate(parts, -1) for parts in zip(*segments, strict=True)))


def _literal(ids: tuple[int, ...], lead: tuple[int, ...]) -> Segment:
  shape = (*lead, len(ids))
  tokens = jnp.broadcast_to(jnp.asarray(ids, jnp.int32).reshape((1,) * len(lead) + (-1,)), shape)
  return Segment(tokens, jnp.ones(shape, bool))


def _pieces(pieces: Pieces, transition: Transition, lead: tuple[int, ...]) -> list[Segment]:
  """A template's pieces as segments; a literal takes the shape of the piece before it, the first
  one `lead`.
  """
  out = []
  for piece in pieces:
    if isinstance(piece, str):
      segment = getattr(transition, piece)
      if segment is None:
        raise ValueError(f"template: the prompt needs field {piece!r}, but the transition has none")
      lead = segment.tokens.shape[:-1] if len(segment.tokens.shape[:-1]) > len(lead) else lead
      out.append(segment)
    elif isinstance(piece, Choice):
      out.append(piece.of(transition.x))
    else:
      out.append(_literal(piece, lead))
  return out


def prompt(template: Template, transition: Transition) -> Segment:
  """The whole prompt of transitions whose fields are all [B, S] → [B, P]."""
  return concatenate(_pieces(template.prompt, transition, transition.x.tokens.shape[:1]))


def unconditional(template: Template, transition: Transition) -> Segment:
  """The prompt that guidance leads away from, [B, P']."""
  if template.unconditional is not None:
    return prompt(dataclasses.replace(template, prompt=template.unconditional), transition)
  for field in FIELDS:
    transition = transition if field == "x" else hide(transition, field)
  return prompt(template, transition)


def scored(template: Template, transition: Transition, target: Segment) -> Scored:
  """Splits the prompt at the first field that is given per sample, [B, G, S]; what stands before it
  is shared by the group.

  target [B, G, T]. A field that is given per prompt but stands behind that place is repeated for
  the group.
  """
  lead = target.tokens.shape[:2]
  pieces = _pieces(template.prompt, transition, lead[:1])
  split = next((i for i, s in enumerate(pieces) if s.tokens.ndim == 3), len(pieces))
  if split == 0:
    raise ValueError("template: a prompt must begin with a piece that the group shares")
  shared = concatenate(pieces[:split])
  if split == len(pieces):
    return Scored(shared, None, target)
  return Scored(shared, concatenate([per_sample(s, lead[1]) for s in pieces[split:]]), target)


def sequence(template: Template, turns: Transition) -> tuple[Segment, jax.Array]:
  """What the FWM writes and reads behind the prompt of a sequence's first turn: y with its end
  markers, then for each further turn the `continuation` and its y; and which of these tokens are
  y's or end markers.

  turns: y and z [B, K, S]; a turn whose y is empty isn't there, and those behind it aren't either.
  → Segment [B, 1, T] and bool [B, 1, T]. The place before each y is a real token.
  """
  batch, later = turns.y.mask.shape[0], jax.tree.map(lambda a: a[:, 1:], (turns.y, turns.z))
  later = Transition(jax.tree.map(lambda a: a[:, :-1], turns.y), *later)  # a y is the next one's x
  there = turns.y.mask.any(-1, keepdims=True)  # [B, K, 1]
  y = with_end(turns.y, template.end)
  y = y._replace(mask=y.mask & there)
  link = concatenate(_pieces(continuation(template), later, later.y.mask.shape[:2]))
  link = link._replace(mask=link.mask & there[:, 1:])

  def row(first, between, rest):  # [B, 1, S], [B, K − 1, L], [B, K − 1, S] → [B, 1, T]
    rest = jnp.concatenate([between, rest], -1).reshape(batch, 1, -1)
    return jnp.concatenate([first, rest], -1)

  parts = (jax.tree.map(lambda a: a[:, :1], y), link, jax.tree.map(lambda a: a[:, 1:], y))
  scored = row(parts[0].mask, jnp.zeros_like(link.mask), parts[2].mask)
  return jax.tree.map(row, *parts), scored


def per_sample(segment: Segment, group: int) -> Segment:
  """[B, S] → [B, G, S]; one that is per sample already is left as it is."""
  if segment.tokens.ndim == 3:
    return segment
  return Segment(*(jnp.broadcast_to(a[:, None], (a.shape[0], group, a.shape[1])) for a in segment))


def with_end(segment: Segment, end: tuple[int, ...]) -> Segment:
  """Puts the end markers behind the last real token: [..., S] → [..., S + len(end)]."""
  n = segment.mask.sum(-1, keepdims=True)
  lead = segment.mask.ndim - 1
  tokens = jnp.pad(segment.tokens, [(0, 0)] * lead + [(0, len(end))])
  place = jnp.arange(tokens.shape[-1]).reshape((1,) * lead + (-1,))
  for i, marker in enumerate(end):
    tokens = jnp.where(place == n + i, marker, tokens)
  return Segment(tokens.astype(jnp.int32), place < n + len(end))


def content(rollout: Rollout, end: int | None) -> Segment:
  """What was sampled, without the marker that ended it, if one did: [B, G, T]."""
  mask = rollout.mask if end is None else rollout.mask & (rollout.tokens != end)
  return Segment(rollout.tokens, mask)


def hide(transition: Transition, field: str) -> Transition:
  """The transition with one field empty: the FWM's prompt without z is the prompt of the z-free
  model P0(y|x).
  """
  shape = (*transition.x.tokens.shape[:-1], 0)
  return transition._replace(
    **{field: Segment(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, bool))}
  )

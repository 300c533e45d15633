"""The layouts of image language models: how pictures, which are codes between two markers, and text
stand in the two prompts.

A picture ends with two forced markers: they carry no policy loss, since they aren't sampled, and
the reward scores them (`Template.end`, `sampling.Decoding.end`).
"""

from swirl_jax.prompts import Choice, Template

LAYOUTS = ("liquid", "chameleon")
SEPARATOR = "<reserved08706>"  # Chameleon's end of what is asked
UNCONDITIONAL = "<unconditional>"  # what Liquid's guidance leads away from: a picture of anything

# What a role, "y" (FWM) or "z" (IDM), is asked for; a row has one of them (`prompts.Choice`).
INSTRUCTIONS = {
  "y": (
    "Draw the scene as it looks after this action:",
    "Show what the picture becomes once this has happened:",
    "Here is an action. Draw the picture that follows it:",
    "Predict the next picture under this action:",
    "Carry this out in the picture and draw the result:",
    "Change the picture in the way that this describes:",
    "What does the scene look like when this is done? Draw it:",
    "The following happens next. Draw the scene behind it:",
    "Continue from the picture by one step, which is:",
    "Apply this to the scene and show the new picture:",
  ),
  "z": (
    "Name the action that turned the first picture into the second, in a short phrase.",
    "What was done between these two pictures? Answer briefly.",
    "The second picture follows the first. Say in a few words what happened.",
    "Compare both pictures and describe the action that explains the change.",
    "In one short sentence: which action leads from the first picture to the second?",
    "Something changed from the first picture to the second. Write the action that did it.",
    "Give the instruction that would make the first picture into the second.",
    "Look at the scene before and after, and tell briefly what took place.",
    "Infer the action between the two pictures and state only that.",
    "Which single step separates these pictures? Describe it concisely.",
  ),
}


def image_template(tokenizer, target: str, layout: str) -> Template:
  """The template of a role, "y" or "z", for an image model's tokenizer.

  FWM: `<bos> <boi> x <eoi> \\n INSTRUCTION \\n z <boi>` → `y <eoi> <eos>`.
  IDM: `<bos> <boi> x <eoi> <boi> y <eoi> \\n INSTRUCTION` → `z <eos>`.

  "liquid" has the IDM's prompt inside a chat turn of Gemma; "chameleon" ends what is asked with
  its separator, `<reserved08706>`. z has a line of its own: the ids that the IDM samples are then
  those that its text has there. Guidance leads away from `<bos> <unconditional> <boi>`, as in
  Liquid's own code; with Chameleon from the prompt without z. Raises ValueError where the
  tokenizer lacks a marker.
  """
  t = tokenizer
  if not hasattr(t, "boi"):
    raise ValueError(
      f"prompts = {layout!r}: it needs the tokenizer of an image model (set pretrained to a "
      "Liquid's or Chameleon's folder, and a world of pictures)."
    )
  line = tuple(t.encode("\n"))
  opening, closing = _turn(t, target) if layout == "liquid" else ((), (t.marker(SEPARATOR),))
  instruction = Choice(tuple(tuple(t.encode(text)) for text in INSTRUCTIONS[target]))
  begin, end = (t.bos, *opening, t.boi), (t.eoi, *line)
  if target == "y":
    prompt = (begin, "x", end, instruction, line, "z", (*closing, t.boi))
    unconditional = ((t.bos, *t.markup(UNCONDITIONAL)), (t.boi,)) if layout == "liquid" else None
    return Template(prompt, "y", (t.eoi, t.eos), (t.bos,), unconditional)
  prompt = (begin, "x", (t.eoi, t.boi), "y", end, instruction, closing)
  return Template(prompt, "z", (t.eos,), (t.bos,))


def _turn(t, target: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """What stands before and behind the user's words in Gemma's chat; nothing for the FWM."""
  if target == "y":
    return (), ()
  start, end = t.marker("<start_of_turn>"), t.marker("<end_of_turn>")
  user, model, line = (tuple(t.encode(text)) for text in ("user\n", "model\n", "\n"))
  return (start, *user), (end, *line, start, *model)

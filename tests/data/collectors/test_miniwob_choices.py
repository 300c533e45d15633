"""What the web world's collector would do on a page: which texts, which controls, how readily."""

import collections
import re

import numpy as np
import pytest

from swirl_jax.data.collectors import miniwob, miniwob_actions

LOGIN = 'Enter the username "keli" and the password "1b" and press login.'


def item(kind, name="", **fields):
  return {"kind": kind, "text": kind + name, "ref": kind + name, "marks": [], "depth": 0,
          "locked": False} | fields  # fmt: skip


def choices(task, *items, name="login-user", ready=False, seed=0, hints=()):
  """{phrase: (weight, action)}"""
  seen = {"task": task, "hints": list(hints), "items": list(items), "done": False, "success": False}
  ends, draw = re.compile(miniwob.TASKS[name]), np.random.default_rng(seed)
  return {a.phrase: (w, a) for w, a in miniwob_actions.choices(seen, ready, ends, draw)}


def typed(task, *items, field, draws=200, **rest):
  """How often which text is typed into a field."""
  found = [p for i in range(draws) for p in choices(task, *items, seed=i, **rest)]
  matches = [re.fullmatch(rf"type '(.*)' into {re.escape(field)}", phrase) for phrase in found]
  return collections.Counter(m[1] for m in matches if m)


def weight(found, phrase):
  return found[phrase][0]


def test_the_page_is_told_what_the_phrase_says():
  fields = (
    item("time", "#tt", value="10:00"),
    item("list", " Size", value="S", options=["S", "M"]),
    *(item("text", " User", value=""), item("button", " Login")),
  )
  said = {"set": r"set time#tt to '(.*)'", "choose": r"choose '(.*)' in list Size",
          "type": r"type '(.*)' into text User"}  # fmt: skip
  for seed in range(20):
    for phrase, (_, action) in choices(LOGIN, *fields, seed=seed).items():
      assert fields[action.index]["ref"] in phrase
      assert phrase.startswith(action.hand)
      if action.hand in said:
        assert re.fullmatch(said[action.hand], phrase)[1] == action.text


def test_fields_get_the_texts_in_their_order_or_by_their_label():
  fields = (item("button", " Reset"), item("text", "#a", value=""), item("text", "#b", value=""))
  for field, own, other in (("text#a", "keli", "1b"), ("text#b", "1b", "keli")):
    count = typed(LOGIN, *fields, field=field)
    assert count[own] > 2 * count[other] > 0
  fields = (item("text", " Password", value=""), item("text", " Username", value=""))
  assert typed(LOGIN, *fields, field="text Password").most_common(1)[0][0] == "1b"
  assert typed(LOGIN, *fields, field="text Username").most_common(1)[0][0] == "keli"
  films = 'Show "Up" written by Stone, directed by Banks with Stone.'
  fields = (item("text", " Written by", value=""), item("text", " Director", value=""))
  assert typed(films, *fields, field="text Written by").most_common(1)[0][0] == "Stone"
  assert typed(films, *fields, field="text Director").most_common(1)[0][0] == "Banks"


def test_a_text_that_is_new_is_typed_whole_or_by_halves_and_sometimes_another():
  count = typed(LOGIN, item("text", "#a", value=""), field="text#a", draws=400)
  assert count["keli"] > count["ke"] > 0 and count["1"] > 0
  others = sum(count[text] for text in miniwob_actions.DISTRACTORS)
  assert 0 < others < 80
  assert set(count) <= {"keli", "ke", "1b", "1", *miniwob_actions.DISTRACTORS}
  short = typed('Type "abc".', item("text", "#a", value=""), field="text#a")
  assert short["ab"] and not short["a"]  # the larger half
  whole = typed(LOGIN, item("text", "#a", value="keli"), field="text#a")
  assert "" not in whole


def test_what_is_typed_is_what_is_quoted_else_what_is_bold():
  field = item("text", "#a", value="")
  assert not typed(LOGIN, field, field="text#a", hints=["bold"])["bold"]
  assert typed("Type it.", field, field="text#a", hints=["bold"])["bold"]
  names = typed("Find Anna and press Submit.", field, field="text#a")
  assert names["Anna"] and not names["Submit"]


def test_a_field_that_is_filled_is_left_and_a_wrong_one_cleared():
  def found(value, **fields):
    return choices(LOGIN, item("text", "#a", value=value, **fields))

  def types(value):
    return max(w for w, action in found(value).values() if action.hand == "type")

  assert types("keli") < types("red") < types("ke") == types("")
  assert weight(found("red"), "clear text#a") > weight(found("ke"), "clear text#a")
  assert "clear text#a" not in found("")
  assert "click text#a" in found("") and "click text#a" not in found("", marks=["*"])
  assert "clear time#tt" in choices(LOGIN, item("time", "#tt", value="10:00"))
  assert "clear time#tt" not in choices(LOGIN, item("time", "#tt", value=""))


@pytest.mark.parametrize("name", ["email-inbox-nl-turk", "navigate-tree", "click-tab-2-hard"])
def test_what_ends_an_episode_is_that_of_its_task(name):
  ending = {"email-inbox-nl-turk": "trash#1", "navigate-tree": "file Emile",
            "click-tab-2-hard": "link here"}[name]  # fmt: skip
  kind = re.match(r"\w+", ending)[0]
  items = (item(kind, ending.removeprefix(kind)), item("button", " Submit"))
  soon, late = (choices("Do it.", *items, name=name, ready=ready) for ready in (False, True))
  assert weight(soon, f"click {ending}") * 5 < weight(late, f"click {ending}")
  assert weight(soon, "click button Submit") == weight(late, "click button Submit")


def test_a_folder_that_is_named_ends_the_episode_too():
  items = (item("folder", " Ida"), item("folder", " Ann"))
  task = "Navigate to the folder named Ida."
  soon, late = (choices(task, *items, name="navigate-tree", ready=r) for r in (False, True))
  assert weight(soon, "click folder Ida") * 5 < weight(late, "click folder Ida")
  assert weight(soon, "click folder Ann") == weight(late, "click folder Ann")


def test_a_submit_that_is_named_is_no_reason_to_press_it_at_once():
  found = choices("Press Submit.", item("button", " Submit"))
  assert found == choices("Do it.", item("button", " Submit"))
  files = (item("file", " Ida"), item("file", " Ann"))
  found = choices("Open Ida.", *files, name="navigate-tree")
  assert weight(found, "click file Ida") == 3 * weight(found, "click file Ann")


def test_controls_that_the_instruction_names_or_counts_to():
  boxes = [item("text", "#a", value="x"), item("text", "#b", value="x")]
  found = choices("Type in the 2nd textbox.", *boxes)

  def most(field):
    return max(w for p, (w, _) in found.items() if p.startswith("type") and p.endswith(field))

  assert most("text#b") == 2 * most("text#a")
  links = [item("link", " one"), item("link", " two"), item("button")]
  found = choices("Click two.", *links)
  named, plain, nameless = (weight(found, f"click {n}") for n in ("link two", "link one", "button"))
  assert named == 2 * plain == 2 * nameless


def test_controls_of_one_name_share_their_weight_and_pressed_ones_are_left():
  twins = [item("link", " more", ref=ref) for ref in ("link more", "link more (2)")]
  found = choices("Do it.", *twins, item("link", " less"), item("tab", " 1", marks=["on"]))
  assert weight(found, "click link less") == 2 * weight(found, "click link more (2)")
  assert weight(found, "click tab 1") < 0.2
  found = choices("Do it.", item("radio", " a", value="[x]"), item("item", " b", marks=["on"]))
  assert weight(found, "click radio a") < 0.2 < weight(found, "click item b")


def test_a_spinner_whose_field_holds_no_number():
  field, up = item("text", " Select", value="v2"), item("link", "#spinner-up")
  found = choices("Select 1 with the spinner.", field, up)
  assert weight(found, "click link#spinner-up") == weight(
    choices("Select it with the spinner.", field, up), "click link#spinner-up"
  )

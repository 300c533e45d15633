"""A page's text, and how its elements are named."""

import pytest

from swirl_jax.data.official import pages

PAGE = """<html backend_node_id="1"><body>
  <h1><text>Harbour  ferries</text></h1>
  <img alt="a ferry"/>
  <form>
    <input backend_node_id="2" aria_label="From" input_value="Ayr"/>
    <input type="checkbox" name="return" input_checked="true"/>
    <button backend_node_id="3"><span backend_node_id="4"><text>Search</text></span></button> now
  </form>
  <div role="tab" backend_node_id="5"><text>Day</text><a backend_node_id="6">Help</a></div>
  <button backend_node_id="7" title="Search"/>
  <select backend_node_id="8" name="Class"><option>First</option>
    <option option_selected="true">Second</option></select>
  <p backend_node_id="9">Tides</p>
</body></html>"""


def test_a_page_is_what_can_be_read_or_acted_on():
  assert pages.read(PAGE).text.splitlines() == [
    "Harbour ferries", 'img "a ferry"', 'input "From" = "Ayr"', 'input "return" (chosen)',
    'button "Search"', "now", "div", "Day", 'a "Help"', 'button "Search" #2', 'select "Class"',
    'option "First"', 'option "Second" (chosen)', "Tides",
  ]  # fmt: skip


def test_an_element_is_named_as_the_page_shows_it():
  names = pages.read(PAGE).elements
  assert names["3"] == names["4"] == 'button "Search"'  # what is within a button is the button
  assert names["7"] == 'button "Search" #2' and names["2"] == 'input "From"'
  assert names["9"] == 'p "Tides"' and names["6"] == 'a "Help"'
  items = {item.split(" = ")[0] for item in pages.read(PAGE).text.splitlines()}
  assert {names[key] for key in "235678"} <= items


@pytest.mark.parametrize(
  ("field", "item"),
  [
    ('<input name="n" value="Ayr"/>', 'input "n" = "Ayr"'),
    ('<input name="n" input_value="Ayr" value="Oban"/>', 'input "n" = "Ayr"'),
    ('<input name="n" checked="checked"/>', 'input "n" (chosen)'),
    ('<input name="n" input_checked="false" checked="False"/>', 'input "n"'),
    ('<option selected="">One</option>', 'option "One" (chosen)'),
    ('<input name="n" placeholder="City" label="To" aria_label="From"/>', 'input "From"'),
    ('<div aria_role="link">More</div>', 'div "More"'),
    ('<div role="note">More</div>', "More"),
  ],
)
def test_what_a_field_holds_and_is_called(field, item):
  assert pages.read(f"<html>{field}</html>").text == item


def test_a_long_name_is_cut_in_an_action_and_whole_on_the_page():
  page = pages.read(f'<html><a backend_node_id="1">{"word " * 40}</a></html>')
  assert len(page.elements["1"]) == len('a ""') + pages.NAME and page.elements["1"].endswith('…"')
  assert page.text.count("word") == 40


def test_a_label_does_not_hide_the_text():
  page = pages.read('<html><button aria_label="Close">Yes, leave</button></html>')
  assert page.text == 'button "Close"\nYes, leave'


def test_a_deep_page_is_no_problem():
  assert pages.read("<div>" * 3000 + "deep" + "</div>" * 3000).text == "deep"


@pytest.mark.parametrize("html", ["", "text", "<a>", "<a></b>"])
def test_what_is_no_xml_is_an_error(html):
  with pytest.raises(SyntaxError):
    pages.read(html)

"""Tables and bars as pictures: everything in its place, whatever the values."""

from __future__ import annotations

from xml.etree import ElementTree

from siltstone.report.grids import bars, heat, percent


def parts(drawing: str, tag: str) -> list[ElementTree.Element]:
    return [e for e in ElementTree.fromstring(drawing).iter() if e.tag.endswith(tag)]


def test_a_table_has_a_cell_for_each_value_as_dark_as_it_is_large() -> None:
    drawing = heat(["a < b", "c"], ["x", "y", "z"], [[0.0, 0.5, 1.0], [None, 2.0, 0.25]], "A & B", "columns", 490)
    cells, texts = parts(drawing, "rect"), ["".join(e.itertext()) for e in parts(drawing, "text")]
    assert len(cells) == 5 and {"a < b", "c", "x", "y", "z", "A & B", "columns", "50%", "25%", "100%"} <= set(texts)
    dark = [float(c.attrib["fill-opacity"]) for c in cells]
    assert dark == sorted(dark[:3]) + [1.0, dark[4]] and dark[0] < dark[4] < dark[1]
    height = float(ElementTree.fromstring(drawing).attrib["viewBox"].split()[3])
    for c in cells:
        assert 0 < float(c.attrib["x"]) < float(c.attrib["x"]) + float(c.attrib["width"]) <= 490
        assert 0 < float(c.attrib["y"]) + float(c.attrib["height"]) < height
    assert heat([], ["x"], [], "t", "x") == ""


def test_bars_are_as_tall_as_their_values() -> None:
    drawing = bars(["a", "b", "none"], [1.0, 2.0, None], [2.0, 2.0, None], "t", "bits")
    one, two = (float(r.attrib["height"]) for r in parts(drawing, "rect"))
    assert abs(two - 2 * one) < 0.2 and len([e for e in parts(drawing, "line") if e.attrib["class"] == "b"]) == 2
    assert bars(["a"], [None], [None], "t", "y") == "" and "nan" not in bars(["a"], [0.0], [0.0], "t", "y")


def test_percent() -> None:
    assert [percent(x) for x in (0.0, 0.0001, 0.004, 0.043, 0.5, 1.0)] == ["0", "0%", "0.4%", "4%", "50%", "100%"]

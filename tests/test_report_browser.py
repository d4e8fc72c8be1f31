"""The report as people open it: in a browser, at the width of a desk and of a phone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser import CHROMIUM, Tab, chromium
from tests.small_report import SmallReport

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine"),
]
WIDTHS = {"desk": 1280, "phone": 390}
TABLE = "h2#merges_same_task + .scroll table"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    pytest.importorskip("websockets.sync.client")
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(params=WIDTHS.items(), ids=WIDTHS.keys())
def page(request: pytest.FixtureRequest, tab: Tab, small_report: SmallReport) -> Tab:
    name, width = request.param
    tab.show(small_report.page, width, phone=name == "phone")
    return tab


def test_nothing_is_wider_than_the_window(page: Tab) -> None:
    assert page.value("innerWidth") in WIDTHS.values()  # a phone makes its window wider for a page that overflows
    assert page.value("document.documentElement.scrollWidth <= innerWidth")
    wide = (
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, .drawing, pre')"
        " && e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 90))"
    )
    assert page.value(wide) == []


def test_wide_tables_scroll_in_their_own_box(page: Tab) -> None:
    boxes = page.value(
        "[...document.querySelectorAll('.scroll')].map(e => [e.clientWidth, getComputedStyle(e).overflowX])"
    )
    assert boxes
    for width, overflow in boxes:
        assert overflow == "auto"
        assert width <= page.value("innerWidth")


def test_the_browser_has_nothing_to_complain_about_and_loads_nothing_else(page: Tab, small_report: SmallReport) -> None:
    assert page.complaints() == []
    assert [url for url in page.requests() if not url.startswith("data:")] == [small_report.page.resolve().as_uri()]


def test_figures_keep_their_shape_and_fit_unless_they_would_be_too_small_to_read(page: Tab) -> None:
    sizes = page.value(
        "[...document.querySelectorAll('figure svg')].map(e => [e.clientWidth, e.clientHeight, e.viewBox.baseVal.width"
        " / e.viewBox.baseVal.height, e.parentElement.clientWidth, e.closest('figure').className])"
    )
    assert len(sizes) == page.value("document.querySelectorAll('figure').length") > 8
    for width, height, ratio, room, kind in sizes:
        assert width / height == pytest.approx(ratio, rel=0.02)
        assert width <= room if kind != "wide" else width >= 600


def test_the_words_of_a_wide_table_are_read_without_scrolling(page: Tab) -> None:
    over = page.value(
        "[...document.querySelectorAll('caption div')].map(e => e.getBoundingClientRect().right"
        " - e.closest('.scroll').getBoundingClientRect().right)"
    )
    assert max(over) <= 0
    narrow = page.value("[document.querySelector('h2#edges + .scroll')].map(e => [e.scrollWidth, e.clientWidth])")
    assert page.value("innerWidth") == WIDTHS["phone"] or narrow[0][0] == narrow[0][1]


def test_the_picture_of_the_pipeline_can_be_read(page: Tab) -> None:
    boxes = page.value(
        "[...document.querySelectorAll('.graph .box')].map(g => [g.querySelector('rect').getBoundingClientRect().right,"
        " ...[...g.querySelectorAll('text')].map(t => t.getBoundingClientRect().right)])"
    )
    assert len(boxes) > 10
    assert all(max(texts) < right for right, *texts in boxes)
    assert (
        min(page.value("[...document.querySelectorAll('.graph text')].map(t => t.getBoundingClientRect().height)")) > 9
    )


def column(page: Tab, name: str) -> list[str]:
    place = page.value(f"[...document.querySelectorAll('{TABLE} th')].findIndex(e => e.textContent === '{name}')")
    assert place >= 0
    cells = page.value(f"[...document.querySelectorAll('{TABLE} tbody tr')].map(r => r.cells[{place}].textContent)")
    assert len(cells) == 8
    return cells


def numbers(texts: list[str]) -> list[float]:
    """Those of the cells that have one; the others (a method that a pair was not merged by) stand last."""
    known = [text for text in texts if text]
    assert texts == known + [""] * (len(texts) - len(known))
    return [float(text.split()[0]) for text in known]


def click_heading(page: Tab, name: str) -> str:
    place = page.value(f"[...document.querySelectorAll('{TABLE} th')].findIndex(e => e.textContent === '{name}')")
    page.click(f"{TABLE} th:nth-child({place + 1}) button")
    return page.value(f"document.querySelector('{TABLE} th:nth-child({place + 1})').ariaSort")


@pytest.mark.parametrize("name", ["permute", "identity", "ensemble"])
def test_a_click_on_a_heading_sorts_by_number_and_a_second_one_turns_it_around(page: Tab, name: str) -> None:
    before = column(page, name)
    assert click_heading(page, name) == "ascending"
    rising = numbers(column(page, name))
    assert rising == sorted(rising)
    assert click_heading(page, name) == "descending"
    falling = numbers(column(page, name))
    assert falling == sorted(falling, reverse=True)
    assert sorted(column(page, name)) == sorted(before)


def test_a_heading_over_words_sorts_by_the_alphabet(page: Tab) -> None:
    click_heading(page, "permute")
    assert click_heading(page, "models") == "ascending"
    models = column(page, "models")
    assert models == sorted(models)
    assert page.value("document.querySelectorAll('th[aria-sort]').length") == 1


def test_what_is_read_first_is_seen_without_scrolling(page: Tab) -> None:
    seen = page.value(
        f"(box => [...document.querySelectorAll('{TABLE} th')].filter(e => e.getBoundingClientRect().right <= box.right)"
        f".map(e => e.textContent))(document.querySelector('{TABLE}').closest('.scroll').getBoundingClientRect())"
    )
    desk = ["tasks", "models", "permute", "sources", "ensemble", "against homogeneous", "runs"]
    wanted = desk if page.value("innerWidth") == WIDTHS["desk"] else desk[:3]
    assert seen[: len(wanted)] == wanted


def test_a_table_shows_the_rows_with_some_words_alone(page: Tab) -> None:
    page.value(
        "(field => {field.value = 'r35 R17'; field.dispatchEvent(new Event('input'))})"
        "(document.querySelector('h2#merges_same_task + .scroll input'))"
    )
    shown = f"[...document.querySelectorAll('{TABLE} tbody tr')].filter(r => r.offsetHeight).map(r => r.cells[1].textContent)"
    assert page.value(shown) == ["r35+r17"]
    assert page.value("document.querySelector('span.filtered').textContent") == "1 of 8 rows"


def test_a_figure_says_what_is_pointed_at_and_hides_a_series(page: Tab) -> None:
    figure = "#figure-same_task_methods"
    said = page.value(f"[...document.querySelectorAll('{figure} [data-series] title')].map(e => e.textContent)")
    assert any(text.startswith("bars r17+r17, permute: ") and "(n = 3)" in text for text in said)
    bars = f"[...document.querySelectorAll('{figure} [data-series=identity]')].map(e => getComputedStyle(e).display)"
    assert set(page.value(bars)) == {"inline"}
    page.click(f"{figure} .keys button")
    assert set(page.value(bars)) == {"none"}
    page.click(f"{figure} .keys button")
    assert set(page.value(bars)) == {"inline"}


def test_missing_numbers_are_last_whichever_way(page: Tab) -> None:
    selector = "h2#similarity + .scroll table"
    for _ in range(2):
        page.click(f"{selector} th:nth-child(2) button")
        cells = page.value(f"[...document.querySelectorAll('{selector} tbody tr')].map(r => r.cells[1].textContent)")
        assert cells[-1] == "missing"
        assert "missing" not in cells[:-1]


def test_headings_are_reached_and_pressed_with_the_keyboard(page: Tab) -> None:
    page.value(f"document.querySelector('{TABLE} th:nth-child(2) button').focus()")
    for kind in ("keyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
    assert page.value(f"document.querySelector('{TABLE} th:nth-child(2)').ariaSort") == "ascending"


def test_the_link_of_every_figure_leads_to_its_numbers_and_rows(page: Tab, small_report: SmallReport) -> None:
    figures = page.value("[...document.querySelectorAll('figure')].map(e => e.id)")
    for figure in figures:
        page.click(f"#{figure} a.rows")
        assert page.value("document.querySelector(':target + .scroll tbody tr') !== null"), figure
        top, height = page.value("[document.querySelector(':target').getBoundingClientRect().top, innerHeight]")
        assert 0 <= top < height
        page.click(f"#{figure} a.source")
        assert page.value("document.querySelector(':target') !== null"), figure


def test_words_stand_out_from_the_page_in_light_and_in_the_dark(tab: Tab, small_report: SmallReport) -> None:
    """WCAG's contrast of at least 4.5, for text on its page or card."""
    for dark in (False, True):
        tab.show(small_report.page, WIDTHS["desk"], dark=dark)
        names = ("ink", "soft", "accent", "bad", "good", "page", "card")
        colours = {
            name: tab.value(f"getComputedStyle(document.documentElement).getPropertyValue('--{name}').trim()")
            for name in names
        }
        assert (_luminance(colours["page"]) < 0.1) == dark
        for text in names[:5]:
            for ground in names[5:]:
                bright, dim = sorted((_luminance(colours[text]), _luminance(colours[ground])), reverse=True)
                assert (bright + 0.05) / (dim + 0.05) >= 4.5, (dark, text, ground)


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

"""What tests read from and do to the viewer of a page."""

from __future__ import annotations


def bars(page):
    """Every bar that is drawn, with its place on the screen."""
    return page.evaluate("document.getElementById('flame-graph').bars")


def bar(page, text):
    """The first bar whose name holds `text`."""
    return next(each for each in bars(page) if text in each["name"])


def names(page):
    return [each["name"] for each in bars(page)]


def center(of):
    return of["x"] + of["width"] / 2, of["y"] + of["height"] / 2


def click(page, text, *, shift=False):
    page.locator("#flame-scroll").scroll_into_view_if_needed()
    if shift:
        page.keyboard.down("Shift")
    page.mouse.click(*center(bar(page, text)))
    if shift:
        page.keyboard.up("Shift")


def hover(page, text):
    page.locator("#flame-scroll").scroll_into_view_if_needed()
    page.mouse.move(*center(bar(page, text)))
    return page.locator("#flame-tip")


def choose(page, control, value):
    """Set a control of the folded-away tools."""
    page.locator("details.options").evaluate("each => { each.open = true; }")
    element = page.locator(f"#flame-{control}")
    if isinstance(value, bool):
        element.set_checked(value)
    else:
        element.select_option(value)


def search(page, text):
    page.locator("#flame-search").fill(text)
    page.wait_for_function(
        "text => new URLSearchParams(location.hash.slice(7)).get('q') === text", arg=text
    )  # the search follows the typing a moment later
    return page.locator("#flame-matches").inner_text()


def rows(page):
    """The rows of the functions' table as lists of cells."""
    page.wait_for_timeout(80)  # the table follows the graph a moment later
    return page.locator("#flame-rows tr").evaluate_all(
        "all => all.map(row => [...row.cells].map(cell => cell.innerText))"
    )


def pixel(page, x, y):
    """The colour of the canvas at a place of the screen."""
    return page.evaluate(
        """([x, y]) => {
            const canvas = document.getElementById("flame-graph");
            const box = canvas.getBoundingClientRect();
            const scale = canvas.width / box.width;
            return [...canvas.getContext("2d").getImageData((x - box.left) * scale, (y - box.top) * scale, 1, 1).data];
        }""",
        [x, y],
    )

"""HTML pages of the project, read strictly."""

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "link", "input", "hr"}


class StrictPage(HTMLParser):
    """A page whose every element is closed in turn: elements with attributes, texts, and the rows of the tables."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += text
        if "style" not in self.open:
            self.texts.append(text)

    @property
    def text(self) -> str:
        return " ".join(self.texts)

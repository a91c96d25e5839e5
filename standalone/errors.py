"""What can go wrong, by whose fault it is. Every message is one printable line."""

LONGEST = 400  # letters of a message
SHOWN = 60  # letters of a value in it


class Told(Exception):
    """An error whose message is shown to a user as it is: one printable line of bounded length."""

    def __init__(self, message: str):
        super().__init__(plain(message))


class WorkflowError(Told):
    """The workflow, an option or an input file is wrong: nothing was run."""


class NodeError(Told):
    """A node failed while it ran: `node 7 (DiTBlocksPatchify "Patchify"): why`."""

    def __init__(self, node_id: str, message: str):
        super().__init__(message)
        self.node_id = node_id


class Interrupted(Exception):
    """The user stopped the run."""


def plain(text: str, most: int = LONGEST) -> str:
    """One line without control characters, at most `most` letters: a workflow from a stranger may hold any letters, and any number."""
    line = " ".join(_cut(str(text), 2 * most).split())
    return _cut(visible(line), most)


def visible(text: str) -> str:
    """The same text with escapes such as \\x1b in place of what a terminal would act on or can't show; line breaks are kept."""
    return "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text)


def shown(value: object) -> str:
    """A value in a message, cut where it is long."""
    try:
        return _cut(repr(value), SHOWN)
    except (ValueError, RecursionError):  # a number of very many digits, lists in lists in lists
        return f"a {type(value).__name__}"


def one_line(error: BaseException) -> str:
    """The first line of what an exception says, or its type if it says nothing."""
    lines = str(error).strip().splitlines()
    return plain(lines[0]) if lines else type(error).__name__


def _cut(text: str, most: int) -> str:
    """The beginning and the end of a long text: a message begins with where, and ends with why."""
    return text if len(text) <= most else f"{text[:most * 2 // 3]} … {text[len(text) - most // 3 + 3:]}"

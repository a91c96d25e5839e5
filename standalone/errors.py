"""What can go wrong, sorted by whose fault it is; every message is one line."""


class WorkflowError(Exception):
    """The workflow, an option or an input file is wrong: nothing was run."""


class NodeError(Exception):
    """A node failed while it ran: `node 7 (DiTBlocksPatchify "Patchify"): why`."""

    def __init__(self, node_id: str, message: str):
        super().__init__(message)
        self.node_id = node_id


class Interrupted(Exception):
    """The user stopped the run."""


def one_line(error: BaseException) -> str:
    """The first line of what an exception says, or its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__

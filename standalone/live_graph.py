"""The prompt as it grows while nodes expand."""


class LiveGraph:
    """The prompt's nodes and those that expansions added. Nodes get it as DYNPROMPT."""

    def __init__(self, prompt: dict[str, dict], loops: dict | None = None):
        self.original, self.nodes, self.loops = prompt, dict(prompt), dict(loops or {})
        self.parents: dict[str, str] = {}
        # Of a node that an expansion added: the node of the prompt that it stands in place of, and the one that shows what it does.
        self.real: dict[str, str] = {}
        self.displays: dict[str, str] = {}

    def get_node(self, id: str) -> dict:
        return self.nodes[id]

    def get_parent_node_id(self, id: str) -> str | None:
        return self.parents.get(id)

    def get_real_node_id(self, id: str) -> str:
        return self.real.get(id, id)

    def get_display_node_id(self, id: str) -> str:
        return self.displays.get(id, id)

    def add(self, id: str, node: dict, parent: str) -> None:
        self.nodes[id] = node
        self.parents[id] = parent
        self.real[id] = self.get_real_node_id(parent)
        self.displays[id] = self.get_display_node_id(node.get("override_display_id") or parent)

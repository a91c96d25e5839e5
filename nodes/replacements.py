"""Nodes that have had another id, or other inputs: workflows that name the old one are given the new one, in ComfyUI and without it."""


def renamed(old: str, new: str, widgets: list[str], inputs: dict[str, str], outputs: dict[int, int]) -> dict:
    """The fields of ComfyUI's `NodeReplace`. `widgets`: the old node's, in order, for workflows save their values without names;
    `inputs`: new name → old name, widgets too; `outputs`: new number → old number. What is left out is lost."""
    return {"old_node_id": old, "new_node_id": new, "old_widget_ids": widgets,
            "input_mapping": [{"new_id": to, "old_id": of} for to, of in inputs.items()],
            "output_mapping": [{"new_idx": to, "old_idx": of} for to, of in outputs.items()]}


RENAMED: list[dict] = []

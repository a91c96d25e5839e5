"""Renamed nodes. A workflow with an old node gets the new one instead, in ComfyUI and in the standalone server."""


def renamed(old: str, new: str, widgets: list[str], inputs: dict[str, str], outputs: dict[int, int]) -> dict:
    """The fields of ComfyUI's `NodeReplace`. What is left out is lost.

    widgets: the old node's widgets in order, because workflows store values without names. inputs: new name → old name, also for widgets.
    outputs: new number → old number.
    """
    return {"old_node_id": old, "new_node_id": new, "old_widget_ids": widgets,
            "input_mapping": [{"new_id": to, "old_id": of} for to, of in inputs.items()],
            "output_mapping": [{"new_idx": to, "old_idx": of} for to, of in outputs.items()]}


RENAMED: list[dict] = []

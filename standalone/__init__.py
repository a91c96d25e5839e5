"""Runs the node pack where there is no ComfyUI: workflow reader, executor, core's nodes, the `dit-blocks` command."""

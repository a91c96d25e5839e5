"""Runs the node pack where there is no ComfyUI: workflow reader, executor, core's nodes and the `dit-blocks` command."""

"""ComfyUI's official front end over the pack, with no ComfyUI: `dit-blocks serve`. Shapes and event order are those of ComfyUI 0.33."""

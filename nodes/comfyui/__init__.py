"""All that touches ComfyUI's own modules: the host, a MODEL as a DIT, a DIT as a MODEL."""

"""Where models come from: files, folders, random weights, adapters."""

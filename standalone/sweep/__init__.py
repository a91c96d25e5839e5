"""`dit-blocks sweep`: one workflow over many values of its widgets, in many processes."""

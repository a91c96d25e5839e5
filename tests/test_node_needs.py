"""All that a new node still lacks, line by line."""

from node_needs import INFO, missing_order, missing_pages, missing_words
from test_inputs_kept import missing_case


def test_no_node_lacks_what_a_node_comes_with():
    lines = [f"{name} {line}" for name in INFO for line in (*missing_pages(name), *missing_words(name), *missing_order(name), *missing_case(name))]
    assert not lines, "\n" + "\n".join(lines)

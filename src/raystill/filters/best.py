"""best: one answer per prompt, the one that says what most of the prompt's answers say (self-consistency).

Put it last: it then chooses, over all samples and teachers, among the answers that passed the task's check. The vote is
Wang et al., "Self-Consistency Improves Chain of Thought Reasoning in Language Models" (arXiv 2203.11171).
"""

import collections
from collections.abc import Sequence

from raystill.filters import Rules, whole_set
from raystill.records import Generation


@whole_set("text")
def best(rows: Sequence[Generation], rules: Rules) -> list[str | None]:
    """Keep the first answer of each prompt's largest group of equal ones, ties by the order of teachers and samples."""
    said = [rules.parse(row.text) for row in rows]
    votes = collections.Counter(zip((row.id for row in rows), said, strict=True))
    chosen: dict[str, int] = {}
    for i, row in enumerate(rows):
        if row.id not in chosen or votes[row.id, said[i]] > votes[row.id, said[chosen[row.id]]]:
            chosen[row.id] = i
    return [None if chosen[row.id] == i else "not the best of its prompt" for i, row in enumerate(rows)]

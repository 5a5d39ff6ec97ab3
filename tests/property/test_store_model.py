"""A journal beside plain lists and dicts: any life that it may have, every answer that it gives.

What is drawn: `journal_model/drawn.py`; what has to come of it: `journal_model/book.py`.
Segments are tiny, so answers come from mapped and from growing parts, and rotation is
everywhere. At the end of each life everything is compared, verified in full, and read by
the independent checker.
"""

from __future__ import annotations

from hypothesis import settings

from tests.property.journal_model.keeping import Keeping
from tests.property.journal_model.living import Living
from tests.property.journal_model.reading import Reading
from tests.property.journal_model.writing import Writing


class JournalBesideAList(Reading, Writing, Keeping, Living):
    """All rules together."""


TestJournalBesideAList = JournalBesideAList.TestCase
# Long lives rather than many: what erasure, death and restoring do shows late.
TestJournalBesideAList.settings = settings(
    max_examples=max(10, settings().max_examples * 2 // 5), stateful_step_count=60
)

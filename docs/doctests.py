"""Lets the reference show the code of ``Example:`` sections as code."""

from typing import Any

import griffe


class Doctests(griffe.Extension):
    """Gives the sections the plural that Griffe's parser knows as a section of doctests."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rename the section in the docstring of an object."""
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")

"""The end of a study in the terminal."""

from lightning_priv.reports.multiplicity_study import Row

from .run import StudyResult

__all__ = ["show"]

_COLUMNS = (
    *("driver", "capacity", "privacy", "members", "accuracy_mean", "ambiguity"),
    *("pairwise_disagreement", "equal_members", "ambiguity_equal"),
    *("epsilon_of_one", "epsilon_composed"),
)


def show(result: StudyResult) -> None:
    """Print the findings and where the report lies; nothing on other processes than the first."""
    if result.published is None:
        return
    from rich.console import Console

    from lightning_priv.reports.multiplicity_summary import in_short
    from lightning_priv.reports.multiplicity_tables import as_table

    study = result.study
    console = Console(highlight=False, soft_wrap=True)

    def print_text(text: str) -> None:
        console.print(text, markup=False)

    print_text("")
    for line in in_short(result.published.facts):
        print_text(f"- {line}")
    for note in study.notes:
        print_text(f"note: {note}")
    for rows, title in (
        (study.drivers, "sources of variation"),
        (study.capacity, "capacity"),
        (study.privacy, "privacy"),
    ):
        if rows:
            print_text(as_table([_shown(row) for row in rows], title).render("table"))
    print_text(f"report: {result.published.path}")


def _shown(row: Row) -> Row:
    return {name: cell for name, cell in row.items() if name in _COLUMNS}

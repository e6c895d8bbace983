"""The studies, one file a paper. Published numbers stand here and nowhere else in the package."""

from lightning_priv.workflows.reproduce.papers import (
    bounds,
    dpal,
    hcnn,
    lsi,
    multiplicity,
    visual_audit,
)
from lightning_priv.workflows.reproduce.study import Study

__all__ = ["STUDIES"]

#: By the name that the command line takes.
STUDIES: dict[str, Study] = {
    paper.STUDY.name: paper.STUDY for paper in (hcnn, dpal, lsi, multiplicity, visual_audit, bounds)
}

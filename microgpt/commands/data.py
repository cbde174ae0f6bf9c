"""microgpt data list | fetch"""

from __future__ import annotations

import json as jsonlib
from typing import Annotated, Any

from cyclopts import App, Parameter

from microgpt.data import datasets

app = App(name="data", help="List and fetch data sets.")


@app.command(name="list")
def list_datasets(*, json: Annotated[bool, Parameter(negative="")] = False) -> None:
    """List the data sets, and where each is on this machine.

    Parameters
    ----------
    json
        Print one JSON object.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name, facts in datasets.DATASETS.items():
        path = datasets.locate(name)
        rows[name] = {"about": facts.about, "bytes": facts.size, "licence": facts.licence, "path": path and str(path)}
    if json:
        print(jsonlib.dumps(rows))
        return
    from rich.console import Console
    from rich.table import Table

    drawn = Table("name", "about", "bytes", "licence", "path", box=None, pad_edge=False)
    for name, row in rows.items():
        drawn.add_row(
            name, row["about"], f"{row['bytes']:,}", row["licence"], row["path"] or "not here: microgpt data fetch"
        )
    Console(highlight=False).print(drawn)


@app.command
def fetch(name: str) -> None:
    """Download a data set into the user's cache, checked by its SHA-256.

    Parameters
    ----------
    name
        The data set.
    """
    print(datasets.fetch(name))

"""A family whose steps several devices share: beside each graph of the loop that can be shared, one for each rank.

How a graph is shared, its network says by how it is built for a rank (`GraphBuilder.rank`). The pipeline names the
whole graphs alone; who runs it on several devices takes the ranks' in their place. What cannot be shared, each computes
whole.
"""

from __future__ import annotations

from dataclasses import replace

from ondevice.converters.families.family import Configs, Family
from ondevice.errors import UsageError
from ondevice.graph.ranks import MOST, Rank, component_of

FLAG = "--parallel"
INSTEAD = "leave it out; --parallel guidance of `generate` needs no plans of its own"


def ranked(family: Family, configs: Configs, ranks: int) -> Family:
    """`family` with a role for each of so many ranks of the graphs of its loop that can be shared.

    Raises:
        UsageError: there is none, or so many cannot share one.
    """
    if not 2 <= ranks <= MOST:
        raise UsageError(f"not a number of ranks (got {ranks}, expected 2 to {MOST}).", where=FLAG, fix="use tensor:2")
    pipeline, roles = family.pipeline(family, configs), dict(family.roles)
    for name in dict.fromkeys(step["run"] for loop in pipeline["denoise"] for step in loop["roles"]):
        unshared = family.graph(name).unshared
        if unshared is None:
            continue
        if (why := unshared(configs[roles[name].part], ranks)) is not None:
            raise UsageError(f"{name}: {why}", where=FLAG, fix=INSTEAD)
        for rank in (Rank(number, ranks) for number in range(ranks)):
            roles[component_of(name, rank)] = replace(roles[name], rank=rank, shares=name)
    if roles == family.roles:
        raise UsageError(f"no network of {family.title} can be shared.", where=FLAG, fix=INSTEAD)
    return replace(family, roles=roles)

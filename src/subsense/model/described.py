"""What a saved model says of itself."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

import torch

from subsense.adapters import to_json
from subsense.model.manifest import FORMAT, Manifest, _declared
from subsense.model.robust import RobustModel
from subsense.model.watching import kept as watching
from subsense.support.torch_private import name_of


def describe(robust: RobustModel, tensors: str) -> Manifest:
    """Give the manifest of a model whose tensors lie in the file of that name."""
    return Manifest(
        format=FORMAT if robust.monitor or robust.confidence else 2 if robust.plan.merged else 1,
        subsense=version("subsense"),
        torch=torch.__version__,
        network=name_of(robust.network),
        fingerprint=robust.network_fingerprint(),
        modalities=robust.modalities.spec,
        call=robust.call.spec,
        method=to_json(robust.plan.adapters),
        sharing=robust.sharing,
        combinations=[str(one) for one in robust.combinations],
        trained_rows=sorted(robust.router.trained_rows),
        untrained=robust.router.untrained,
        fill=robust.fill.kinds,
        sites=list(
            dict.fromkeys([*(path for site in robust.plan.sites for path in site.modules), *robust.plan.merged])
        ),
        layers=[_declared(layer) for layer in robust.plan.declared],
        merged=bool(robust.plan.merged),
        watch=None if robust.monitor is None else watching.keep(robust.monitor),
        confidence=json.loads(robust.confidence.model_dump_json()) if robust.confidence else None,
        tensors=tensors,
    )


def as_data(manifest: Manifest) -> dict[str, Any]:
    """Give a manifest as JSON data; what isn't used is left out, so that versions before it can read it."""
    unused = {name for name in ("merged", "watch", "confidence") if not getattr(manifest, name)}
    return manifest.model_dump(mode="json", exclude=unused)

"""The parts of coremltools that write packages, imported without what it says of parts that only macOS has."""

from __future__ import annotations

import logging

_log = logging.getLogger("coremltools")
_level = _log.level
_log.setLevel(logging.CRITICAL)
try:
    from coremltools.libmilstoragepython import _BlobStorageWriter as BlobWriter
    from coremltools.libmodelpackage import ModelPackage
    from coremltools.proto import FeatureTypes_pb2 as features
    from coremltools.proto import MIL_pb2 as mil
    from coremltools.proto import Model_pb2 as models
finally:
    _log.setLevel(_level)

__all__ = ["BlobWriter", "ModelPackage", "features", "mil", "models"]

"""Export any torch module with ACM layers, and run it at two budgets in ONNX Runtime.

Run: ``python examples/01_export_a_module.py [FOLDER]``. Without a folder the files go into a new temporary one.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import mkdtemp

try:
    import onnxruntime
    import torch
except ModuleNotFoundError as missing:
    sys.exit(f"{missing.name} is not installed; run: pip install '.[demo]'")

from acm_export.exporter import export
from acm_export.modules import ACMLayer, ACMSpec
from acm_export.onnx_file.set_budget import set_budget


def main(folder: Path) -> None:
    """Write two files into ``folder`` and print how many learners run in each."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    spec = ACMSpec(model_dim=64, num_learners=4, hidden_dim=64)
    model = torch.nn.Sequential(torch.nn.LayerNorm(64), ACMLayer(spec))
    tokens = torch.randn(2, 10, 64)

    trained, cheaper = folder / "trained.onnx", folder / "cheaper.onnx"
    export(model, tokens, trained, with_counts=True)
    set_budget(trained, threshold=0.5, output=cheaper)
    for path in (trained, cheaper):
        session = onnxruntime.InferenceSession(path)
        _, counts = session.run(None, {"input": tokens.numpy()})
        print(f"{path.name}: {counts.mean():.2f} of 4 learners per token")
    print(f"the files are in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else mkdtemp(prefix="acm-export-example-")))

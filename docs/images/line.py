"""Draw line.svg, the picture of the line in the README.

Run: ``python docs/images/line.py``; needs nothing but Python. Colours follow the reader's light or dark mode.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

WIDTH, HEIGHT = 980, 208
BOX_WIDTH, BOX_HEIGHT, GAP, TOP = 94, 52, 78, 48
STYLE = """
    text { font-family: system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; font-size: 13px; }
    .box { fill: #f6f8fa; stroke: #57606a; } .name, .verb { fill: #1f2328; } .note { fill: #57606a; font-size: 12px; }
    .verb { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: 10px; }
    .arrow { stroke: #0969da; stroke-width: 1.5; fill: none; } .head { fill: #0969da; } .span { stroke: #8c959f; }
    @media (prefers-color-scheme: dark) {
      .box { fill: #161b22; stroke: #8b949e; } .name, .verb { fill: #e6edf3; } .note { fill: #9da7b1; }
      .arrow { stroke: #58a6ff; } .head { fill: #58a6ff; } .span { stroke: #6e7681; }
    }"""


@dataclass(frozen=True)
class Stop:
    """One stop of the line.

    Args:
        lines: Text in the box, one or two lines.
        verb: Verb that leads to the next stop; empty at the last one.
    """

    lines: tuple[str, ...]
    verb: str = ""


STOPS = (
    Stop(("dense", "checkpoint"), "acmize"),
    Stop(("ACM", "checkpoint"), "export"),
    Stop(("verified", "ONNX file"), "calibrate"),
    Stop(("calibrated", "ONNX file"), "build-engine"),
    Stop(("TensorRT", "engine"), "latency"),
    Stop(("latency", "report")),
)


def left(index: int) -> int:
    """Left edge of a box."""
    return 13 + index * (BOX_WIDTH + GAP)


def middle(index: int) -> int:
    """Centre of a box, horizontally."""
    return left(index) + BOX_WIDTH // 2


def text(x: int, y: int, content: str, kind: str) -> str:
    """Centred text."""
    return f'<text x="{x}" y="{y}" text-anchor="middle" class="{kind}">{content}</text>'


def arrow(path: str) -> str:
    """A line with a head at its end."""
    return f'<path d="{path}" class="arrow" marker-end="url(#head)"/>'


def stop(index: int, content: Stop) -> list[str]:
    """A box, and the arrow to the next one."""
    x, centre, y = left(index), middle(index), TOP + BOX_HEIGHT // 2
    first = y + 5 - 8 * (len(content.lines) - 1)
    parts = [f'<rect x="{x}" y="{TOP}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6" class="box"/>']
    parts += [text(centre, first + 16 * row, line, "name") for row, line in enumerate(content.lines)]
    if content.verb:
        end = x + BOX_WIDTH
        parts += [
            arrow(f"M {end + 3} {y} H {end + GAP - 5}"),
            text(end + GAP // 2, y - 8, content.verb, "verb"),
        ]
    return parts


def extras() -> list[str]:
    """What leads past the boxes: convert, set-budget, and latency without an engine."""
    bottom = TOP + BOX_HEIGHT
    file, report, checkpoint = middle(3), middle(5), middle(1)
    return [
        arrow(f"M {file - 26} {TOP - 3} C {file - 44} {TOP - 34}, {file + 44} {TOP - 34}, {file + 26} {TOP - 5}"),
        text(file, TOP - 32, "set-budget", "verb"),
        arrow(f"M {file} {bottom + 3} V {bottom + 26} H {report} V {bottom + 6}"),
        text((file + report) // 2, bottom + 20, "latency, in ONNX Runtime", "note"),
        arrow(f"M {middle(0) + 46} {bottom + 26} H {checkpoint} V {bottom + 6}"),
        text(middle(0), bottom + 30, "authors' .pth", "name"),
        text((middle(0) + 46 + checkpoint) // 2, bottom + 20, "convert", "verb"),
    ]


def span(first: int, last: int, content: str) -> list[str]:
    """A line below some boxes, with what it says about them."""
    y, start, end = 160, left(first), left(last) + BOX_WIDTH
    return [
        f'<path d="M {start} {y} H {end} M {start} {y - 5} V {y} M {end} {y - 5} V {y}" class="span"/>',
        text((start + end) // 2, y + 19, content, "note"),
    ]


def picture() -> str:
    """The whole SVG."""
    parts = [part for index, content in enumerate(STOPS) for part in stop(index, content)]
    parts += extras()
    parts += span(0, 2, "a machine with PyTorch, no GPU needed")
    parts += span(3, 5, "the device: numpy, click, rich, onnx and the runtime; no PyTorch")
    body = "\n  ".join(parts)
    head = '<path d="M 0 0 L 8 4 L 0 8 z" class="head"/>'
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT - 20}" role="img">
  <title>From a checkpoint to a latency report</title>
  <style>{STYLE}
  </style>
  <defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto" \
markerUnits="userSpaceOnUse">{head}</marker></defs>
  {body}
</svg>
"""


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(picture(), encoding="utf-8")

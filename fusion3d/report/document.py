"""The page around the sections: head, style, contents. It asks for nothing from any network, and its policy forbids it to."""

from __future__ import annotations

from collections.abc import Sequence

from fusion3d.report.markup import Section, text

SIMULATED = "Simulated data: these figures show that the mechanism works, not how useful it is on real ground."
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_STYLE = """
:root { --ink: #1c2733; --soft: #556270; --line: #d8dde3; --paper: #ffffff; --ground: #f4f6f8; --accent: #0b5c8a; }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto,
  "Noto Sans", "Liberation Sans", sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 28px 30px 60px; background: var(--paper); }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 4px; }
h2 { font-size: 1.35rem; margin: 48px 0 10px; padding-top: 14px; border-top: 2px solid var(--line); }
p { margin: 8px 0 12px; max-width: 80ch; }
.subtitle { color: var(--soft); margin: 0 0 16px; }
.banner { background: #fff3d6; border: 1px solid #d9a400; border-left-width: 8px; border-radius: 4px; padding: 12px 16px;
  margin: 16px 0; font-weight: 600; max-width: none; }
nav { border: 1px solid var(--line); border-radius: 6px; padding: 10px 18px; margin: 18px 0; }
nav ol { margin: 0; padding-left: 22px; columns: 3; }
nav a { color: var(--accent); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 12px; margin: 16px 0; }
.card { border: 1px solid var(--line); border-radius: 6px; padding: 12px 14px; }
.card .value { font-size: 1.55rem; font-weight: 650; line-height: 1.2; font-variant-numeric: tabular-nums; }
.card .label { margin-top: 2px; }
.aside { color: var(--soft); font-size: 0.86em; }
figure { margin: 16px 0 20px; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
figcaption { color: var(--soft); font-size: 0.92rem; margin-top: 6px; }
.wide { overflow-x: auto; margin: 14px 0 18px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.94rem; min-width: 40%; }
caption { text-align: left; font-weight: 600; padding-bottom: 6px; }
th, td { padding: 5px 12px; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th { border-bottom: 2px solid var(--soft); font-weight: 600; white-space: nowrap; }
th.word, td.word { text-align: left; }
td:not(.word) { white-space: nowrap; }
.missing { background: var(--ground); border-left: 4px solid #8a94a0; padding: 9px 14px; max-width: none; }
.damaged { background: #fdecea; border-left: 4px solid #b3261e; padding: 9px 14px; max-width: none; overflow-wrap: anywhere; }
.note { color: var(--soft); font-size: 0.94rem; }
code, pre { font: 0.88em/1.45 ui-monospace, "DejaVu Sans Mono", "Liberation Mono", Menlo, monospace; }
code { background: #e9edf1; padding: 1px 5px; border-radius: 3px; overflow-wrap: anywhere; }
pre { background: var(--ground); border: 1px solid var(--line); padding: 12px; overflow-x: auto; margin: 8px 0; }
details { margin: 12px 0; }
summary { cursor: pointer; font-weight: 600; color: var(--accent); }
@media (max-width: 760px) { nav ol { columns: 1; } main { padding: 16px; } }
@media print {
  body { background: white; font-size: 11pt; } main { max-width: none; padding: 0; } nav { display: none; }
  h2 { break-after: avoid; } figure, tr, .card { break-inside: avoid; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
"""


def document(title: str, subtitle: str, sections: Sequence[Section], *, simulated: bool) -> str:
    """The whole page."""
    banner = f'<p class="banner" id="simulated" role="note">{text(SIMULATED)}</p>' if simulated else ""
    contents = "".join(f'<li><a href="#{text(section.id)}">{text(section.title)}</a></li>' for section in sections)
    parts = "\n".join(
        f'<section id="{text(section.id)}">\n<h2>{text(section.title)}</h2>\n{section.body}\n</section>' for section in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n'
        f'<h1>{text(title)}</h1>\n<p class="subtitle">{text(subtitle)}</p>\n{banner}\n'
        f'<nav aria-label="Contents"><ol>{contents}</ol></nav>\n{parts}\n</main>\n</body>\n</html>\n'
    )

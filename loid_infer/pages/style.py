"""How pages look: one sheet for paper, daylight and night. It knows classes, not what is in them."""

from __future__ import annotations

from loid_infer.pages.markup import Content, Html, element

_SHEET = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf8; --card: #ffffff; --ink: #1d2129; --soft: #5c6370; --faint: #8b919c; --line: #e3e1dc;
  --grid: #ecebe7; --blue: #0b66a8; --orange: #c2500a; --green: #0a7d5a; --violet: #8a4f9e; --gray: #7d838e;
  --bad: #b3261e; --tint: #eef4f9;
  --shadow: 0 1px 2px rgb(30 35 45 / .05), 0 4px 16px rgb(30 35 45 / .04);
}
@media (prefers-color-scheme: dark) { :root {
  --paper: #14161a; --card: #1b1e24; --ink: #e6e8ec; --soft: #a7adb8; --faint: #7f8692; --line: #2d323b;
  --grid: #282c34; --blue: #62b1ec; --orange: #f09a5b; --green: #4cc39b; --violet: #cf9be0; --gray: #9298a3;
  --bad: #f28b82; --tint: #1f2a36; --shadow: none;
} }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.6 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", "Noto Sans", "Liberation Sans", Arial, sans-serif; }
main, header.top, footer { max-width: 1000px; margin: 0 auto; padding: 0 24px; }
header.top { padding-top: 56px; }
.eyebrow { color: var(--blue); font-weight: 600; font-size: 13px; letter-spacing: .08em; text-transform: uppercase;
  margin: 0; }
h1 { font-size: 40px; line-height: 1.15; letter-spacing: -.02em; margin: 6px 0 10px; overflow-wrap: anywhere; }
h2 { font-size: 26px; line-height: 1.25; letter-spacing: -.012em; margin: 64px 0 6px; overflow-wrap: anywhere; }
h3 { font-size: 17px; line-height: 1.35; margin: 0 0 2px; overflow-wrap: anywhere; }
p { margin: 0 0 12px; }
.lead { color: var(--soft); font-size: 18px; max-width: 46em; }
.soft { color: var(--soft); }
nav { display: flex; flex-wrap: wrap; gap: 6px 8px; margin: 18px 0 0; }
nav a { color: var(--soft); text-decoration: none; font-size: 14px; border: 1px solid var(--line);
  border-radius: 99px; padding: 2px 12px; background: var(--card); overflow-wrap: anywhere; }
nav a:hover { color: var(--blue); border-color: var(--blue); }
a { color: var(--blue); }
code { font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; background: var(--tint);
  border-radius: 5px; padding: 2px 6px; overflow-wrap: anywhere; }
figure { margin: 16px 0 0; background: var(--card); border: 1px solid var(--line); border-radius: 14px;
  padding: 20px 22px 16px; box-shadow: var(--shadow); min-width: 0; }
figcaption { color: var(--soft); font-size: 14px; line-height: 1.5; margin: 10px 0 0; max-width: 58em; }
figure > .sub { color: var(--soft); font-size: 14px; margin: 0 0 10px; }
.pair { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0 16px; align-items: stretch; }
.wide { overflow-x: auto; }
.wide > svg { min-width: 640px; }
.stack > :last-child { flex: 1; }
.stack { display: flex; flex-direction: column; min-width: 0; }
.pair .wide > svg { min-width: 290px; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-size: 13px; fill: var(--ink); font-variant-numeric: tabular-nums; }
svg .faint { fill: var(--soft); } svg .small { font-size: 12px; } svg .bold { font-weight: 600; }
svg .end { text-anchor: end; } svg .middle { text-anchor: middle; }
svg .grid { stroke: var(--grid); } svg .axis { stroke: var(--faint); } svg .dashed { stroke-dasharray: 5 4; }
svg .blue { --c: var(--blue); } svg .orange { --c: var(--orange); } svg .green { --c: var(--green); }
svg .violet { --c: var(--violet); } svg .gray { --c: var(--gray); }
svg .stroke { stroke: var(--c); fill: none; } svg .fill { fill: var(--c); }
svg .hollow { stroke: var(--c); stroke-width: 2; fill: var(--card); } svg .light { opacity: .38; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); gap: 16px; margin: 28px 0 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 18px 20px;
  box-shadow: var(--shadow); min-width: 0; }
.card h3 a { color: inherit; text-decoration: none; } .card h3 a:hover { color: var(--blue); }
.card .count { color: var(--soft); font-size: 14px; margin: 0 0 10px; }
.big { font-size: 34px; line-height: 1.1; font-weight: 650; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; margin: 0; }
.big small { font-size: 14px; font-weight: 400; color: var(--soft); letter-spacing: 0; }
.card p.against { font-size: 14px; color: var(--soft); margin: 4px 0 8px; font-variant-numeric: tabular-nums; }
.verdict { font-size: 15px; line-height: 1.45; margin: 0 0 12px; padding-left: 12px;
  border-left: 3px solid var(--gray); }
.verdict.good { border-color: var(--green); } .verdict.bad { border-color: var(--bad); }
.tag { display: inline-block; font-size: 12px; line-height: 1.6; border-radius: 99px; padding: 0 9px;
  margin-left: 8px; border: 1px solid; color: var(--orange); vertical-align: 2px; font-weight: 500; }
td .bad { color: var(--bad); }
.missing ul { margin: 4px 0 2px; padding-left: 18px; }
.missing { color: var(--soft); font-size: 14px; border: 1px dashed var(--line); border-radius: 10px;
  padding: 8px 14px; margin: 16px 0 0; }
.warning { border: 1px solid var(--orange); border-radius: 10px; padding: 10px 14px; margin: 16px 0 0;
  font-size: 15px; overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 13px; color: var(--soft); margin: 4px 0 8px;
  padding: 0; list-style: none; }
.legend svg { display: inline-block; width: 16px; height: 16px; vertical-align: -3px; margin-right: 6px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 500; color: var(--soft); font-size: 13px; border-bottom: 1px solid var(--line); }
th, td { padding: 6px 16px 6px 0; vertical-align: top; } td { border-bottom: 1px solid var(--grid); }
tr:last-child td { border-bottom: 0; } th.figure, td.figure { text-align: right; white-space: nowrap; }
th:last-child, td:last-child { padding-right: 0; }
td .bar { height: 6px; border-radius: 3px; background: var(--grid); margin-top: 5px; min-width: 84px;
  overflow: hidden; }
td .bar i { display: block; height: 100%; border-radius: 3px; background: var(--blue); }
td small { color: var(--soft); font-size: 12.5px; }
table.heat { width: auto; min-width: 40%; } table.heat td { border: 3px solid var(--card); text-align: center;
  padding: 14px 18px; border-radius: 8px; }
table.heat th { border: 0; vertical-align: middle; padding: 4px 14px 4px 0; }
table.heat thead th { text-align: center; padding: 4px 8px; }
details { margin: 12px 0 0; font-size: 14px; } summary { cursor: pointer; color: var(--soft); }
  details[open] summary { margin-bottom: 8px; }
footer { color: var(--soft); font-size: 14px; padding-top: 72px; padding-bottom: 56px; }
@media (max-width: 760px) { .pair { grid-template-columns: minmax(0, 1fr); } h1 { font-size: 31px; }
  header.top { padding-top: 32px; }
  main, header.top, footer { padding-left: 16px; padding-right: 16px; } figure { padding: 16px 14px 12px; } }
@media print { nav { display: none; } figure, .card { break-inside: avoid; box-shadow: none; }
  body { background: #fff; } }
"""


def document(title: str, *body: Content) -> bytes:
    """A whole page. The browser is told to load nothing and run nothing, whatever the page holds."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    head = element(
        "head",
        element("meta", at={"charset": "utf-8"}),
        element("meta", at={"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        element("meta", at={"http-equiv": "Content-Security-Policy", "content": policy}),
        element("title", title),
        element("style", Html(_SHEET)),
    )
    page = element("html", head, element("body", *body), at={"lang": "en"})
    return f"<!doctype html>\n{page.text}\n".encode()

"""The page's style sheet: system fonts, light and dark, no external resource. Figures take its colour variables."""

CSS = """
:root{--ground:#fff;--panel:#f6f7f9;--ink:#1b1f24;--muted:#5b6470;--rule:#dde1e6;--link:#1d4ed8;
--good:#166534;--good-bg:#dcfce7;--bad:#991b1b;--bad-bg:#fee2e2;--unclear:#854d0e;--unclear-bg:#fef3c7;
--series-1:#a21caf;--series-2:#64707d;--series-3:#2563eb;--series-4:#c2410c}
@media (prefers-color-scheme:dark){:root{--ground:#14171b;--panel:#1d2127;--ink:#e7eaee;--muted:#9ba5b1;--rule:#343a43;
--link:#8ab4ff;--good:#86efac;--good-bg:#143323;--bad:#fca5a5;--bad-bg:#3f1a1d;--unclear:#fcd34d;--unclear-bg:#3a2d0d;
--series-1:#e879f9;--series-2:#a3adb9;--series-3:#6ea8fe;--series-4:#fb923c}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--ground);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1080px;margin:0 auto;padding:24px 20px 64px}
h1{font-size:1.8rem;line-height:1.2;margin:.4em 0}
h2{font-size:1.3rem;line-height:1.25;margin:0 0 .5em}
h3{font-size:1.05rem;margin:1.4em 0 .4em}
p{max-width:72ch;overflow-wrap:anywhere}
a{color:var(--link)}
section{margin-top:40px;padding-top:24px;border-top:1px solid var(--rule)}
nav{display:flex;flex-wrap:wrap;gap:4px 18px;margin-top:24px;font-size:.9rem}
.lead{color:var(--muted);margin-top:0}
.muted,.ci,.facts,figcaption,.small,.label,.notes{color:var(--muted)}
.ci,.small,.facts,figcaption,.notes{font-size:.82rem}
.ci{display:block;white-space:nowrap}
.warning{border-left:4px solid var(--bad);background:var(--bad-bg);padding:10px 14px;max-width:none}
.missing{border-left:4px solid var(--unclear);background:var(--panel);padding:10px 14px}
.overlap{margin:18px 0}
.overlap p{margin:.3em 0}
.step+h2{margin-top:1.1em}
.whole{white-space:nowrap}
.part{display:block;min-width:9.5em;font-size:.78rem;color:var(--muted)}
.pill{display:inline-block;border-radius:999px;padding:1px 9px;font-size:.78rem;font-weight:500;line-height:1.5}
.good{color:var(--good);background:var(--good-bg)}
.bad{color:var(--bad);background:var(--bad-bg)}
.unclear{color:var(--unclear);background:var(--unclear-bg)}
.step{background:var(--panel);border-radius:10px;padding:12px 16px;margin:10px 0}
.step h3{margin:0 0 .4em;display:flex;flex-wrap:wrap;gap:4px 10px;align-items:center}
.step p{margin:0}
.verdicts{list-style:none;margin:0;padding:0;display:grid;grid-template-columns:repeat(auto-fill,minmax(185px,1fr));gap:10px}
.verdicts li{font-variant-numeric:tabular-nums}
.verdicts .what{display:block;font-size:.82rem;color:var(--muted);line-height:1.3}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(200px,1fr));gap:10px;margin-top:20px}
.cards>div{border:1px solid var(--rule);border-radius:10px;padding:10px 14px}
.label{font-size:.82rem;line-height:1.3}
.value{font-size:1.35rem;font-weight:600;font-variant-numeric:tabular-nums;line-height:1.35}
.value .ci{font-weight:400}
.value .muted{font-size:1rem;font-weight:400}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:16px;align-items:start}
.cell{min-width:0}
figure{margin:8px 0;max-width:470px}
figure svg{display:block;width:100%;height:auto}
figcaption{margin-top:2px}
.scroll{overflow-x:auto;margin:10px 0}
table{border-collapse:collapse;font-size:.9rem}
th,td{padding:6px 14px 6px 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--rule)}
th{font-weight:600}
thead th{vertical-align:bottom}
td.n,th.n{font-variant-numeric:tabular-nums;padding-left:6px}
tbody td:first-child{min-width:5.5em}
td .pill{margin-top:2px;white-space:nowrap}
.nested{font-size:.85rem}
.nested th{font-weight:400;color:var(--muted)}
.nested .nested tr:last-child>*{border-bottom:0}
.notes{margin:4px 0 12px;padding-left:1.4em}
sup{line-height:0;padding-left:1px}
details{margin:6px 0}
summary{cursor:pointer}
summary .title{font-weight:500}
pre,code{font:.82rem/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
pre{background:var(--panel);border-radius:8px;padding:12px;overflow-x:auto}
.articles{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:14px;align-items:start}
article{border:1px solid var(--rule);border-radius:10px;padding:4px 16px 12px;min-width:0}
article h3{margin-top:.7em;overflow-wrap:anywhere}
.top{padding-left:1.4em}
.top li{margin:8px 0;overflow-wrap:anywhere}
.top details{margin:0}
.facts{margin:0}
@media (max-width:560px){main{padding:12px 14px 48px}h1{font-size:1.45rem}.cards{grid-template-columns:1fr 1fr}
.value{font-size:1.15rem}.step{padding:10px 12px}section{margin-top:28px;padding-top:18px}
table{font-size:.84rem}th,td{padding-right:7px}
td .pill{white-space:normal;line-height:1.25;border-radius:9px}td.n,th.n{padding-left:3px}.ci{font-size:.76rem}
.verdicts{grid-template-columns:1fr;gap:7px}
.verdicts li{display:grid;grid-template-columns:1fr auto 7.2rem;gap:8px;align-items:center}
.verdicts .pill{justify-self:start;line-height:1.25;border-radius:9px}}
@media print{details>*{display:block}}
"""

"""From what a line made to what people read: report.json's content, the page, the model card, the terminal's table.

    findings     what a report is made from: frozen rows of numbers and texts
    summary      findings -> the content of report.json, on which all that follows rests
    differences  answers side by side, with the words in which they differ
    charts       numbers -> inline SVG
    curves       a training's steps -> inline SVG
    figures      numbers as people read them
    page, card   report -> HTML, Markdown
    table        report -> the lines a run ends with

Pure: no storage, no inference. `stages/report.py` gathers the findings and stores what comes out.
"""

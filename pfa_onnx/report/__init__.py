"""Results -> terminal text | JSON | Markdown | HTML; pure functions, nothing here prints or writes a file.

words (sentences) and tables (rows) say it once; text, markdown and html show it.
as_json is for programs; `steps.replay` reads it again.
"""

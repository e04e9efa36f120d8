"""Results -> terminal text | JSON | Markdown | HTML; pure functions, nothing here prints or opens a file.

    results -> words (sentences), tables (rows) -> text, markdown, html
    results -> as_json -> a file that `parse_recipe` reads again
"""

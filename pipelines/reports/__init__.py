"""What the HTML pages share: jinja2 templates, one style, charts without scripts, nothing fetched.

A room that has a page makes its *view* from its result, a pure function from data to what the page shows (its words, cells and series);
``templates/`` says how that looks. Everything in a view is escaped as it is drawn.
"""

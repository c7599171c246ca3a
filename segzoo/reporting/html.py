"""HTML pages rendered from the Jinja2 templates in ``templates/``."""

from __future__ import annotations


def render_template(name: str, **values: object) -> str:
    """Render a template to a page that needs no other file.

    Every value is HTML-escaped, and a template that uses a value it was not given raises ``jinja2.UndefinedError``.

    Args:
        name: file name in ``templates/``, such as ``pruning_report.html``.
        values: variables of the template.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("segzoo.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name).render(values)
